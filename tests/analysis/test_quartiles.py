"""Bands are the quantiles that their labels name: 5 % and 95 % of margins, quartiles of rates and of lambda."""

import numpy as np
import pandas as pd
import pytest
from report import synthetic

from expreg.kinds.network.summary import groups, margins

OF_MARGINS = (0.05, 0.5, 0.95)
QUARTILES = (0.25, 0.5, 0.75)


def test_margins_have_their_5_and_95_percent_quantiles():
    values = np.random.default_rng(0).lognormal(size=200)
    rows = pd.DataFrame(
        {"n": 4, "m": 8, "status": "converged", "E3": (values >= 1) * 1.0, "E3_margin": values, "E3_step": None}
    )
    [record] = margins.describe(4, groups.prepare(rows), "E3", None)
    assert [record[name] for name in ("low", "margin", "high")] == pytest.approx(np.quantile(values, OF_MARGINS))


@pytest.fixture(scope="module")
def made():
    return synthetic.run(n=(8, 16), replicates=12, resamples=1)


def test_the_smallest_eigenvalues_have_their_quartiles(made):
    cells, _, summary = made
    for group in summary["groups"]:
        own = cells[cells["data"] == group["group"]["data"]]
        assert group["spectrum"]
        for record in group["spectrum"]:
            values = own[own["n"] == record["n"]].groupby("replicate")["lambda_cts"].first()
            found = [record[name] for name in ("lambda_low", "lambda_cts", "lambda_high")]
            assert found == pytest.approx(np.quantile(values, QUARTILES))

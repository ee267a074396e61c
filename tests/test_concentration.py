"""The experiment without training: its rows against plain NumPy, and the laws of concentration (section B)."""

import numpy as np
import pandas as pd
import pytest
from oracles import empirical_ntk, infinite_ntk
from scipy import stats

import expreg

BASE = {
    "experiment": "concentration",
    "name": "test",
    "precision": "f64",
    "sweep": {"product": {"n": [4, 8], "m": [16, 64, 1024, 16384], "replicate": {"count": 40}}},
    "analysis": {"resamples": 50},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("expreg.core.page.page.write", lambda *arguments: None)
        yield expreg.run(BASE, {"data.kind": "orthonormal"}, out=tmp_path_factory.mktemp("run") / "run")


def test_rows_are_those_of_the_definitions(run):
    cells = run.cells[run.cells["replicate"] < 2]
    for cell in cells[cells["m"] < 16384].to_dict("records"):
        X, y, W, a = run.inputs(cell["cell"]).values()
        H, limit = empirical_ntk(W, X), infinite_ntk(X)
        found = [cell["lambda_0"], cell["lambda_max_0"], cell["frobenius_error"], cell["spectral_error"]]
        eigenvalues = np.linalg.eigvalsh(H)[[0, -1]]
        error = H - limit
        np.testing.assert_allclose(found, [*eigenvalues, np.linalg.norm(error), np.linalg.norm(error, 2)], rtol=1e-8)
        lam = np.linalg.eigvalsh(limit)[0]
        assert cell["E1"] == (np.linalg.norm(error) <= lam / 4)
        assert cell["E1s_margin"] == pytest.approx(lam / 4 / np.linalg.norm(error, 2), rel=1e-8)
        assert cell["E1m_margin"] == pytest.approx(eigenvalues[0] / (3 / 4 * lam), rel=1e-8)
        certificate = expreg.certify(X, y, W, a)
        assert cell["Ecert"] == certificate.holds
        assert cell["eta_certified"] == pytest.approx(certificate.eta, rel=1e-8)


def test_every_start_counts_and_none_is_trained(run):
    assert set(run.cells["status"]) == {"converged"}
    assert set(run.cells["steps"]) == {0}
    assert len(run.cells) == 2 * 4 * 40
    assert run.curves.empty
    assert "E5" not in run.cells or run.cells["E5"].isna().all()


def test_the_error_falls_like_the_root_of_the_width_and_its_median_lies_below_the_mean(run):
    """(B.12), (B.14): the mean square belongs to rare spikes, so the median is below its root at every width."""
    cells = run.cells.assign(share=run.cells["frobenius_error"] / run.cells["frobenius_expected"])
    medians = cells.groupby("m")["share"].median()
    assert (medians < 1).all()
    assert medians.is_monotonic_increasing  # the wider, the closer to normal
    wide = cells[cells["m"] == 16384]
    assert 0.3 < (wide["share"] ** 2).mean() < 1.5
    expected = np.sqrt(2 * wide["n"] * (np.exp(8) - np.exp(4)) / wide["m"])  # (B.13)
    np.testing.assert_allclose(wide["frobenius_expected"], expected, rtol=1e-10)


def test_frobenius_norm_bounds_spectral_norm_bounds_the_smallest_eigenvalue(run):
    margins = run.cells[["E1_margin", "E1s_margin"]]
    assert (margins["E1_margin"] <= margins["E1s_margin"] * (1 + 1e-9)).all()
    assert not (run.cells["E1"] & ~run.cells["E1s"]).any()
    assert not (run.cells["E1s"] & ~run.cells["E1m"]).any()
    assert run.cells["E1"].any()
    assert not run.cells["E1"].all()


def test_training_measures_the_same_start(run, tmp_path, monkeypatch):
    """The two experiments share every draw: a threshold run's columns at the start are these."""
    monkeypatch.setattr("expreg.core.page.page.write", lambda *arguments: None)
    change = {"experiment": "threshold", "training.max_steps": 1, "measure": ["E1", "Ecert"]}
    change |= {"sweep": {"product": {"n": [4], "m": [64, 1024], "replicate": {"count": 3}}}}
    trained = expreg.run(BASE | {"data": {"kind": "orthonormal"}}, change, out=tmp_path / "trained")
    both = pd.merge(trained.cells, run.cells, on=["n", "m", "replicate"], suffixes=("", "_start"))
    assert len(both) == 6
    for name in ("lambda_0", "frobenius_error", "E1_margin", "Ecert_margin", "radius", "movement_linearised"):
        np.testing.assert_allclose(both[name], both[f"{name}_start"], rtol=1e-9)


def test_shares_of_e1_are_those_of_plain_lognormal_sums(run):
    """Orthonormal points: H(0) is diagonal, independent means of p lognormals (B.13), here without the engine."""
    rng = np.random.default_rng(3)
    cells = run.cells[run.cells["n"] == 4]
    for m in (1024, 16384):
        found = int(cells[cells["m"] == m]["E1"].sum())
        means = np.exp(2 * rng.standard_normal((400, 4, m // 2), dtype=np.float32)).mean(axis=2, dtype=np.float64)
        share = (np.linalg.norm(means - np.e**2, axis=1) <= np.e**2 / 4).mean()
        low, high = stats.binom.ppf([1e-4, 1 - 1e-4], 40, share)
        assert low <= found <= high
        assert m == 1024 or 0.5 < share < 1

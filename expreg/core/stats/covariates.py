"""What the threshold depends on: log m* against log n, log lambda, log ||X||^2 and log ||y|| (D.16).

One interval-censored lognormal regression over all replicates, so that censored ones count. A column whose
effect the rows cannot tell from that of the columns before it is left out, and the reason is said in words.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from expreg.core.stats import laws

Floats = NDArray[np.float64]

# Exponents of the two sufficient widths in each quantity (D.16): spectral route (C.13), Frobenius route (C.12).
PREDICTED = {
    "log n": {"spectral": 0.0, "frobenius": 2.0},
    "log lambda": {"spectral": -1.5, "frobenius": -2.0},
    "log ||X||^2": {"spectral": 1.0, "frobenius": 0.0},
    "log ||y||": {"spectral": 1.0, "frobenius": 0.0},
}
# A column that the others reproduce to this accuracy (root mean square, natural log) says nothing of its own.
_NOTHING_OWN = 1e-3
_LEAST_REPLICATES = 10


def independent(columns: Mapping[str, Floats]) -> tuple[list[str], list[dict[str, str]]]:
    """Return the names of the columns that can be told apart, in order, and those left out with the reason.

    `columns`: one value per replicate each, nan where it is not recorded.
    """
    kept: list[str] = []
    left: list[dict[str, str]] = []
    for name, values in columns.items():
        why = _obstacle(name, values, {other: columns[other] for other in kept})
        if why is None:
            kept.append(name)
        else:
            left.append({"name": name, "why": why})
    return kept, left


def _obstacle(name: str, values: Floats, others: Mapping[str, Floats]) -> str | None:
    missing = int((~np.isfinite(values)).sum())
    if missing:
        return f"{name} is not recorded" + (f" for {missing} replicates." if missing < len(values) else ".")
    design = np.column_stack([np.ones_like(values), *others.values()])
    weights = np.linalg.lstsq(design, values, rcond=None)[0]
    if np.sqrt(np.mean((values - design @ weights) ** 2)) > _NOTHING_OWN:
        return None
    parts = [f"{w:.3g} {other}" for w, other in zip(weights[1:], others, strict=True) if abs(w) > _NOTHING_OWN]
    if not parts:
        return f"{name} is the same in all replicates."
    return f"{name} = {' + '.join(parts)} + constant in all replicates: its effect is contained in theirs."


def fit(
    columns: Mapping[str, Floats],
    low: Floats,
    high: Floats,
    *,
    offset: Floats,
    cluster: NDArray[np.int64],
    confidence: float,
) -> dict[str, Any]:
    """Regress log m* - offset on the columns, given that m* lies in (low, high] for each replicate (D.16).

    All arrays (S,): `columns` of logs, nan where not recorded; low 0 and high infinite where open; `offset`, log
    log(n / delta) with the log factor, else 0; `cluster`, equal for replicates that share their random draws.
    Coefficients have sandwich errors over clusters, which hold whatever the spread, and normal intervals.
    """
    kept, left = independent(columns)
    spread = None
    values = dict.fromkeys(kept)
    why_not = _why_not(kept, low, high)
    if why_not is None:
        with np.errstate(divide="ignore"):
            log_low, log_high = np.log(low) - offset, np.log(high) - offset
        design = np.column_stack([np.ones_like(low), *(columns[name] - columns[name].mean() for name in kept)])
        found = laws.lognormal(design, log_low, log_high, np.ones((1, len(low)))).parameters[0]
        errors = _errors(found, design, log_low, log_high, cluster)
        spread, values = found[-1], dict(zip(kept, zip(found[1:-1], errors, strict=True), strict=True))
    z = stats.norm.ppf((1.0 + confidence) / 2.0)
    return {
        "coefficients": [_coefficient(name, found, z) for name, found in values.items()],
        "left_out": left,
        "spread": spread,
        "replicates": len(low),
        "censored_below": int((low == 0.0).sum()),
        "censored_above": int(np.isinf(high).sum()),
        "usable": why_not is None,
        "why_not": why_not,
    }


def _why_not(kept: list[str], low: Floats, high: Floats) -> str | None:
    inside = int(((low > 0.0) & np.isfinite(high)).sum())
    if not kept:
        return "no quantity varies over the replicates"
    if inside < _LEAST_REPLICATES * (len(kept) + 1):
        return (
            f"{inside} replicates have their threshold inside the grid;"
            f" {len(kept)} coefficients ask for {_LEAST_REPLICATES * (len(kept) + 1)}"
        )
    return None


def _errors(law: Floats, design: Floats, log_low: Floats, log_high: Floats, cluster: NDArray[np.int64]) -> Floats:
    """Return the sandwich errors of the slopes, by the delta method from (beta / s, 1 / s)."""
    point, score, information = laws.lognormal_information(law, design, log_low, log_high)
    _, which = np.unique(cluster, return_inverse=True)
    summed = np.zeros((which.max() + 1, score.shape[1]))
    np.add.at(summed, which, score)
    bread = np.linalg.pinv(information, hermitian=True)
    covariance = bread @ (summed.T @ summed) @ bread
    gradient = np.column_stack([np.eye(len(point) - 1), -law[:-1]]) * law[-1]
    return np.asarray(np.sqrt(np.diag(gradient @ covariance @ gradient.T))[1:])


def _coefficient(name: str, found: tuple[float, float] | None, z: float) -> dict[str, Any]:
    value, error = found if found is not None else (np.nan, np.nan)
    numbers = {"value": value, "se": error, "low": value - z * error, "high": value + z * error}
    return {"name": name} | numbers | {"predicted": PREDICTED.get(name)}

"""What a row says of the events of (C.27): whether each holds, the first violation step, the margin."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from expreg import certificate, theory
from expreg.kinds.network import descent
from expreg.kinds.network.start import PRECISIONS, Problem
from expreg.types import Array, Row, Settings, Status

RESOLUTION = {"f32": 1e-4, "f64": 1e-12}
"""Where lambda is a smaller share of lambda_max(H^cts), rounding hides how lambda_min(H) compares to it (H.7)."""


def is_plain(settings: Settings) -> bool:
    """Return whether training is gradient descent with one step size, of which the theory speaks."""
    training = settings.get("training")  # there may be none at all: then nothing is said of it
    return training is None or bool(
        training["optimizer"]["name"] == "sgd" and training["step_size"]["schedule"] is None
    )


def _unknown(settings: Settings, eigenvalues: np.ndarray) -> set[str]:
    """Return the events that mean nothing in this cell: decided by rounding, about another algorithm, not proved."""
    resolved = eigenvalues[0] > RESOLUTION[settings["precision"]] * eigenvalues[-1]
    covered = settings["network"]["activation"] in certificate.COVERED
    return (
        (set() if resolved else {"E1m", "E3"})
        | (set() if is_plain(settings) else {"E0", "E4"})
        | (set() if covered else {"E2", "Ecert"})
    )


def margins_at_start(record: Mapping[str, Array], found: Problem) -> dict[str, float]:
    """Return allowed / measured of the events that need no training: they hold where this is at least 1 (C.27)."""
    lam = float(found.eigenvalues[0])
    return {
        "E1": _ratio(lam / 4, record["frobenius_error"]),
        "E1s": _ratio(lam / 4, record["spectral_error"]),
        "E1m": _ratio(record["lambda_0"], 3 / 4 * lam),
        "Ecert": float(record.get("certificate_margin", math.nan)),
    }


def margins_on_the_way(record: Mapping[str, Array], found: Problem, tolerance: float) -> dict[str, float]:
    """Return allowed / measured of the events of training (C.27)."""
    with np.errstate(over="ignore"):
        rate = float(np.exp(float(record["rate_margin"]) / 2))
    return {
        "E0": _ratio(2, float(record["eta_scaled"]) * float(record["lambda_max_0"])),
        "E2": _ratio(record.get("radius", math.nan), record["max_movement"]),
        "E3": _ratio(record["lambda_min_path"], float(found.eigenvalues[0]) / 2),
        "E4": rate,
        "E5": _ratio(tolerance, record["residual_final"]),
    }


def _ratio(allowed: Any, measured: Any) -> float:
    return float(allowed) / float(measured) if measured else math.inf


def violations_at_start(
    record: Mapping[str, Array], margins: Mapping[str, float], precision: str
) -> dict[str, int | None]:
    """Return 0 for the events that do not hold at the start, None for those that do."""
    slack = descent.EVENT_TOLERANCE[np.dtype(PRECISIONS[precision]).name]
    holds = {event: margins[event] * (1 + slack) >= 1 for event in ("E1", "E1s", "E1m")}
    holds["Ecert"] = bool(record.get("certified", False))
    return {event: None if held else 0 for event, held in holds.items()}


def violations_on_the_way(
    record: Mapping[str, Array], margins: Mapping[str, float], precision: str
) -> dict[str, int | None]:
    """Return the first violation step of each event of training, None where it holds.

    E5: training stops when ||r_t|| <= eps for the first time, so the budget T of a run that succeeds is that t.
    """
    # at 2 the error neither grows nor falls; which side of it a rounded product lies on means nothing
    stable = margins["E0"] * (1 - 4 * float(np.finfo(PRECISIONS[precision]).eps)) > 1
    first: dict[str, int | None] = {"E0": None if stable else 0}
    for event in ("E2", "E3", "E4"):
        step = int(record[f"{event}_step"])
        first[event] = None if step == descent.NEVER else step
    converged = int(record["status"]) == Status.converged
    return first | {"E5": None if converged else int(record["steps"])}


def columns(settings: Settings, found: Problem, margins: Mapping[str, float], first: Mapping[str, int | None]) -> Row:
    """Return of every measured event whether it holds, first violation step and margin; None if meaningless."""
    unknown, row = _unknown(settings, found.eigenvalues), Row()
    for event in settings["measure"]:
        known = event not in unknown
        row[event] = first[event] is None if known else None
        row[f"{event}_step"] = first[event] if known else None
        row[f"{event}_margin"] = _finite(margins[event]) if known else None
    return row


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def reach(record: Mapping[str, Array], found: Problem) -> Row:
    """Return the radii of the proof, the certificate and the lazy movement; None where they are undefined."""
    names = ("radius", "refined_movement", "eta_certified", "movement_linearised")
    if "radius" not in record:
        return dict.fromkeys((*names, "radius_frobenius"))
    scaled = float(found.eigenvalues[0]) / found.length**2
    frobenius = theory.radius_frobenius(scaled, len(found.y), float(record["largest"])) / found.length
    return {name: _finite(record.get(name, math.nan)) for name in names} | {"radius_frobenius": _finite(frobenius)}

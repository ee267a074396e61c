"""Train one exponential network per cell: the computation behind `threshold` and `convergence`."""

import json
import math
from functools import lru_cache

import numpy as np

from expreg import ntk, theory
from expreg.core.config.parts import once_for
from expreg.core.engine.curves import ended
from expreg.kinds.network import descent, events, kernel, native, start, steps
from expreg.types import PRECISIONS, Array, Cost, Row, Settings, Status

THEORY_DELTA = 0.1
"""The failure probability inside the weight bound of the step rule `theory` (C.1)."""


def _static_schedule(settings: Settings) -> tuple[str, tuple[tuple[str, float], ...]] | None:
    schedule = settings["training"]["step_size"]["schedule"]
    if schedule is None:
        return None
    parameters = {key: value for key, value in schedule.items() if key != "name" and value is not None}
    return schedule["name"], tuple(sorted(parameters.items()))


@once_for("training")
def _hyperparameters(settings: Settings) -> dict[str, float]:
    optimizer = settings["training"]["optimizer"]
    return {key: value for key, value in sorted(optimizer.items()) if key != "name" and value is not None}


def signature(settings: Settings, *, spread: bool = False) -> descent.Signature:
    """Return what is static in a cell; Gram space where it is exact and takes fewer flops (2n < 4d).

    Also where a kernel takes the steps on a GPU, which it does in Gram space only.

    XLA also computes the padding, so its programs are at most twice as wide as their networks, unless they are tiny;
    less where one network is spread over devices.
    """
    training, judged = settings["training"], events.judged(settings)
    shape = start.shape(settings, judged)
    linear = steps.OPTIMIZERS[training["optimizer"]["name"]].linear
    found = descent.Signature(
        **shape,
        form="gram" if linear and shape["n"] <= 2 * shape["d"] else "weight",
        optimizer=training["optimizer"]["name"],
        hyperparameters=tuple(_hyperparameters(settings)),
        schedule=_static_schedule(settings),
        events=tuple(name for name in judged if events.EVENTS[name].update is not None),
        measure_every=training["measure_every"],
        curve_points=training["curve"]["points"],
        curve_spacing=training["curve"]["spacing"],
    )
    if spread:
        return found._replace(neurons=start.spread(settings["network"]["m"] // found.branches))
    if native.covers(found):
        return found
    width = start.bucket(settings["network"]["m"], max(2, SMALLEST_ELEMENTS // found.n), coarse=0)
    found = found._replace(neurons=width // found.branches)
    in_gram = found._replace(form="gram")
    return in_gram if found.form == "weight" and kernel.covers(in_gram) else found


SMALLEST_ELEMENTS = 512
"""Least number of elements n x m of a program whose steps XLA takes."""


def _step_limit(settings: Settings) -> int:
    budget = settings["training"]["max_steps"]
    return budget["at_most"] if isinstance(budget, dict) else budget


def _tolerance(settings: Settings, found: start.Problem) -> float:
    training = settings["training"]
    return training["tolerance"] * (found.label_norm if training["relative"] else 1.0)


def _step_rule(settings: Settings, found: start.Problem) -> tuple[float, float, float]:
    """Return (factor, floor, use): eta_scaled = factor / max(floor, use lambda_max(H(0))) (A.7, B.28).

    Without H^cts the floor of `spectral` is 0; the other rules that need it are refused before (`check.problems`).
    """
    step, m, scale = settings["training"]["step_size"], settings["network"]["m"], settings["network"]["scale"]
    lowest, highest = found.extremes
    match step["rule"]:
        case "spectral":
            return step["factor"], highest or 0.0, 1.0
        case "spectral_cts":
            return step["factor"], highest or math.nan, 0.0
        case "theory":
            eta = theory.step_size(settings["data"]["n"], m, THEORY_DELTA, lowest, scale=scale)
            return step["factor"] * eta * scale**2 * m, 1.0, 0.0
        case _:
            return step["value"] * scale**2 * m, 1.0, 0.0


def prepare(settings: Settings) -> descent.Inputs:
    """Return the inputs of one cell's lane, NumPy arrays in the cell's precision."""
    found, training, real = start.problem(settings), settings["training"], PRECISIONS[settings["precision"]]
    factor, floor, use = _step_rule(settings, found)
    budget = training["max_steps"]
    return descent.Inputs(
        **start.arrays(settings, found),
        step_factor=real(factor),
        curvature_floor=real(floor),
        use_curvature=real(use),
        flow_time=real(budget["flow_time"] if isinstance(budget, dict) else 0.0),
        max_steps=np.int32(_step_limit(settings)),
        tolerance=real(_tolerance(settings, found)),
        divergence=real(training["divergence"]),
        hyperparameters=tuple(real(value) for value in _hyperparameters(settings).values()),
    )


def _linearised(facts: events.Facts, steps: np.ndarray) -> tuple[Array, int | None]:
    """Return the infinite-width prediction of the curve (B.21) and of the steps to tolerance (B.26)."""
    modes, eta_scaled = facts.problem.modes, float(facts.record["eta_scaled"])
    if modes is None or not events.is_plain(facts.settings) or not np.isfinite(eta_scaled):
        return None, None
    residual = facts.record["initial_residual"].astype(np.float64)
    needed = ntk.steps_to_tolerance(modes, residual, eta_scaled, facts.tolerance) if facts.tolerance else math.inf
    return ntk.predict(modes, residual, eta_scaled, steps), int(needed) if np.isfinite(needed) else None


MEASURED = ("eta", "eta_scaled", "residual_final", "max_movement")


def row(settings: Settings, record: dict[str, Array]) -> Row:
    """Return the columns of a finished cell with its curve as lists."""
    found, training = start.problem(settings), settings["training"]
    facts = events.Facts(settings, found, record, _tolerance(settings, found))
    status, curve = Status(int(record["status"])), ended(record, {"residual": record["residual_final"]})
    predicted, predicted_steps = _linearised(facts, curve["curve_step"])
    return {
        "status": status.name,
        "status_detail": _detail(status, record),
        "steps": int(record["steps"]),
        **start.row(facts),
        "optimizer": training["optimizer"]["name"],
        "step_rule": training["step_size"]["rule"],
        "schedule": (training["step_size"]["schedule"] or {}).get("name"),
        "max_steps": int(record["max_steps"]),
        "steps_linearised": predicted_steps,
        "tolerance": facts.tolerance,
        "residual_initial": float(np.linalg.norm(record["initial_residual"].astype(np.float64))),
        **{name: float(record[name]) for name in MEASURED},
        **events.carried(facts),
        **curve,
        "curve_linearised": predicted,
    }


def _detail(status: Status, record: dict[str, Array]) -> str:
    steps, size = int(record["steps"]), float(record["residual_final"])
    match status:
        case Status.diverged:
            return f"||r|| = {size:.3g} at step {steps}; try a smaller step_size.factor"
        case Status.nonfinite:
            return f"not finite at step {steps}; try a smaller step_size.factor"
        case Status.max_steps:
            return f"||r|| = {size:.3g} after the whole budget of {steps} steps"
        case _:
            return ""


@lru_cache(maxsize=512)
def _expected_steps(text: str) -> int:
    """Return the predicted steps to tolerance of replicate 0, the whole budget at the most."""
    settings = json.loads(text)
    found, training = start.problem(settings), settings["training"]
    tolerance, predicted = _tolerance(settings, found), float(_step_limit(settings))
    if found.modes is not None and tolerance:
        eta_scaled = 0.8 / found.modes.values[-1]
        predicted = min(ntk.steps_to_tolerance(found.modes, found.y, eta_scaled, tolerance), predicted)
    return int(predicted) + training["measure_every"]


def cost(settings: Settings, *, spread: bool = False) -> Cost:
    """Return expected steps (those that H^cts predicts for replicate 0), flops per step (A.11), bytes per lane."""
    static = signature(settings, spread=spread)
    elements = static.n * static.neurons * static.branches
    typical = dict(settings, replicate=0, network=dict(settings["network"], m=2), measure=[])
    steps = _expected_steps(json.dumps(typical, sort_keys=True))
    size = np.dtype(static.dtype).itemsize
    width = static.n if static.form == "gram" else static.d
    states = 2 + len(static.hyperparameters)
    held = states * width * static.neurons * static.branches + 3 * elements + 4 * static.n**2
    return Cost(float(steps), descent.flops(static), float(size * held))

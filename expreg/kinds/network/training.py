"""Train one exponential network per cell: the computation behind `threshold` and `convergence`."""

import json
from functools import lru_cache

import numpy as np

from expreg import certificate, ntk, theory
from expreg.kinds.network import descent, events
from expreg.kinds.network.start import BRANCHES, PRECISIONS, Problem, bucket, identity, problem
from expreg.types import Array, Cost, Row, Settings, Status

THEORY_DELTA = 0.1
"""The failure probability inside the weight bound of the step rule `theory` (C.1)."""


def _static_schedule(settings: Settings) -> tuple[str, tuple[tuple[str, float], ...]] | None:
    schedule = settings["training"]["step_size"]["schedule"]
    if schedule is None:
        return None
    parameters = {key: value for key, value in schedule.items() if key != "name" and value is not None}
    return schedule["name"], tuple(sorted(parameters.items()))


def _hyperparameters(settings: Settings) -> dict[str, float]:
    optimizer = settings["training"]["optimizer"]
    return {key: value for key, value in sorted(optimizer.items()) if key != "name" and value is not None}


def signature(settings: Settings) -> descent.Signature:
    """Return what is static in a cell; Gram space where it is exact and takes fewer flops (2n < 4d)."""
    training, network = settings["training"], settings["network"]
    n, d, branches = settings["data"]["n"], settings["data"]["d"], BRANCHES[network["init"]]
    linear = descent.OPTIMIZERS[training["optimizer"]["name"]].linear
    return descent.Signature(
        form="gram" if linear and n <= 2 * d else "weight",
        n=n,
        d=d,
        neurons=bucket(network["m"], n) // branches,
        branches=branches,
        activation=network["activation"],
        dtype=np.dtype(PRECISIONS[settings["precision"]]).name,
        optimizer=training["optimizer"]["name"],
        hyperparameters=tuple(_hyperparameters(settings)),
        schedule=_static_schedule(settings),
        kernel_path="E3" in settings["measure"],
        reach=bool({"E2", "Ecert"} & set(settings["measure"])) and network["activation"] in certificate.COVERED,
        measure_every=training["measure_every"],
        curve_points=training["curve"]["points"],
        curve_spacing=training["curve"]["spacing"],
    )


def _step_limit(settings: Settings) -> int:
    budget = settings["training"]["max_steps"]
    return budget["at_most"] if isinstance(budget, dict) else budget


def _tolerance(settings: Settings, y: np.ndarray) -> float:
    training = settings["training"]
    return training["tolerance"] * (float(np.linalg.norm(y)) if training["relative"] else 1.0)


def _step_rule(settings: Settings, found: Problem) -> tuple[float, float, float]:
    """Return (factor, floor, use): eta_scaled = factor / max(floor, use lambda_max(H(0))) (A.7, B.28)."""
    step, m, scale = settings["training"]["step_size"], settings["network"]["m"], settings["network"]["scale"]
    match step["rule"]:
        case "spectral":
            return step["factor"], found.eigenvalues[-1], 1.0
        case "spectral_cts":
            return step["factor"], found.eigenvalues[-1], 0.0
        case "theory":
            eta = theory.step_size(settings["data"]["n"], m, THEORY_DELTA, found.eigenvalues[0], scale=scale)
            return step["factor"] * eta * scale**2 * m, 1.0, 0.0
        case _:
            return step["value"] * scale**2 * m, 1.0, 0.0


def prepare(settings: Settings) -> descent.Inputs:
    """Return the inputs of one cell's lane, NumPy arrays in the cell's precision."""
    found, training, network = problem(settings), settings["training"], settings["network"]
    real = PRECISIONS[settings["precision"]]
    factor, floor, use = _step_rule(settings, found)
    budget = training["max_steps"]
    flow_time = budget["flow_time"] if isinstance(budget, dict) else 0.0
    return descent.Inputs(
        X=found.X.astype(real),
        y=found.y.astype(real),
        key=found.key,
        m=np.int32(network["m"]),
        scale=real(network["scale"]),
        step_factor=real(factor),
        curvature_floor=real(floor),
        use_curvature=real(use),
        flow_time=real(flow_time),
        max_steps=np.int32(_step_limit(settings)),
        tolerance=real(_tolerance(settings, found.y)),
        divergence=real(training["divergence"]),
        lambda_cts=real(found.eigenvalues[0]),
        gram_norm=real(found.gram_norm),
        hyperparameters=tuple(real(value) for value in _hyperparameters(settings).values()),
    )


def _linearised(settings: Settings, record: dict[str, Array], steps: np.ndarray) -> tuple[Array, int | None]:
    """Return the infinite-width prediction of the curve (B.21) and of the steps to tolerance (B.26)."""
    if not events.is_plain(settings):
        return None, None
    found = problem(settings)
    residual, eta_scaled = record["initial_residual"].astype(np.float64), float(record["eta_scaled"])
    if not np.isfinite(eta_scaled):
        return None, None
    needed = ntk.steps_to_tolerance(found.modes, residual, eta_scaled, _tolerance(settings, found.y))
    return ntk.predict(found.modes, residual, eta_scaled, steps), int(needed) if np.isfinite(needed) else None


def _events(settings: Settings, record: dict[str, Array], found: Problem) -> Row:
    """Return the columns of the measured events."""
    precision, at_start = settings["precision"], events.margins_at_start(record, found)
    margins = at_start | events.margins_on_the_way(record, found, _tolerance(settings, found.y))
    first = events.violations_at_start(record, margins, precision)
    return events.columns(settings, found, margins, first | events.violations_on_the_way(record, margins, precision))


def _curve(record: dict[str, Array]) -> tuple[np.ndarray, np.ndarray]:
    length = int(record["curve_length"])
    steps, residuals = record["curve_step"][:length].astype(np.int64), record["curve"][:length]
    last = int(record["steps"])
    if length and steps[-1] == last:
        return steps, residuals.astype(np.float64)
    return np.append(steps, last), np.append(residuals, record["residual_final"]).astype(np.float64)


def row(settings: Settings, record: dict[str, Array]) -> Row:
    """Return the columns of a finished cell with its curve as lists."""
    found, training = problem(settings), settings["training"]
    status = Status(int(record["status"]))
    steps, residuals = _curve(record)
    predicted, predicted_steps = _linearised(settings, record, steps)
    measured = ["eta", "eta_scaled", "lambda_0", "lambda_max_0", "frobenius_error", "spectral_error"]
    measured += ["residual_final", "max_movement"]
    return {
        "status": status.name,
        "status_detail": _detail(status, record),
        **identity(settings, found),
        "optimizer": training["optimizer"]["name"],
        "step_rule": training["step_size"]["rule"],
        "steps": int(record["steps"]),
        "max_steps": int(record["max_steps"]),
        "steps_linearised": predicted_steps,
        "tolerance": _tolerance(settings, found.y),
        "residual_initial": float(np.linalg.norm(record["initial_residual"].astype(np.float64))),
        **{name: float(record[name]) for name in measured},
        "lambda_min_path": float(record["lambda_min_path"]) if "E3" in settings["measure"] else None,
        **events.reach(record, found),
        **_events(settings, record, found),
        "curve_step": steps,
        "curve_residual": residuals,
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
    found, training = problem(settings), settings["training"]
    eta_scaled = 0.8 / found.eigenvalues[-1]
    predicted = ntk.steps_to_tolerance(found.modes, found.y, eta_scaled, _tolerance(settings, found.y))
    return int(min(predicted, _step_limit(settings))) + training["measure_every"]


def cost(settings: Settings) -> Cost:
    """Return expected steps (those that H^cts predicts for replicate 0), flops per step (A.11), bytes per lane."""
    static = signature(settings)
    elements = static.n * static.neurons * static.branches
    inner = static.n if static.form == "gram" else 2 * static.d
    typical = dict(settings, replicate=0, network=dict(settings["network"], m=2), measure=[])
    steps = _expected_steps(json.dumps(typical, sort_keys=True))
    size = np.dtype(static.dtype).itemsize
    width = static.n if static.form == "gram" else static.d
    states = 2 + len(static.hyperparameters)
    held = states * width * static.neurons * static.branches + 3 * elements + 4 * static.n**2
    return Cost(float(steps), elements * (2.0 * inner + EXPONENTIAL_FLOPS), float(size * held))


EXPONENTIAL_FLOPS = 40
"""What the elementwise work of a step (one expm1, a dozen products) costs beside the matrix product."""

"""Train one exponential network per cell: the computation behind `threshold` and `convergence`."""

import json
from functools import lru_cache
from typing import NamedTuple

import jax
import numpy as np

from expreg import data, descent, ntk, theory
from expreg.network import initialise
from expreg.types import Array, Cost, Experiment, Row, Settings, Status

PRECISIONS: dict[str, type[np.float32] | type[np.float64]] = {"f32": np.float32, "f64": np.float64}
BRANCHES = {"coupled": 2, "iid": 1}
SMALLEST_PROGRAM = 8192
"""Elements n x m below which a wider bucket costs less than compiling another program."""
THEORY_DELTA = 0.1
"""The failure probability inside the weight bound of the step rule `theory` (C.1)."""
RESOLUTION = {"f32": 1e-4, "f64": 1e-12}
"""Where lambda is a smaller share of lambda_max(H^cts), rounding hides how lambda_min(H) compares to it (H.7)."""


class Problem(NamedTuple):
    """The data of one replicate and the spectrum of its H^cts; shared by all widths."""

    X: np.ndarray  # (n, d) float64
    y: np.ndarray  # (n,) float64
    key: np.ndarray  # (2,) uint32, of the neuron stream
    modes: ntk.Modes  # of H^cts

    @property
    def eigenvalues(self) -> np.ndarray:
        """Return the eigenvalues of H^cts, ascending."""
        return self.modes.values


@jax.jit
def _keys(seed: Array, replicate: Array, n: Array, d: Array) -> Array:
    """Return independent key data for points, labels and neurons (A.14)."""
    key = jax.random.key(seed)
    for part in (replicate, n, d):
        key = jax.random.fold_in(key, part)
    return jax.random.key_data(jax.random.split(key, 3))


@lru_cache(maxsize=512)
def _problem(data_text: str, activation: str, seed: int, replicate: int) -> Problem:
    settings = json.loads(data_text)
    points, labels, neurons = np.asarray(_keys(seed, replicate, settings["n"], settings["d"]))
    X, y = data.make(settings, jax.random.wrap_key_data(points), jax.random.wrap_key_data(labels))
    return Problem(X, y, neurons, ntk.modes(ntk.infinite(X, activation=activation)))


def problem(settings: Settings) -> Problem:
    """Return the data set of a cell; cells that differ in anything but the data share it."""
    text = json.dumps(settings["data"], sort_keys=True)
    host = jax.local_devices(backend="cpu")[0]
    # the whole context is part of JAX's trace cache: set here, data compiles once for every caller
    with jax.enable_x64(True), jax.default_matmul_precision("highest"), jax.default_device(host):
        return _problem(text, settings["network"]["activation"], settings["seed"], settings["replicate"])


def _bucket(m: int, n: int) -> int:
    """Return the padded width of a cell's program: the next power of two, small ones merged."""
    return max(1 << (m - 1).bit_length(), SMALLEST_PROGRAM >> (n - 1).bit_length())


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
        neurons=_bucket(network["m"], n) // branches,
        branches=branches,
        activation=network["activation"],
        dtype=np.dtype(PRECISIONS[settings["precision"]]).name,
        optimizer=training["optimizer"]["name"],
        hyperparameters=tuple(_hyperparameters(settings)),
        schedule=_static_schedule(settings),
        kernel_path="E3" in settings["measure"],
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
        hyperparameters=tuple(real(value) for value in _hyperparameters(settings).values()),
    )


def inputs(settings: Settings) -> dict[str, Array]:
    """Return the arrays that the cell starts from: X (n, d), y (n,), W (d, m), a (m,)."""
    found, network = problem(settings), settings["network"]
    real = PRECISIONS[settings["precision"]]
    W, a = initialise(
        jax.random.wrap_key_data(jax.numpy.asarray(found.key)),
        network["m"],
        settings["data"]["d"],
        init=network["init"],
    )
    arrays = {"X": found.X, "y": found.y, "W": W, "a": a}
    return {name: np.asarray(value).astype(real) for name, value in arrays.items()}


def _is_plain(settings: Settings) -> bool:
    """Return whether training is gradient descent with one step size, of which the theory speaks."""
    training = settings["training"]
    return bool(training["optimizer"]["name"] == "sgd" and training["step_size"]["schedule"] is None)


def _unknown(settings: Settings, eigenvalues: np.ndarray) -> set[str]:
    """Return the events that mean nothing in this cell: decided by rounding, or about another algorithm."""
    resolved = eigenvalues[0] > RESOLUTION[settings["precision"]] * eigenvalues[-1]
    return (set() if resolved else {"E1m", "E3"}) | (set() if _is_plain(settings) else {"E0", "E4"})


def _events(settings: Settings, record: dict[str, Array], status: Status, eigenvalues: np.ndarray) -> Row:
    """Return the measured events of (C.27), each with its first violation step; None where one means nothing.

    E5: training stops when ||r_t|| <= eps for the first time, so the budget T of a run that succeeds is that t.
    """
    kind = np.finfo(PRECISIONS[settings["precision"]])
    slack, lam = descent.EVENT_TOLERANCE[kind.dtype.name], float(eigenvalues[0])
    at_start = {
        # at 2 the error neither grows nor falls; which side of it a rounded product lies on means nothing
        "E0": float(record["eta_scaled"]) * float(record["lambda_max_0"]) < 2 * (1 - 4 * float(kind.eps)),
        "E1": record["frobenius_error"] <= lam / 4 * (1 + slack),
        "E1s": record["spectral_error"] <= lam / 4 * (1 + slack),
        "E1m": record["lambda_0"] >= 3 * lam / 4 * (1 - slack),
    }
    first = {event: None if holds else 0 for event, holds in at_start.items()}
    for event in ("E3", "E4"):
        step = int(record[f"{event}_step"])
        first[event] = None if step == descent.NEVER else step
    first["E5"] = None if status is Status.converged else int(record["steps"])
    unknown, row = _unknown(settings, eigenvalues), Row()
    for event in settings["measure"]:
        verdict = (None, None) if event in unknown else (first[event] is None, first[event])
        row[event], row[f"{event}_step"] = verdict
    return row


def _linearised(settings: Settings, record: dict[str, Array], steps: np.ndarray) -> tuple[Array, int | None]:
    """Return the infinite-width prediction of the curve (B.21) and of the steps to tolerance (B.26)."""
    if not _is_plain(settings):
        return None, None
    found = problem(settings)
    residual, eta_scaled = record["initial_residual"].astype(np.float64), float(record["eta_scaled"])
    if not np.isfinite(eta_scaled):
        return None, None
    needed = ntk.steps_to_tolerance(found.modes, residual, eta_scaled, _tolerance(settings, found.y))
    return ntk.predict(found.modes, residual, eta_scaled, steps), int(needed) if np.isfinite(needed) else None


def _curve(record: dict[str, Array]) -> tuple[np.ndarray, np.ndarray]:
    length = int(record["curve_length"])
    steps, residuals = record["curve_step"][:length].astype(np.int64), record["curve"][:length]
    last = int(record["steps"])
    if length and steps[-1] == last:
        return steps, residuals.astype(np.float64)
    return np.append(steps, last), np.append(residuals, record["residual_final"]).astype(np.float64)


def row(settings: Settings, record: dict[str, Array]) -> Row:
    """Return the columns of a finished cell with its curve as lists."""
    found, network, training = problem(settings), settings["network"], settings["training"]
    status = Status(int(record["status"]))
    steps, residuals = _curve(record)
    predicted, predicted_steps = _linearised(settings, record, steps)
    measured = ["eta", "eta_scaled", "lambda_0", "lambda_max_0", "frobenius_error", "spectral_error"]
    measured += ["residual_final", "max_movement"]
    return {
        "status": status.name,
        "status_detail": _detail(status, record),
        "n": settings["data"]["n"],
        "d": settings["data"]["d"],
        "m": network["m"],
        "activation": network["activation"],
        "init": network["init"],
        "scale": float(network["scale"]),
        "data": settings["data"]["kind"],
        "labels": settings["data"]["labels"]["kind"],
        "optimizer": training["optimizer"]["name"],
        "step_rule": training["step_size"]["rule"],
        "steps": int(record["steps"]),
        "max_steps": int(record["max_steps"]),
        "steps_linearised": predicted_steps,
        "tolerance": _tolerance(settings, found.y),
        "lambda_cts": float(found.eigenvalues[0]),
        "lambda_max_cts": float(found.eigenvalues[-1]),
        "label_norm": float(np.linalg.norm(found.y)),
        "residual_initial": float(np.linalg.norm(record["initial_residual"].astype(np.float64))),
        **{name: float(record[name]) for name in measured},
        "lambda_min_path": float(record["lambda_min_path"]) if "E3" in settings["measure"] else None,
        **_events(settings, record, status, found.eigenvalues),
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


def experiment(name: str) -> Experiment:
    """Return the experiment that trains one network per cell, under the given name."""
    return Experiment(name, signature, descent.program, prepare, row, inputs, cost)

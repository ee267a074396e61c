"""Rules between the values of a config: each takes resolved blocks and yields (path, code, message).

A value that is still an expression satisfies every rule; the rule is asked again for each cell.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from expreg.core.config.problems import HEADS

Path = tuple[str | int, ...]
Found = Iterator[tuple[Path, str, str]]
Values = Mapping[str, Any]

EPSILON = {"f32": 2.0**-23, "f64": 2.0**-52}
SMALLEST = {"f32": 2.0**-126, "f64": 2.0**-1022}  # of the normal numbers: accelerators flush the others to 0
LARGEST = {"f32": 2.0**128 * (1 - 2.0**-24), "f64": float("inf")}
LARGEST_EXPONENT = {"f32": 88.72, "f64": 709.78}  # z with a finite e^z (E.34)
HEAD_TOKENS = 276
LARGEST_TOLERANCE = 0.1  # of ||F - y||, not divided by ||y||
FLOAT = {"f32": "float32", "f64": "float64"}
SKETCHED = ("auto", "newton", "gauss_newton", "pcg")  # solvers that can take a sketch
# How many images of 0, 1, ..., 9 scikit-learn bundles.
DIGITS_AVAILABLE = (178, 182, 177, 183, 181, 182, 181, 179, 174, 180)


def check_data(data: Values, precision: str) -> Found:
    """Yield what is wrong within `data`: dimensions, coherence, pairs, labels."""
    yield from _check_range_of_floats(data, ("data",), precision)
    kind = data["kind"]
    n, d = _number(data.get("n")), _number(data.get("d"))
    if kind == "orthonormal" and n and d and d < n:
        yield ("data", "d"), "E-RANGE", f"got {d}, orthonormal data need d >= n = {n}"
    if kind == "equiangular" and n and d and d != n:
        yield ("data", "d"), "E-RANGE", f"got {d}, equiangular data have d = n = {n}"
    if kind == "equiangular" and n and n > 1:
        coherence = _number(data["coherence"])
        if coherence is not None and coherence <= -1 / (n - 1):
            message = f"got {coherence}, expected a number > -1/(n-1) = {-1 / (n - 1):.6g} and < 1"
            yield ("data", "coherence"), "E-RANGE", message
    if kind == "near_duplicate" and n and n % 2:
        yield ("data", "n"), "E-RANGE", f"got {n}, near_duplicate data come in pairs: expected an even number"
    if kind == "sphere" and d == 1 and n and n > 2 and not data["allow_duplicates"]:
        message = f"got 1: of n = {n} points on a line of length 1 some are equal, so lambda is 0; expected d >= 2"
        yield ("data", "d"), "E-RANGE", f"{message}, or set allow_duplicates: true to study it"
    if kind == "near_duplicate" and d == 1:
        yield ("data", "d"), "E-RANGE", "got 1, an angle needs d >= 2"
    if kind == "digits" and n and n > (available := sum(DIGITS_AVAILABLE[c] for c in data["classes"])):
        yield ("data", "n"), "E-RANGE", f"got {n}, the two classes have {available} images"
    if data["labels"]["kind"] == "given" and kind not in ("digits", "file"):
        message = f"got 'given', but {kind} data bring no labels; expected sign or teacher"
        yield ("data", "labels", "kind"), "E-ENUM", message


def check_network(network: Values, precision: str) -> Found:
    """Yield what is wrong within `network`: an odd width with coupled initialisation, floats out of range."""
    yield from _check_range_of_floats(network, ("network",), precision)
    m = _number(network["m"])
    if network["init"] == "coupled" and m and m % 2:
        yield ("network", "m"), "E-RANGE", f"got {m}, init coupled pairs the neurons: expected an even number"


def check_training(training: Values, precision: str) -> Found:
    """Yield what is wrong within `training`: tolerance, step size, schedule, floats out of range."""
    yield from _check_range_of_floats(training, ("training",), precision)
    tolerance, bound = _number(training["tolerance"]), 32 * EPSILON[precision]
    if tolerance is not None and tolerance < bound:
        yield ("training", "tolerance"), "E-RANGE", _below(tolerance, bound, precision)
    if tolerance is not None and tolerance > LARGEST_TOLERANCE and training["relative"] is False:
        message = (
            f"got {tolerance:g}, expected a number > 0 and <= {LARGEST_TOLERANCE:g}: the theorem speaks of no larger"
            " eps; or set relative: true"
        )
        yield ("training", "tolerance"), "E-RANGE", message
    yield from _check_step_size(training["step_size"])


def _check_step_size(step_size: Values) -> Found:
    path = ("training", "step_size")
    fixed = step_size["rule"] == "fixed"
    if fixed and step_size["value"] is None:
        yield (*path, "value"), "E-MISSING", "required with rule fixed"
    if fixed and _number(step_size["factor"]) not in (None, 1.0):
        yield (*path, "factor"), "E-RANGE", f"got {step_size['factor']}, rule fixed has no factor; set value"
    if not fixed and step_size["value"] is not None:
        yield (
            (*path, "value"),
            "E-RANGE",
            f"rule {step_size['rule']} takes a factor; value is for rule fixed only",
        )
    schedule = step_size["schedule"] or {}
    if schedule.get("name") == "warmup_cosine_decay":
        warmup, decay = _number(schedule["warmup_steps"]), _number(schedule["decay_steps"])
        if warmup and decay and decay <= warmup:
            message = f"got {decay}, expected more than warmup_steps = {warmup}"
            yield (*path, "schedule", "decay_steps"), "E-RANGE", message


def check_problem(problem: Values, precision: str) -> Found:
    """Yield what is wrong within `problem`: where a start is stationary, floats out of range."""
    yield from _check_range_of_floats(problem, ("problem",), precision)
    if problem["start"] == "zero" and problem["activation"] in ("cosh", "sinh"):
        why = {"cosh": "x = 0 is stationary for cosh (E.39)", "sinh": "x = 0 solves the problem of sinh (E.38)"}
        yield ("problem", "start"), "E-RANGE", f"got 'zero', but {why[problem['activation']]}; use random"
    at = problem.get("layer"), problem.get("head")
    if problem["kind"] == "attention" and None not in map(_number, at) and at not in HEADS:
        known = ", ".join(map(str, HEADS))
        yield ("problem", "head"), "E-ENUM", f"got layer {at[0]}, head {at[1]}; bundled are {known}"
    if problem["start"] == "near" and problem["kind"] == "file":
        yield ("problem", "start"), "E-RANGE", "got 'near', but a file has no planted x; use random or zero"


def check_in_context(problem: Values, precision: str) -> Found:
    """Yield what is wrong within `problem` of in_context: exponentials that overflow, sinh, heads, tokens."""
    yield from _check_range_of_floats(problem, ("problem",), precision)
    radius, largest = _number(problem.get("radius")), math.sqrt(LARGEST_EXPONENT[precision] / 2)
    if radius and radius > largest:
        advice = "; use precision f64" if precision == "f32" else ""
        message = f"got R = {radius:g}: e^(2 R^2) overflows {FLOAT[precision]}, expected at most {largest:.4g}{advice}"
        yield ("problem", "radius"), "E-RANGE", message
    if problem["activation"] == "sinh" and problem["loss"] == "softmax":
        yield ("problem", "loss"), "E-RANGE", "got 'softmax', but with sinh it has no safe step (E.45); use rescaled"
    tokens, n = _number(problem["tokens"]), _number(problem["n"])
    if problem["activation"] == "sinh" and tokens:
        yield ("problem", "tokens"), "E-RANGE", f"got {tokens}, but alpha of sinh cancels in a part of a context; use 0"
    if problem["kind"] == "attention":
        yield from _check_head(problem, n, tokens)


def _check_head(problem: Values, n: Any, tokens: Any) -> Found:
    layer, head, token = (_number(problem[key]) for key in ("layer", "head", "token"))
    if None not in (layer, head) and (layer, head) not in HEADS:
        known = ", ".join(f"{one}/{other}" for one, other in HEADS)
        yield ("problem", "head"), "E-RANGE", f"got layer {layer}, head {head}, expected one of {known}"
    if token is not None and token >= HEAD_TOKENS:
        yield ("problem", "token"), "E-RANGE", f"got {token}, the text has {HEAD_TOKENS} tokens"
    if n and tokens is not None and n + tokens > HEAD_TOKENS:
        message = f"got {tokens} more than n = {n}, the text has {HEAD_TOKENS} tokens"
        yield ("problem", "tokens"), "E-RANGE", message


def check_solver(solver: Values, precision: str) -> Found:
    """Yield what is wrong within `solver`: a tolerance below the precision, a sketch that is not used."""
    yield from _check_range_of_floats(solver, ("solver",), precision)
    tolerance, bound = _number(solver["tolerance"]), 32 * EPSILON[precision]
    if tolerance is not None and tolerance < bound:
        yield ("solver", "tolerance"), "E-RANGE", _below(tolerance, bound, precision)
    if solver["sketch"] != "none" and solver["name"] not in SKETCHED:
        expected = ", ".join(SKETCHED)
        yield (
            ("solver", "sketch"),
            "E-RANGE",
            f"got '{solver['sketch']}', but {solver['name']} has none; use {expected}",
        )
    if solver["sketch"] == "none" and solver["sketch_size"] != "auto":
        yield ("solver", "sketch_size"), "E-RANGE", f"got {solver['sketch_size']}, but solver.sketch is none"


def _below(tolerance: float, bound: float, precision: str) -> str:
    advice = "; use precision f64" if precision == "f32" else ""
    return f"{tolerance:g} is below 32*eps of {FLOAT[precision]} ({bound:.1e}){advice}"


def _check_range_of_floats(values: Values, path: Path, precision: str) -> Found:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _check_range_of_floats(value, (*path, key), precision)
        elif isinstance(value, float) and 0 < abs(value) < SMALLEST[precision]:
            yield (*path, key), "E-RANGE", f"{value!r} is 0 in {FLOAT[precision]}"
        elif isinstance(value, float) and abs(value) > LARGEST[precision]:
            yield (*path, key), "E-RANGE", f"{value!r} is infinite in {FLOAT[precision]}"


def _number(value: Any) -> Any:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None

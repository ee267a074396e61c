"""The certificate in words, on the host: from the user's arrays to step size, radii, step counts and reasons."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from expreg.activation import ACTIVATIONS
from expreg.certificate.conditions import SLACK, Measured, covered, measure
from expreg.errors import InputError, Problem, refuse
from expreg.output import plain, table
from expreg.types import Array


@dataclass(frozen=True)
class Certificate:
    """What gradient descent W <- W - eta grad of 1/2 ||F(W, X) - y||^2 is proved to do from one start (C.26).

    If it `holds`, then for every step size up to `eta` and all t: ||w_r(t) - w_r(0)|| <= `radius` (one number per
    neuron, (m,); one for all if not `refined`), lambda_min(H(t)) >= 2/3 `lambda_0`, and ||r_t||^2 falls by `rate` or
    better per step of `eta`. If not, eta = 0, rate = 1, radius = nan; that proves nothing about the training.
    `reasons` says what holds or fails, `margins` is allowed / needed of each condition, `eta_limits` the bounds that
    `eta` is the smallest of, `decrease` is 1 - rate without its rounding.
    """

    holds: bool
    eta: float
    decrease: float
    radius: Any
    reasons: tuple[str, ...]
    lambda_0: float
    lambda_max_0: float
    residual: float
    margins: dict[str, float]
    eta_limits: dict[str, float]
    refined: bool

    @property
    def rate(self) -> float:
        """Return the guaranteed factor of ||r||^2 per step of `eta`, 1 - m eta kappa^2 lambda / 2 (C.26)."""
        return 1 - self.decrease

    def steps(self, eps: float, eta: float | None = None) -> float:
        """Return after how many steps of `eta`, the largest by default, ||r|| <= eps is sure; inf if it is not.

        Smallest t with rate^t ||r_0||^2 <= eps^2; (C.17) is an upper bound on it. Raises ValueError where eps <= 0 or
        eta is not a certified step size.
        """
        if not eps > 0:
            raise ValueError(f"eps: got {eps}, expected > 0")
        if eta is not None and not 0 < eta <= self.eta:
            raise ValueError(f"eta: got {eta}, expected 0 < eta <= {self.eta:.6g}, the largest certified step size")
        if self.residual <= eps:
            return 0
        if not self.decrease:
            return math.inf
        decrease = self.decrease * (1.0 if eta is None else eta / self.eta)
        return math.ceil(2 * math.log(self.residual / eps) / -math.log1p(-decrease))

    def __repr__(self) -> str:
        """Return one line: whether it holds, up to which step size, at which rate."""
        holds = "holds" if self.holds else "does not hold"
        return f"Certificate({holds}, eta {self.eta:.6g}, rate {self.rate:.6g}, lambda_0 {self.lambda_0:.6g})"

    def _repr_html_(self) -> str:
        """Return a table of its numbers and reasons, for notebooks."""
        return table({**self.summary(), "reasons": "; ".join(self.reasons)})

    def summary(self) -> dict[str, Any]:
        """Return a JSON-able dict: of the radii the largest, and None for numbers that are not finite."""
        names = ("holds", "refined", "eta", "rate", "decrease", "lambda_0", "lambda_max_0", "residual", "radius")
        found = {name: getattr(self, name) for name in (*names, "margins", "eta_limits", "reasons")}
        return dict(plain(found | {"radius": np.max(self.radius)}))


EQUAL = 1e-6
"""Relative distance below which two points are called equal in a sentence."""

LIMITS = {
    "curvature": "the curvature lambda_max(H) within the radius",
    "second order": "the second-order part of a step",
    "first step": "how far one step moves a pre-activation",
}


def certify(
    X: Any, y: Any, W: Any, a: Any, *, activation: str = "exp", scale: float = 1.0, refined: bool = True
) -> Certificate:
    """Certify gradient descent from one network (C.20)-(C.26), in float64 on the host.

    Args:
        X: points (n, d), of any norms.
        y: targets (n,).
        W: weights at the start (d, m), one neuron per column.
        a: output signs (m,), +1 or -1.
        activation: exp, cosh or sinh.
        scale: kappa.
        refined: a radius for each neuron (C.22)-(C.25), which holds whenever the basic certificate (C.20) does.

    Raises:
        InputError: shapes that do not fit, numbers that are not finite, signs that are not +-1, or relu.

    """
    X, y, W, a = (np.asarray(array, dtype=np.float64) for array in (X, y, W, a))
    problems = list(_problems(X, y, W, a, activation, scale))
    refuse(problems)
    with np.errstate(over="ignore", invalid="ignore"):
        Z = X @ W
        residual = scale * _outputs(ACTIVATIONS[activation].value(Z), a) - y
    if not np.isfinite(residual).all():
        message = f"the output overflows: max |<w_r, x_i>| is {np.abs(Z).max():.4g}"
        raise InputError(Problem("E-DATA", f"{message}, expected below 700", key="W"))
    found = measure(X, Z, residual, activation=activation, scale=scale, refined=refined)
    margins = {"movement": float(found.movement_margin)} | ({"kernel": float(found.kernel_margin)} if refined else {})
    return Certificate(
        holds=bool(found.holds),
        eta=float(found.eta),
        decrease=float(found.decrease),
        radius=found.radius if refined else float(found.radius),
        reasons=tuple(_holding(found) if found.holds else _failing(found, X, W, activation, refined)),
        lambda_0=float(found.lambda_0),
        lambda_max_0=float(found.lambda_max_0),
        residual=float(found.residual),
        margins=margins,
        eta_limits=dict(zip(LIMITS, map(float, found.eta_limits), strict=True)),
        refined=refined,
    )


def _problems(X: Array, y: Array, W: Array, a: Array, activation: str, scale: float) -> Iterator[Problem]:
    if activation not in covered():
        why = ": only where phi'' = phi does a radius bound how H changes" if activation in ACTIVATIONS else ""
        yield Problem("E-ENUM", f"got {activation!r}, expected one of {', '.join(covered())}{why}", key="activation")
    if not (math.isfinite(scale) and scale):
        yield Problem("E-RANGE", f"got {scale}, expected finite and not 0", key="scale")
    if X.ndim != 2 or W.ndim != 2 or 0 in X.shape + W.shape:
        yield Problem("E-SHAPE", f"got X {X.shape} and W {W.shape}, expected (points, d) and (d, neurons), none empty")
        return
    wanted = {"W": (W, (X.shape[1], W.shape[1])), "y": (y, X.shape[:1]), "a": (a, W.shape[1:])}
    for name, (array, shape) in wanted.items():
        if array.shape != shape:
            other = f"X {X.shape}" + (f" and W {W.shape}" if name == "a" else "")
            yield Problem("E-SHAPE", f"got shape {array.shape}, expected {shape} to match {other}", key=name)
    for name, array in {"X": X, "y": y, "W": W}.items():
        if not np.isfinite(array).all():
            yield Problem("E-DATA", f"{np.sum(~np.isfinite(array))} values are not finite", key=name)
    if (np.abs(a) != 1).any():
        yield Problem("E-DATA", f"got {a[np.abs(a) != 1].flat[0]}, expected every sign +1 or -1", key="a")


def _outputs(E: Array, a: Array) -> Array:
    """Return sum_r a_r E_ir. Sorted, so that equal neurons of opposite sign cancel exactly in any order (A.8)."""
    return np.sort(E[:, a > 0], axis=1).sum(axis=1) - np.sort(E[:, a < 0], axis=1).sum(axis=1)


def _holding(found: Measured) -> Iterator[str]:
    if found.residual == 0:
        yield "the residual is 0 at the start: nothing moves, at any step size"
        return
    largest = float(found.eta) * (1 - 1e-4)  # so that the rounded number is certified too
    yield f"every step size up to {largest:.5g} is certified; that step leaves {1 - found.decrease:.6g} of ||r||^2"
    yield f"no neuron moves further than {np.max(found.radius):.3g}, and lambda_min(H) stays above 2/3 of its start"
    yield f"the step size is bounded by {list(LIMITS.values())[int(np.argmin(found.eta_limits))]}"


def _failing(found: Measured, X: Array, W: Array, activation: str, refined: bool) -> Iterator[str]:
    lowest = f"lambda_min(H(0)) = {found.lambda_0:.3g} is 0 within rounding (lambda_max = {found.lambda_max_0:.3g})"
    remedy = "a wider network or a smaller residual at the start would help"
    if not found.resolved:
        yield f"{lowest}{_singular(X, W, activation)}"
    elif found.movement_margin < 1 + SLACK["float64"]:
        name, allowed = ("(C.22)", "1/e") if refined else ("(C.20)", "R e^-R")
        needed = f"(8/3) ||X|| ||r|| max D / (kappa m lambda) must be at most {allowed}"
        yield f"{name} fails by a factor {1 / found.movement_margin:.4g}: {needed} (neurons may move too far); {remedy}"
    elif found.kernel_margin < 1 + SLACK["float64"]:
        factor = f"fails by a factor {1 / found.kernel_margin:.4g}"
        yield f"(C.23) {factor}: within the radii lambda_min(H) may fall below 2/3 of its start; {remedy}"
    else:
        yield "the step size underflows: the derivatives are too large for float64"


def _singular(X: Array, W: Array, activation: str) -> str:
    """Return why H(0) is singular, if there is a simple reason: equal points (B.20), or too few neurons (C.16)."""
    for i, x in enumerate(X):
        if not x.any():
            return f": X[{i}] is 0"
        for sign in (1, -1) if ACTIVATIONS[activation].parity else (1,):
            near = np.flatnonzero(np.linalg.norm(X[:i] - sign * x, axis=1) <= EQUAL * np.linalg.norm(x))
            if len(near):
                return f": X[{i}] equals {'-' if sign < 0 else ''}X[{near[0]}]"
    rank = np.unique(W, axis=1).shape[1] * X.shape[1]
    return f": its rank is at most {rank} (distinct neurons times d) for {len(X)} points" if rank < len(X) else ""

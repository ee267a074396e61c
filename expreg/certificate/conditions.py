"""The certificate of one start as arrays: conditions, step size, rate and radii, for the device and the host.

From X, y, W(0), a alone, (C.20)-(C.26) give a step size at which, for all t: every neuron stays within
its radius (E2), lambda_min(H(t)) >= lambda/2 with lambda = 4/3 lambda_min(H(0)) (E3), and ||r_t||^2 falls at a
known rate (E4). Every function takes NumPy or JAX arrays, unbatched, and can be jitted and vmapped.

Where we differ from (C.20)-(C.26), stated for scale 1 and ||x_i|| <= 1 (the same theorem after two changes of
variables under which gradient descent keeps its trajectory, so other cases need no proof of their own):

1. scale kappa: as scale 1 with residual r / kappa and step size eta kappa^2 (A.6).
2. max ||x_i|| = q: as X / q and q W with step size eta q^2; hence H / q^2 and radii q R_r.
3. Derivatives are divided by e^s, s the largest <w_r, x_i> (exp) or |<w_r, x_i>|, the residual too; H by e^2s.
   Every condition is homogeneous in this, so no large pre-activation overflows (H.1).
4. Rounding counts against us: lambda_min(H(0)) is lowered by what an eigenvalue solver may add to it, and
   conditions must hold, and the step size is kept, with the slack of (C.27) to spare.
"""

import math
from functools import reduce
from typing import Any, NamedTuple

import numpy as np

from expreg import ntk, theory
from expreg.activation import ACTIVATIONS
from expreg.types import Array

SLACK = {"float32": 1e-3, "float64": 1e-9}
"""Relative reserve of every condition and of the step size (C.27)."""

ROUNDING_UNITS = 64
"""An eigenvalue of H may be off by (64 + n) machine epsilons of the largest: n by the solver, 64 by the entries."""


def covered() -> list[str]:
    """Return the activations with an envelope of phi' and phi'' that grows by at most e^R within R (C.8)."""
    return [name for name, activation in ACTIVATIONS.items() if activation.exponential]


class Spectra(NamedTuple):
    """The eigenvalues that the certificate is made from."""

    lambda_0: Array  # smallest of H(0)
    lambda_max_0: Array  # largest of H(0)
    points: Array  # largest of X X^T: ||X||^2


class Measured(NamedTuple):
    """What `measure` finds: scalars, but for the radius; without a certificate eta, decrease = 0, radius = nan."""

    holds: Array
    eta: Array  # the largest certified step size; every smaller one is certified too
    decrease: Array  # guaranteed share of ||r||^2 lost per step of eta, m eta kappa^2 lambda / 2
    radius: Array  # R_r of each column (k,); the basic certificate has one for all, a scalar
    lambda_0: Array  # as found, not lowered
    lambda_max_0: Array
    residual: Array  # ||f(0) - y||
    resolved: Array  # whether lambda_0 is above its own rounding error
    movement_margin: Array  # allowed / needed in (C.20), (C.22); 1 and above holds
    kernel_margin: Array  # the same of (C.23), within radii of at most 1; inf for the basic one: R is made to keep it
    eta_limits: Array  # the three bounds of (C.21), (C.25), (3,)


class _Start(NamedTuple):
    """The start in units of its own: scale 1, longest point 1, largest derivative about 1."""

    D: Array  # (n, k) envelope of |phi'| and |phi''|
    count: Array  # (k,) neurons that each column stands for
    m: Array
    resolved: Array  # whether lambda is above 0 for sure
    lam: Array  # lambda = 4/3 lambda_min(H(0)), lowered by rounding; without meaning if not resolved
    lambda_max: Array
    s_x: Array  # ||X||
    Y: Array  # ||f(0) - y||


class _Bounds(NamedTuple):
    radius: Array
    movement_margin: Array
    kernel_margin: Array
    eta_limits: Array


def lambert_w(x: Array) -> Array:
    """Return W_0(x), the solution w >= -1 of w e^w = x, for -1/e <= x <= 0, elementwise.

    A fixed number of Halley steps from the series at 0 and at the branch point -1/e, so that it can be jitted and
    vmapped. Smaller x count as -1/e.
    """
    xp = x.__array_namespace__()
    x = xp.maximum(x, 0 * x - math.exp(-1))
    p = xp.sqrt(xp.maximum(2 * (1 + math.e * x), 0 * x))
    terms = (769 / 17280, -43 / 540, 11 / 72, -1 / 3, 1.0, -1.0)
    branch = reduce(lambda total, term: total * p + term, terms, 0 * p)
    near = p < 0.01  # here the series is exact to rounding, and Halley's denominator is not
    w = xp.where(x < -0.25, branch, x * (1 - x * (1 - 1.5 * x)))
    for _ in range(4):
        safe = xp.where(near, 0 * w, w)
        growth = xp.exp(safe)
        error = safe * growth - x
        w = safe - error / (growth * (safe + 1) - (safe + 2) * error / (2 * (safe + 1)))
    return xp.where(near, branch, w)


def _derivatives(Z: Array, live: Array, activation: str) -> tuple[Array, Array, Array]:
    """Return (s, e^-s phi'(Z), e^-s envelope(Z)), s the largest exponent over the live columns.

    The envelope max(|phi|, |phi'|) bounds |phi'| and |phi''|: exp is its own, cosh and sinh have cosh (C.9). Columns
    that are not live get the lowest live number: beside their count of 0, it changes no sum and no maximum.
    """
    xp = Z.__array_namespace__()
    stable: Any = ACTIVATIONS[activation].stable
    u, v, s = stable(xp.where(live, Z, xp.min(xp.where(live, Z, math.inf * xp.ones_like(Z)))))
    return s, v, u if v is u else xp.maximum(abs(u), abs(v))


def _spectra(X: Array, derivative: Array, count: Array) -> Spectra:
    """Return the eigenvalues of H(0), (B.1), and of X X^T, from one call (see `ntk.extreme_eigenvalues`)."""
    xp = X.__array_namespace__()
    K = X @ X.T
    H = K * ((derivative * count) @ derivative.T) / xp.sum(count)
    low, high = ntk.extreme_eigenvalues(xp.stack([H, K]))
    return Spectra(low[0], high[0], high[1])


def _basic(start: _Start) -> _Bounds:
    """Return the basic certificate (C.20), (C.21): one radius, one bound on all derivatives."""
    D, count, m, _, lam, _, s_x, Y = start
    xp = D.__array_namespace__()
    h_bar = xp.max(D**2 @ count) / m
    R = xp.log1p(theory.ROOT_DROP * xp.sqrt(lam) / (s_x * xp.sqrt(h_bar)))
    M = xp.exp(R) * xp.max(D)
    needed = 8 / 3 * s_x * M * Y / (m * lam)
    limits = (1 / (m * M**2 * s_x**2), lam / (8 * M**3 * s_x**2 * math.sqrt(len(D)) * Y), 1 / (s_x * M * Y))
    return _Bounds(R, R / needed, math.inf * xp.ones_like(R), xp.stack(limits))


def _refined(start: _Start) -> _Bounds:
    """Return the refined certificate (C.22)-(C.25): a radius for each neuron."""
    D, count, m, _, lam, lambda_max, s_x, Y = start
    xp = D.__array_namespace__()
    peak = xp.max(D, axis=0)
    pull = 8 / 3 * s_x * Y / (m * lam) * peak
    R = -lambert_w(-xp.minimum(pull, math.exp(-1) + 0 * pull))
    growth = xp.exp(R)
    drop = s_x * xp.sqrt(xp.max(D**2 @ (count * xp.expm1(R) ** 2)) / m)
    allowed = theory.ROOT_DROP * xp.sqrt(lam)  # (1 - sqrt(2/3)) sqrt(lambda_min(H(0)))
    curvature = (xp.sqrt(lambda_max) + allowed) ** 2
    S3 = xp.sum(count * xp.sqrt(xp.sum(D**2, axis=0)) * peak**2 * growth**3)
    limits = (1 / (m * curvature), m * lam / (8 * s_x**2 * Y * S3), 1 / (s_x * Y * xp.max(peak * growth)))
    return _Bounds(R, math.exp(-1) / xp.max(pull), allowed / drop, xp.stack(limits))


def measure(
    X: Array,
    Z: Array,
    residual: Array,
    count: Array | None = None,
    *,
    activation: str = "exp",
    scale: Any = 1.0,
    refined: bool = True,
    spectra: Spectra | None = None,
) -> Measured:
    """Measure the certificate of a network at its start (C.20)-(C.26); unbatched, for NumPy or JAX arrays.

    Args:
        X: points (n, d).
        Z: pre-activations X W(0), (n, k).
        residual: f(0) - y, (n,).
        count: (k,) how many of the m = sum(count) neurons each column stands for, 1 by default: 2 for a coupled
            pair that is stored once, 0 for padding, whose numbers do not matter.
        activation: exp, cosh or sinh.
        scale: kappa, not 0.
        refined: a radius for each neuron (C.22)-(C.25); otherwise one radius (C.20), (C.21), which asks for more.
        spectra: the eigenvalues, where the caller's program has them already.

    float64 unless there is a reason: what float32 certifies holds too, but its slack costs about 1e-3 of the step
    size, and lambda_0 must be above 1e-5 lambda_max_0 to differ from 0.

    Raises:
        ValueError: an activation without certificate, one that is not its own second derivative.

    """
    if activation not in covered():
        raise ValueError(f"activation: got {activation!r}, the certificate covers {', '.join(covered())}")
    xp = Z.__array_namespace__()
    count = xp.ones_like(Z[0]) if count is None else xp.astype(count, Z.dtype)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):  # a residual of 0 divides: no bound
        s, derivative, envelope = _derivatives(Z, count > 0, activation)
        q = xp.sqrt(xp.max(xp.sum(X**2, axis=1)))
        q = xp.where(q > 0, q, 1 + 0 * q)
        output = abs(scale) * xp.exp(s)  # what outputs are divided by
        own = _spectra(X / q, derivative, count) if spectra is None else _convert(spectra, q, s)
        error = (ROUNDING_UNITS + len(X)) * float(xp.finfo(Z.dtype).eps) * own.lambda_max_0
        resolved = own.lambda_0 > error
        lam = xp.where(resolved, 4 / 3 * (own.lambda_0 - error), 1 + own.lambda_max_0)
        Y = ntk.norm(residual)
        sizes = (own.lambda_max_0, xp.sqrt(own.points), Y / output)
        start = _Start(envelope, count, xp.sum(count), resolved, lam, *sizes)
        found = spectra or _convert(own, 1 / q, -s)
        return _measured(start, (_refined if refined else _basic)(start), q, output, found, Y)


def _convert(spectra: Spectra, length: Array, exponent: Array) -> Spectra:
    """Return the eigenvalues for points divided by `length` and derivatives divided by e^exponent."""
    low, high, points = spectra
    factor = length.__array_namespace__().exp(-2 * exponent) / length**2
    return Spectra(low * factor, high * factor, points / length**2)


def _measured(start: _Start, bounds: _Bounds, length: Array, output: Array, spectra: Spectra, Y: Array) -> Measured:
    """Decide, and go back from the units of the start, lengths and outputs divided by these, to the caller's."""
    xp = start.D.__array_namespace__()
    slack = SLACK[str(start.D.dtype)]
    limits = bounds.eta_limits * (1 - slack)
    eta_limits = limits / length**2 / output / output  # a product could be out of range
    done = Y == 0  # nothing left to learn: nothing moves, whatever H is
    movement = xp.where(done, math.inf, xp.where(start.resolved, bounds.movement_margin, 0 * Y))
    kernel = xp.where(done, math.inf, xp.where(start.resolved, bounds.kernel_margin, 0 * Y))
    proved = start.resolved & (movement >= 1 + slack) & (kernel >= 1 + slack)
    holds = (done | proved) & (xp.min(eta_limits) > 0)
    return Measured(
        holds=holds,
        eta=xp.where(holds, xp.min(eta_limits), 0 * Y),
        decrease=xp.where(holds & start.resolved, start.m * xp.min(limits) * start.lam / 2, 0 * Y),
        radius=xp.where(holds, bounds.radius / length, math.nan + 0 * bounds.radius),
        lambda_0=spectra.lambda_0,
        lambda_max_0=spectra.lambda_max_0,
        residual=Y,
        resolved=start.resolved,
        movement_margin=movement,
        kernel_margin=kernel,
        eta_limits=eta_limits,
    )

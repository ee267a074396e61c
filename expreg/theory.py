"""What the theorem asks for: widths, radii, step sizes and iteration counts (section C), for exp.

Setting: ||x_i|| <= 1, coupled initialisation unless stated, `lam` = lambda_min(H^cts), `s_x` = ||X||
(spectral), `y_norm` = ||f(0) - y||. Statements are derived except where a docstring says
*reconstructed*: only the abstracts are quoted, so such a constant is an argument with a default, never
"the paper's constant". Closed forms take floats or NumPy arrays; widths are computed as logarithms, as they
reach 10^38 and beyond.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Number = Any  # a float or a NumPy array of floats

# lambda_min(H(W)) >= lam / 2 from lambda_min(H(W0)) >= 3/4 lam needs a drop of the square root of at most
# this (C.9).
ROOT_DROP = math.sqrt(3) / 2 - math.sqrt(1 / 2)

# Draws per neuron in the union bound of (C.1): a coupled pair shares one draw.
UNION_FACTOR = {"coupled": 1, "iid": 2}


# --- sizes at initialisation


def weight_bound(n: Number, m: Number, delta: Number, *, init: str = "coupled") -> Number:
    """Return B with max_{i,r} |<w_r(0), x_i>| <= B except with probability delta / 2 (C.1).

    sqrt(2 log(n m / delta)) for `coupled`, sqrt(2 log(2 n m / delta)) for `iid`.
    """
    return np.sqrt(2 * (np.log(n) + np.log(m) - np.log(delta) + math.log(UNION_FACTOR[init])))


def radius(lam: Number, s_x: Number, h_bar: Number) -> Number:
    """Return the movement radius R within which lambda_min(H(W)) >= lam / 2 (C.9), spectral form.

    R = log(1 + 0.15891 sqrt(lam) / (s_x sqrt(h_bar))), h_bar = max_i (1/m) sum_r phi'(<w_r(0), x_i>)^2 <=
    e^{2B}. Needs lambda_min(H(0)) >= 3/4 lam.
    """
    return np.log1p(ROOT_DROP * np.sqrt(lam) / (s_x * np.sqrt(h_bar)))


def radius_frobenius(lam: Number, n: Number, bound: Number) -> Number:
    """Return R_P = log(1 + lam / (4 n e^{2B})) / 2, the radius of the Frobenius argument (C.10)."""
    return np.log1p(lam * np.exp(-2 * bound) / (4 * n)) / 2


# --- widths


def width(n: Number, delta: Number, lam: Number, constant: Number = 1.0, c_b: Number = 4.0) -> Number:
    """Return the width m = constant lam^-2 n^2 e^{c_b B(m)} log(n / delta), solved for m (C.14).

    The form n^{2+o(1)} log(n / delta) is that of the abstract; c_b = 4 is reconstructed and agrees with
    `width_frobenius`; `constant` is ours. inf when it exceeds the floats: see `log_width`.
    """
    return _from_log(log_width(n, delta, lam, constant, c_b))


def log_width(n: Number, delta: Number, lam: Number, constant: Number = 1.0, c_b: Number = 4.0) -> Number:
    """Return the natural logarithm of `width` (C.14)."""
    s, _, b = _closed_form(n, delta, lam, constant, c_b)
    return s**2 - b


def local_exponent(n: Number, delta: Number, lam: Number, constant: Number = 1.0, c_b: Number = 4.0) -> Number:
    """Return d log m / d log n of `width` at fixed lam: what "2 + o(1)" is at this n (C.15).

    4.38 at n = 8 and 3.23 at n = 10^6 with the defaults, delta = 0.1 and lam = 1; 2 only in the limit.
    """
    s, k, b = _closed_form(n, delta, lam, constant, c_b)
    return (2 + 1 / b + k / (2 * s)) / (1 - k / (2 * s))


def lambda_exponent(n: Number, delta: Number, lam: Number, constant: Number = 1.0, c_b: Number = 4.0) -> Number:
    """Return d log m / d log(1/lam) of `width` at fixed n: what the 2 of lam^-2 is at this n; derived from (C.14).

    2 / (1 - k/(2s)) in the letters of (C.14), larger than 2 because B grows with m.
    """
    s, k, _ = _closed_form(n, delta, lam, constant, c_b)
    return 2 / (1 - k / (2 * s))


def _closed_form(n: Number, delta: Number, lam: Number, constant: Number, c_b: Number) -> tuple[Number, ...]:
    """Return (s, k, b) of (C.14), quadratic in s^2 = log m + log(n / delta) = B^2 / 2; nan if it has no solution."""
    b = np.log(n) - np.log(delta)
    a = np.log(constant) - 2 * np.log(lam) + 2 * np.log(n) + np.log(b)
    k = c_b * math.sqrt(2)
    square = k**2 + 4 * (a + b)  # negative for lambda far beyond n: no width solves the equation
    return (k + np.sqrt(np.where(square >= 0, square, np.nan))) / 2, k, b


def width_frobenius(n: float, delta: float, lam: float) -> float:
    """Return the smallest width of the Frobenius argument, which reproduces the n^2 of the theorem (C.12).

    max of 64 n^2 e^{4B} log(4 n (n+1) / delta) / lam^2 (concentration), 16 n delta e^{2B} / lam (truncation)
    and 4 n e^{B + R_P} / (lam R_P) (movement), with B of this very width. Sufficient, not necessary.
    """

    def log_needed(B: float) -> float:
        R = radius_frobenius(lam, n, B)
        return max(
            math.log(64 * math.log(4 * n * (n + 1) / delta)) + 2 * math.log(n / lam) + 4 * B,
            math.log(16 * n * delta / lam) + 2 * B,
            math.log(4 * n / lam) + B + R - math.log(R),
        )

    return float(_from_log(_fixed_point(log_needed, n, delta)))


def width_spectral(n: float, delta: float, lam: float, s_x: float, y_norm: float | None = None) -> float:
    """Return the smallest width of the spectral argument, the tighter one (C.13, with m1 of C.7).

    max of 224 e^{2B} s_x^2 log(2n / delta) / lam (matrix Chernoff), 8 n delta e^{2B} / lam (truncation) and
    (8/3) s_x e^{B + R} y_norm / (lam R) (movement), R of (C.9) with h_bar = e^{2B}. `y_norm` defaults to
    sqrt(n), its largest value for labels in [-1, 1]. Sufficient, not necessary.
    """
    y_norm = math.sqrt(n) if y_norm is None else y_norm

    def log_needed(B: float) -> float:
        R = radius(lam, s_x, math.exp(2 * B))
        return max(
            math.log(224 * s_x**2 * math.log(2 * n / delta) / lam) + 2 * B,
            math.log(8 * n * delta / lam) + 2 * B,
            math.log(8 / 3 * s_x * y_norm / lam) + B + R - math.log(R),
        )

    return float(_from_log(_fixed_point(log_needed, n, delta)))


def width_rank(n: Number, d: Number) -> Number:
    """Return 2 n / d: below it a coupled network has a singular H(0), whatever the draw (C.16)."""
    return 2 * n / d


def _fixed_point(log_needed: Callable[[float], float], n: float, delta: float) -> float:
    """Iterate log m <- log_needed(B(m)) up from log 2: increasing, so the limit is the smallest width."""
    log_m = math.log(2)
    for _ in range(10_000):
        following = log_needed(math.sqrt(2 * (log_m + math.log(n / delta))))
        if following <= log_m + 1e-13 * abs(log_m):
            return max(following, math.log(2))
        log_m = following
    raise ArithmeticError("the width equation did not settle in 10000 iterations")


def _from_log(log_m: Number) -> Number:
    with np.errstate(over="ignore"):
        return np.exp(log_m)


# --- training


def step_size(
    n: Number, m: Number, delta: Number, lam: Number, *, constant: float = 0.01, c_b: float = 4.0, scale: float = 1.0
) -> Number:
    """Return eta = constant lam / (m n^2 e^{c_b B}) / scale^2, the step size of the theorem.

    *Recalled* form and constants, for output scale 1; other scales by (A.6). Orders of
    magnitude below the stability limit: at sizes one can run, training with it does not visibly move.
    """
    return constant * lam / (m * n**2 * np.exp(c_b * weight_bound(n, m, delta)) * scale**2)


def rate(m: Number, eta: Number, lam: Number, scale: Number = 1.0) -> Number:
    """Return the guaranteed factor per step of the *squared* residual, 1 - m eta scale^2 lam / 2 (C.27)."""
    return 1 - m * eta * scale**2 * lam / 2


def iterations(m: Number, eta: Number, lam: Number, y_norm: Number, eps: Number, *, scale: float = 1.0) -> Number:
    """Return T = ceil(4 / (m eta scale^2 lam) log(y_norm / eps)), steps to residual eps at `rate` (C.17).

    inf for eps = 0.
    """
    with np.errstate(divide="ignore"):
        return np.maximum(np.ceil(4 / (m * eta * scale**2 * lam) * np.log(np.divide(y_norm, eps))), 0.0)


def movement_bound(m: Number, lam: Number, y_norm: Number, *, s_x: Number, bound: Number, radius: Number) -> Number:
    """Return (8/3) s_x e^{B + R} y_norm / (m lam) >= max_r ||w_r(t) - w_r(0)|| for scale 1 (C.19).

    B = `bound` of (C.1), R = `radius` of (C.9); holds while the weights stay within R.
    """
    return 8 / 3 * s_x * np.exp(bound + radius) * y_norm / (m * lam)


def movement_bound_recalled(
    m: Number, lam: Number, y_norm: Number, *, n: Number, bound: Number, radius: Number
) -> Number:
    """Return 4 sqrt(n) e^{B + R} y_norm / (m lam), the *reconstructed* form of `movement_bound` (C.19)."""
    return 4 * np.sqrt(n) * np.exp(bound + radius) * y_norm / (m * lam)

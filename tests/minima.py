"""Random problems and a judge of their solutions: what `expreg.solve` calls a minimum has to be one.

Shapes 1 to 60, scales of columns and targets of 1e-30 to 1e30 in float32 and 1e-150 to 1e150 in float64, every loss,
activation and solver, default, random and saturated starts, targets with zeros. The judge shares no code with
the package: losses as they are written down, in extended precision, gradients by hand, curvature by differences.
"""

import warnings
from collections import Counter
from typing import NamedTuple

import numpy as np

PHI = {"exp": (np.exp, np.exp), "cosh": (np.cosh, np.sinh), "sinh": (np.sinh, np.cosh)}
SOLVERS = ("auto", "newton", "gauss_newton", "pcg", "lbfgs", "gd")
LOSSES = ("exponential", "softmax", "rescaled", "projective")
REACH = {"float32": 30, "float64": 150}
SMALL = {"float32": 4e-6, "float64": 1e-6}  # relative gradient of a minimum; no tol of float32 is below 4e-6
LOWER = 1e-3
LONG = np.longdouble
EPS = np.finfo(LONG).eps


class Case(NamedTuple):
    A: np.ndarray
    b: np.ndarray
    loss: str
    activation: str
    solver: str
    weights: float
    x0: np.ndarray | None


def draw(rng):
    """Return one problem."""
    n, d = (int(k) for k in rng.integers(1, 61, 2))
    dtype = np.dtype(rng.choice(["float32", "float64"]))
    loss, activation = str(rng.choice(LOSSES)), str(rng.choice(list(PHI)))
    reach = REACH[dtype.name]
    plain = rng.normal(size=(n, d)) / np.sqrt(d)
    z = plain @ rng.normal(size=d) * rng.choice([0.3, 1.0, 3.0])
    b = np.abs(PHI[activation][0](z)) * (1 + rng.choice([0.0, 0.1, 0.5]) * rng.uniform(-1, 1, n))
    if activation == "sinh":
        b = b * np.sign(z)
    kind = rng.choice(["plain", "zeros", "one-hot"], p=[0.8, 0.1, 0.1])
    if kind != "plain":
        b = b * (rng.uniform(size=n) < 0.5) if kind == "zeros" else np.where(np.arange(n) == rng.integers(n), 1.0, 0.0)
    if loss == "exponential":
        b = b * 10.0 ** rng.choice([0.0, rng.uniform(-reach, reach)])
    elif abs(b.sum()) > 1e-3 * np.abs(b).sum():
        b = b / b.sum()
    columns = 10.0 ** rng.choice([np.zeros(d), np.full(d, rng.uniform(-reach, reach)), rng.uniform(-reach, reach, d)])
    if np.abs(np.log10(np.abs(b).max() or 1)) > reach / 5:
        columns = np.ones(d)  # else x itself would leave the range
    weights = float(rng.choice([0.0, 10.0 ** rng.uniform(-3, 1)], p=[0.7, 0.3]))
    start = rng.choice(["default", "random", "saturated"], p=[0.7, 0.2, 0.1])
    x0 = None if start == "default" else rng.normal(size=d) / columns * {"random": 1.0, "saturated": 300.0}[start]
    A, b = (plain * columns).astype(dtype), b.astype(dtype)
    solver = str(rng.choice(SOLVERS, p=[0.49, 0.195, 0.15, 0.15, 0.01, 0.005]))  # the last two are compiled every time
    return Case(A, b, loss, activation, solver, weights, None if x0 is None else x0.astype(dtype))


def terms(case, z):
    """Return u, |v|, the target that u is compared with, the loss, and its gradient with respect to z."""
    phi, slope = PHI[case.activation]
    u, v, b, w = phi(z), slope(z), case.b.astype(LONG), LONG(case.weights)
    alpha, scale = u.sum(), LONG(1)
    if case.loss == "exponential":
        target, value, c = b, ((u - b) ** 2).sum() / 2, u - b
    elif case.loss == "rescaled":
        r = u - alpha * b
        target, value, c = alpha * b, (r**2).sum() / 2, r - (b * r).sum()
    elif case.loss == "softmax":
        f = u / alpha
        r = f - b
        target, value, c = b, (r**2).sum() / 2, (r - (f * r).sum()) / alpha
        u, scale = f, alpha
    else:
        size = (u**2).sum()
        r = u - alpha * b
        value = (r**2).sum() / size / 2
        target, c = alpha * b / np.sqrt(size), (r - (b * r).sum() - 2 * value * u) / size
        u, scale = u / np.sqrt(size), np.sqrt(size)
    return u, np.abs(v / scale), target, value + (w * w * z * z).sum() / 2, v * c + w * w * z


def judge(case, x):
    """Return what is wrong with x as a minimum, None where nothing is."""
    A = case.A.astype(LONG)
    norms = np.sqrt((A**2).sum(axis=0))
    A, y = A / norms, x.astype(LONG) * norms
    n, d = A.shape
    u, v, target, value, slope = terms(case, A @ y)
    w2 = LONG(case.weights) ** 2
    size = ((u**2).sum() + (target**2).sum()) / 2 + w2 * ((A @ y) ** 2).sum() / 2
    if not np.isfinite(value):
        return "the loss is not finite"
    unit = max(size, (v**2).sum()) / n
    steps = 1e-5 * np.eye(n, dtype=LONG)
    Hz = np.array([(terms(case, A @ y + h)[4] - terms(case, A @ y - h)[4]) / 2e-5 for h in steps])
    # of logits in the type of A, from which the largest is subtracted
    rounded = np.finfo(case.A.dtype).eps * (np.abs(A) @ np.abs(y) + np.abs(A @ y).max())
    small = SMALL[case.A.dtype.name]
    noise = rounded @ np.abs(Hz) @ rounded / 2 + small**2 * size
    gradient = A.T @ slope / unit
    values, vectors = np.linalg.eigh((A.T @ (Hz + Hz.T) @ A / 2 / unit).astype(float))
    g = vectors.T @ gradient.astype(float)
    newton = -vectors @ (g / np.maximum(np.abs(values), 1e-12))
    rng = np.random.default_rng(0)
    tried = [
        newton,
        -gradient.astype(float),
        *vectors.T[:5],
        *-vectors.T[:5],
        *rng.normal(size=(10, d)),
        -y.astype(float),
    ]
    for direction in tried:
        reach = np.abs(A @ direction).max()
        if not np.isfinite(reach) or reach == 0:
            continue
        for t in 2.0 ** np.arange(-12, 10):
            u, _, target, there, _ = terms(case, A @ (y + t / reach * direction))
            if ((n * EPS) ** 2 * (u @ u + target @ target)) > LOWER / 2 * value:
                break  # of a sum as large as this no digit of the loss is left
            if not there <= value * (1 + LONG(1e-9)) + noise:
                break  # over a barrier there may be another minimum
            if there < (1 - LOWER) * value - noise:
                return (
                    f"a move of {t:g} lowers the loss from {float(value):.3g} by {float((value - there) / value):.2g}"
                )
    total = (np.maximum(v, np.abs(u)) * (np.abs(u) + np.abs(target)) + w2 * np.abs(A @ y)).sum() / np.sqrt(LONG(n))
    worst = float((np.abs(A.T @ slope) - np.abs(A.T @ Hz) @ rounded).max() / total)
    if worst > small:
        return f"the gradient is {worst:.1e} of its terms"
    return None


def solved(case):
    import expreg

    options = {
        "weights": case.weights or None,
        "x0": case.x0,
        "max_steps": 300 if case.solver in SOLVERS[4:] else None,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return expreg.solve(case.A, case.b, case.loss, case.activation, case.solver, **options)


def survey(count, seed=0, say=print):
    """Return how often runs ended how, and the seeds of minima that are none and of runs that are not finite."""
    ends, wrong, lost = Counter(), {}, []
    for i in range(count):
        case = draw(np.random.default_rng([seed, i]))
        found = solved(case)
        ends[found.status] += 1
        if found.status == "nonfinite":
            lost.append(i)
        if found.status == "converged":
            with np.errstate(all="ignore"):
                fault = judge(case, found.x)
            if fault:
                wrong[i] = fault
                say(f"{i}: {case.loss} {case.activation} {case.solver} {case.A.dtype} {case.A.shape}: {fault}")
    return ends, wrong, lost

"""The solvers and the sketches, one record each, and the rule that chooses a solver. Imports no JAX.

What the package asks of a solver or a sketch is a field of its record: names occur in these lists only.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from expreg.types import later

AUTO = "auto"
FEW_COLUMNS = 96  # up to here a dense Gram matrix costs no more than the products of conjugate gradients
MANY_COLUMNS = 4000  # from here on no d x d matrix is factored
PER_COLUMN = 48  # rows per column up to which no sample of the rows is much smaller than all of them
MAX_STEPS, FIRST_ORDER_STEPS = 200, 20_000
EXPECTED_STEPS = 20
BETA = 0.5  # what sampling by sketched leverage scores keeps of the exact ones, beta of (F.3), (F.6)


class Solver(NamedTuple):
    """One solver.

    - `traced(kind, matrix, max_steps, step_size)`: its `method.Steps`; `matrix` is the sketched matrix or None.
    - `host(A, rng)`: its directions in NumPy for a dense or csr A; None where it runs compiled only.
    - `flops(n, d, size)`: of a step beyond products with a vector, `size` the rows that its matrix is made of.
    - `exact`: whether its curvature is the Hessian, else the Gauss-Newton matrix.
    - `quadratic`: whether undamped steps without a sketch converge with an order (F.9).
    - `takes_sketch`, and the `sketch` that it takes by default.
    - `max_steps`: the default budget of `expreg.solve`.
    """

    name: str
    traced: Callable[..., Any]
    host: Callable[..., Any] | None = None
    flops: Callable[[float, float, float], float] = lambda *_: 0.0
    exact: bool = True
    quadratic: bool = False
    takes_sketch: bool = True
    sketch: str | None = None
    max_steps: int = MAX_STEPS
    expected_steps: int | None = EXPECTED_STEPS


class Sketch(NamedTuple):
    """One sketch of n rows.

    - `make(key, n, size)`: its `sketch.oblivious.Apply`; None: rows sampled by their sketched leverage scores.
    - `per_column`: its rows in units of d where no size is given, a distortion of about 1/3 (F.4), (F.6).
    - `distortion(size, d, delta)`: what it keeps with probability 1 - delta, None where no useful bound is known.
    """

    name: str
    make: Callable[..., Any] | None
    per_column: int
    distortion: Callable[[int, int, float], float | None] = lambda *_: None

    def rows(self, n: int, d: int, size: int | None) -> int:
        """Return its number of rows: as given, else by d and no more than 4 n."""
        return size or min(self.per_column * d, 4 * n)


NEWTON = Solver(
    "newton",
    later("expreg.solver.method:newton_steps"),
    later("expreg.solver.host:newton"),
    lambda _, d, size: 2 * size * d * d,
    quadratic=True,
)
GAUSS_NEWTON = NEWTON._replace(name="gauss_newton", exact=False)
LBFGS = Solver("lbfgs", later("expreg.solver.first_order:lbfgs"), takes_sketch=False, max_steps=FIRST_ORDER_STEPS)
GD = LBFGS._replace(name="gd", traced=later("expreg.solver.first_order:gd"), expected_steps=None)
PCG = Solver(
    "pcg",
    later("expreg.solver.method:pcg_steps"),
    later("expreg.solver.host:pcg"),
    lambda n, d, _: 100 * n * d,
    sketch="countsketch",
)

SOLVERS: dict[str, Solver] = {solver.name: solver for solver in (NEWTON, GAUSS_NEWTON, GD, LBFGS, PCG)}


def _leverage_distortion(size: int, d: int, delta: float) -> float:
    return math.sqrt(3 * d * math.log(2 * d / delta) / (BETA * size))


def _gaussian_distortion(size: int, d: int, delta: float) -> float:
    one = (math.sqrt(d) + math.sqrt(2 * math.log(2 / delta))) / math.sqrt(size)
    return 2 * one + one * one


SKETCHES: dict[str, Sketch] = {
    sketch.name: sketch
    for sketch in (
        Sketch("leverage", None, 40, _leverage_distortion),
        Sketch("countsketch", later("expreg.sketch:countsketch"), 40),
        Sketch("gaussian", later("expreg.sketch:gaussian"), 16, _gaussian_distortion),
        Sketch("uniform", later("expreg.sketch:uniform"), 40),
    )
}


def names() -> list[str]:
    """Return what `solver` may be."""
    return [AUTO, *SOLVERS]


def with_sketch() -> list[str]:
    """Return the solvers that take a sketch."""
    return [AUTO, *(name for name, solver in SOLVERS.items() if solver.takes_sketch)]


def chosen(name: str, n: int, d: int, *, dense: bool = True) -> Solver:
    """Return the solver of a name; `auto` is the one for a matrix of n rows and d columns, in sweeps as in `solve`.

    A weighted Gram matrix of a dense A costs d / 20 + 4 products with one vector (measured), of a sparse one hundreds:
    Newton for a dense A with few columns and for few rows, else preconditioned conjugate gradients.
    """
    if name != AUTO:
        return SOLVERS[name]
    cheap = (dense and d <= FEW_COLUMNS) or n <= PER_COLUMN * d
    return NEWTON if cheap and d <= MANY_COLUMNS else PCG


def check(record: Solver | Sketch) -> Iterator[str]:
    """Yield what is wrong with a solver or a sketch at a tiny probe."""
    import jax

    probe = _sketch_probe(record) if isinstance(record, Sketch) else _solver_probe(record)
    with jax.enable_x64(True):
        for expected in probe:
            yield f"{type(record).__name__.lower()} {record.name!r}: expected {expected}"


def _sketch_probe(sketch: Sketch) -> Iterator[str]:
    import jax

    if sketch.make is None:
        return
    A, w, size = np.random.default_rng(0).normal(size=(6, 2)), np.linspace(0.5, 2, 6), 512
    apply = sketch.make(jax.random.key(0), 6, size)
    SA = np.asarray(apply(A))
    if SA.shape != (size, 2):
        yield f"S A of shape (size, d) = ({size}, 2), got {SA.shape}"
    elif not np.allclose(apply(A, w), apply(w[:, None] * A)):
        yield "apply(A, w) to be apply(diag(w) A)"
    elif np.linalg.norm(SA.T @ SA - A.T @ A) > np.linalg.norm(A) ** 2 / 2:
        yield f"(S A)^T S A near A^T A for {size} rows, E[S^T S] = I"


def _solver_probe(solver: Solver) -> Iterator[str]:
    import jax

    from expreg.solver import host, method
    from expreg.solver.state import Objective, Problem, first_state
    from expreg.sparse import passes

    rng = np.random.default_rng(0)
    A, x0 = rng.normal(size=(12, 2)), np.array([0.7, -0.1])
    b = np.exp(A @ [0.5, -0.3])
    given = Problem(A, b / b.sum(), 0 * b, np.asarray(1e-12), passes.column_norms(A), jax.random.key(0))
    kind = Objective("softmax", "exp", solver.exact, host.HOST)
    if solver.host is not None:
        with host.calm():
            at = first_state(kind, given._replace(A=passes.rows(A)), x0, np.zeros(()))
            found = solver.host(A, rng)(kind, at)
        if not (np.allclose(found.dz, A @ found.step) and found.slope < 0):
            yield "directions on the host with dz = A step and slope = g^T step < 0"
            return
    kind = kind._replace(ops=method.TRACED)
    matrix = partial(method.sketched, solver.sketch, None) if solver.sketch else None
    steps = solver.traced(kind, matrix, 99, None)
    state = first = steps.ready(first_state(kind, jax.tree.map(jax.numpy.asarray, given), x0, np.zeros(())))
    for _ in range(3):
        state = jax.jit(steps.step)(state)
    if jax.tree.map(np.shape, state) != jax.tree.map(np.shape, first) or int(state.step) != 3:
        yield "every step to return a State of the same shapes, one step later"
    elif not state.loss < first.loss:
        yield f"a smaller loss after 3 steps, got {float(state.loss):g} from {float(first.loss):g}"

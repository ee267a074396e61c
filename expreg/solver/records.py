"""The solvers and the sketches, one record each, and the rule that chooses a solver. Imports no JAX.

What the package asks of a solver or a sketch is a field of its record: names occur in these lists only.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

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

    def default_sketch(self, d: int) -> str | None:
        """Return the sketch that it takes by default, none where no d x d matrix is factored."""
        return self.sketch if d <= MANY_COLUMNS else None


class Sketch(NamedTuple):
    """One sketch of n rows.

    - `make(key, n, size)`: its `sketch.oblivious.Apply`; None: rows sampled by their sketched leverage scores.
    - `per_column`: its rows in units of d where no size is given: a distortion of 1/4 to 1/3, gaussian 1/2 (measured).
    - `distortion(size, d, delta)`: that of the Gram matrix, as `sketch.distortion` measures it, is at most this with
      probability 1 - delta (F.4), (F.6); None where no useful bound is known.
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

_NEWTON_ONCE = NEWTON._replace(host=later("expreg.solver.host:newton_once"))
_PCG_ONCE = PCG._replace(host=later("expreg.solver.host:pcg_once"))
"""What `auto` takes: on the host a matrix is made once and corrected."""

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

    On the host it has directions of its own, which keep a matrix as long as it serves.

    A weighted Gram matrix of a dense A costs d / 20 + 4 products with one vector (measured), of a sparse one hundreds:
    Newton for a dense A with few columns and for few rows, else preconditioned conjugate gradients.
    """
    if name != AUTO:
        return SOLVERS[name]
    cheap = (dense and d <= FEW_COLUMNS) or n <= PER_COLUMN * d
    return _NEWTON_ONCE if cheap and d <= MANY_COLUMNS else _PCG_ONCE

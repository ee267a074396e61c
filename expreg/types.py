"""The design in one page: what a cell is, what a program does with it, and what the letters mean.

Notation (the papers' letters inside functions, plain words at the border):

| letter | word | meaning |
|---|---|---|
| n, d, m | n, d, m | points, dimensions, neurons; p = m/2 pairs under coupled initialisation |
| X, y | data, labels | points (n, d), one per row; labels (n,) |
| W, a | weights, signs | weights (d, m), one neuron per column; fixed output signs (m,) |
| kappa | scale | output scale of F(W, x) = kappa sum_r a_r phi(<w_r, x>) (A.1) |
| phi | activation | exp, cosh, sinh or relu |
| r | residual | F(W, X) - y, shape (n,) |
| K | Gram matrix of the points | X X^T, shape (n, n) |
| H, H^cts | ntk | Gram matrix of the gradients, empirical (B.1) and of infinite width (B.3)-(B.6) |
| lambda | lambda_cts, lambda_0 | smallest eigenvalue of H^cts, of H(0) |
| eta | eta | step size; eta_scaled = eta kappa^2 m (A.7) |
| eps | tolerance | bound on ||r|| at which training stops |
| delta | delta | allowed failure probability |

A *run* is a pure function of (settings, seed). The engine maps it over the lanes of a device.
"""

from collections.abc import Callable, Hashable, Mapping
from enum import IntEnum
from typing import Any, NamedTuple

Array = Any  # a numpy.ndarray or a jax.Array; naming jax here would import it everywhere
Settings = Mapping[str, Any]
"""One fully resolved cell: a nested, JSON-able mapping (its fields are those of the config)."""
Tree = Any
"""A nested structure of arrays whose shapes are fixed by the program."""
Row = dict[str, Any]
"""What a finished cell leaves: one value per column, plus the lists of its curve."""


class Status(IntEnum):
    """How a run ended; the device stores the number, tables show the name."""

    running = 0
    converged = 1
    max_steps = 2
    diverged = 3
    nonfinite = 4
    collapsed = 5
    trivial = 6


FAILED = ("oom", "timeout", "error")
"""Statuses that say nothing about the run itself: such a cell is tried again by the next resume."""


class Program(NamedTuple):
    """One compiled kind of run, written for one lane (unbatched); the engine maps it over lanes.

    - `init(inputs)`: state of a run at step 0.
    - `advance(state)`: the state some steps later; called only while `running(state)`.
    - `running(state)`: a boolean scalar; False for a state of zeros, which is what an idle lane holds.
    - `record(state)`: a mapping of names to small arrays, everything that the row is made from.
    """

    init: Callable[[Tree], Tree]
    advance: Callable[[Tree], Tree]
    running: Callable[[Tree], Array]
    record: Callable[[Tree], dict[str, Array]]


class Cost(NamedTuple):
    """What one cell is expected to take; bytes while it occupies a lane."""

    steps: float
    flops_per_step: float
    bytes: float

    @property
    def flops(self) -> float:
        """Return the floating-point operations of the whole run."""
        return self.steps * self.flops_per_step


class Experiment(NamedTuple):
    """One kind of experiment: what a cell computes and what its row means.

    - `signature(settings)`: everything static (shapes, dtype, activation, ...); cells with equal signatures
      share one program.
    - `build(signature)`: that program.
    - `prepare(settings)`: the inputs of one cell, NumPy arrays of the program's shapes.
    - `row(settings, record)`: the columns of a finished cell.
    - `inputs(settings)`: the very arrays that the cell starts from, for the user.
    - `cost(settings)`: the estimate by which `plan` and the progress display weigh cells.
    - `probe`: a small cell of a known number of steps, by which the speed of a machine is told.
    """

    name: str
    signature: Callable[[Settings], Hashable]
    build: Callable[[Any], Program]
    prepare: Callable[[Settings], Tree]
    row: Callable[[Settings, dict[str, Array]], Row]
    inputs: Callable[[Settings], dict[str, Array]]
    cost: Callable[[Settings], Cost]
    probe: Settings | None = None

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

import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cache
from pkgutil import resolve_name
from typing import Any, NamedTuple

import numpy as np

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
    stalled = 7
    flat = 8
    unbounded = 9


FAILED = ("oom", "timeout", "error")
"""Statuses that say nothing about the run itself: such a cell is tried again by the next resume."""
PRECISIONS = {"f32": np.float32, "f64": np.float64}


def cores() -> int:
    """Return how many cores this process may use; EXPREG_CORES makes them fewer."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # Slurm and Ray count cores without always binding processes to them
    given = (os.environ.get(name, "") for name in ("EXPREG_CORES", "SLURM_CPUS_PER_TASK"))
    return min([there, *(int(number) for number in given if number.isdigit() and int(number))])


class Program(NamedTuple):
    """One compiled kind of run, written for one lane (unbatched); the engine maps it over lanes.

    - `init(inputs)`: state of a run at step 0.
    - `advance(state)`: the state some steps later; called only while `running(state)`.
    - `running(state)`: a boolean scalar; False for a state of zeros, which is what an idle lane holds.
    - `record(state)`: a mapping of names to small arrays, everything that the row is made from.
    - `group`: how many lanes a CPU core vmaps, which pays where a step is so small that its operations cost more than
      their arithmetic; they begin together, and end with the longest of their runs.
    - `split`: by name, the fields of inputs and state whose arrays are split where one run is spread over devices, and
      along which axis.
    """

    init: Callable[[Tree], Tree]
    advance: Callable[[Tree], Tree]
    running: Callable[[Tree], Array]
    record: Callable[[Tree], dict[str, Array]]
    group: int = 1
    split: Mapping[str, int] = {}


def at_once(measure: Callable[[Tree], dict[str, Array]]) -> Program:
    """Return the program of a run that is over when it has begun: `measure(inputs)` is what it leaves."""
    return Program(init=measure, advance=lambda s: s, running=lambda _: np.zeros((), bool), record=lambda s: s)


class Cost(NamedTuple):
    """What one cell is expected to take; bytes while it occupies a lane."""

    steps: float
    flops_per_step: float
    bytes: float

    @property
    def flops(self) -> float:
        """Return the floating-point operations of the whole run."""
        return self.steps * self.flops_per_step


class Spread(NamedTuple):
    """What takes the place of fields of an experiment where its cells, one at a time, are spread over all devices.

    - `over`: what devices share, the value of `execution.shard`.
    - `parts(signature)`: the number of equal parts, padding included, of which each device has as many. It must not
      depend on the number of devices, so that a state fits any.
    - `whole(settings)`: in words, what of a cell cannot be spread; empty for most.
    """

    over: str
    parts: Callable[[Any], int]
    signature: Callable[[Settings], Any]
    build: Callable[[Any], Program]
    prepare: Callable[[Settings], Tree]
    cost: Callable[[Settings], Cost]
    whole: Callable[[Settings], str] = lambda _: ""


class Column(NamedTuple):
    """One column of the rows of an experiment, or one curve.

    Everything that knows about columns derives from these: the schema of the store, the types of frames, the names
    that an axis may not take, the tables of the documentation. `type` is an Arrow type: string, bool, int64, float64.
    """

    name: str
    type: str
    meaning: str


BASE: tuple[Column, ...] = (
    Column("cell", "string", "16 hex digits that name the cell by the content of its settings"),
    Column("status", "string", "how the cell ended"),
    Column("status_detail", "string", "one line about it, often empty"),
    Column("experiment", "string", "the experiment of the config"),
    Column("seed", "int64", "the seed from which, with the replicate, all randomness of the cell follows"),
    Column("replicate", "int64", "number of the independent repetition"),
    Column("precision", "string", "floating point numbers of the cell: f32 or f64"),
    Column("device", "string", "kind of the device that ran it"),
    Column("steps", "int64", "steps that were taken"),
    Column("seconds", "float64", "time on the device, shared among the lanes of its program"),
    Column("expreg_version", "string", "version of expreg that ran it"),
    Column("jax_version", "string", "version of JAX that ran it"),
    Column("attempt", "int64", "number of the execution: more than 1 after failures"),
)
"""The columns of every experiment, before its own."""
TRIAL = "trial"
"""The column with the number of the trial, where a sampler has chosen the settings."""


@dataclass(frozen=True)
class later:
    """The function at `package.module:name`, which is imported at its first call.

    Records name functions that need JAX or matplotlib; reading a config or printing help must not import either.
    """

    place: str

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Call the function."""
        return _resolved(self.place)(*arguments, **options)


_resolved = cache(resolve_name)


def all_later(module: str, *names: str) -> dict[str, Any]:
    """Return functions of a module by their names, each imported at its first call."""
    return {name: later(f"{module}:{name}") for name in names}


class Trained(NamedTuple):
    """What has been trained, and what its training left in the column `final` of the experiment."""

    value: Any
    final: float


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One kind of experiment: what a cell computes, what its row means, and what a reader sees of many rows.

    What a cell is:

    - `schema()`: the pydantic model of its config, a `core.config.model.Config`.
    - `columns()`, `curves()`: what `row` returns beside the columns that every experiment has (`BASE`);
      curves by their names without `curve_`.

    How it runs:

    - `signature(settings)`: everything static (shapes, dtype, activation, ...); cells with equal signatures
      share one program.
    - `build(signature)`: that program.
    - `prepare(settings)`: the inputs of one cell, NumPy arrays of the program's shapes.
    - `row(settings, record)`: the columns of a finished cell, `curve_*` as arrays.
    - `inputs(settings)`: the very arrays that the cell starts from, for the user.
    - `least_bytes(settings)`: (words, bytes, "host" or "device") that a cell needs whatever else; cheap, where `cost`
      may compute a spectrum.
    - `cost(settings)`: the estimate by which `plan` and the progress display weigh cells.
    - `spread`: what differs where one cell is spread over devices; None where it cannot be.
    - `size(settings)`: the size of a cell in words, for messages.
    - `check(cells)`: the problems of the user's own files, before anything is written.
    - `too_few(cells, analysis)`: why they are too few for what `analysis` asks, None if they are not.
    - `searches(config)`: the axes along which a search may bracket success, each with the criteria that it may name.
    - `success(cells, criterion)`: 1, 0 or nan (no answer) by the id of the cell, for rows as the store gives them.
    - `half_width(cells, asked)`: half the width of the interval of the exponent that `analysis.until` narrows, inf
      where there is none yet.
    - `warnings(cells, analysis)`: what a run of them cannot decide, shown before it starts.
    - `certify(settings, arrays, refined)`: the certificate of a cell's `inputs`; None where there is none.
    - `trained(settings)`: what the cell is at its end, a `Trained`; None where nothing is trained.
    - `remembered`: what plan.json keeps of the experiment, where results can be read with that alone.
    - `probe`: a small cell of a known number of steps, by which the speed of a machine is measured.

    What a reader sees:

    - `summarise(cells, curves, asked)`: groups, tables, verdicts, note; `asked` has axes, delta, confidence, resamples.
    - `final`: the column of what a run leaves at its end, by which settings are compared; empty where they are not.
    - `largest`: whether more of it is better.
    - `inner`: the axes that its own figures are about; settings are compared over all their values.
    - `figures`: builders by name, each `(cells, curves, summary) -> list[Figure]`, in the order of the page.
    - `page(summary)`: what page and terminal show beside verdicts and figures, a `core.page.words.Parts`; None: the
      tables of the summary.
    - `claims`: what a verdict's claim says and what its number is; `statuses`: words where a status means something
      else than usual.
    - `outlook(cells, analysis)`: what `plan` adds, as a dict whose `lines` are printed.
    """

    name: str
    schema: Callable[[], Any] = tuple
    columns: Callable[[], Sequence[Column]] = tuple
    curves: Callable[[], Sequence[Column]] = tuple
    signature: Callable[[Settings], Hashable]
    build: Callable[[Any], Program]
    prepare: Callable[[Settings], Tree]
    row: Callable[[Settings, dict[str, Array]], Row]
    inputs: Callable[[Settings], dict[str, Array]] = lambda _: {}
    cost: Callable[[Settings], Cost] = lambda _: Cost(1.0, 1.0, 1.0)
    spread: Spread | None = None
    least_bytes: Callable[[Settings], list[tuple[str, float, str]]] = lambda _: []
    size: Callable[[Settings], str] = lambda _: "cell"
    check: Callable[[Sequence[Settings]], list[Any]] = lambda _: []
    too_few: Callable[[Sequence[Settings], Mapping[str, Any]], str | None] = lambda *_: None
    searches: Callable[[Any], Mapping[str, Sequence[str]]] = lambda _: {}
    success: Callable[[Any, str], Mapping[str, float]] = lambda *_: {}
    half_width: Callable[[Any, Any], float] | None = None
    warnings: Callable[[Sequence[Settings], Mapping[str, Any]], list[str]] = lambda *_: []
    certify: Callable[[Settings, Mapping[str, Array], bool], Any] | None = None
    trained: Callable[[Settings], Trained] | None = None
    remembered: Mapping[str, Any] = field(default_factory=dict)
    probe: Settings | None = None
    summarise: Callable[..., dict[str, Any]] = lambda *_: {}
    final: str = ""
    largest: bool = False
    inner: Sequence[str] = ()
    figures: Mapping[str, Callable[..., list[Any]]] = field(default_factory=dict)
    page: Callable[[Mapping[str, Any]], Any] = lambda _: None
    claims: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    statuses: Mapping[str, str] = field(default_factory=dict)
    outlook: Callable[..., dict[str, Any]] = lambda *_: {}

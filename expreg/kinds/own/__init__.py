"""Your own training function: pure functions of JAX become an experiment like any other."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import lru_cache, partial
from typing import Any, Literal, NamedTuple

import numpy as np

from expreg.types import Column, Experiment, later

_RUNS = ("signature", "build", "prepare", "inputs", "check", "cost")


@dataclass(frozen=True)
class Training:
    """Your own training loop, as pure functions that JAX can trace.

    All parameters of these functions but the first can be swept, by `expreg.sweep` and by configs. Parameters that
    determine shapes or Python control flow, strings and booleans are static; the others are inputs of one compiled
    program.

    Args:
        name: of the experiment in configs, and part of the identity of every run.
        init: `init(key, ...)` returns the state at step 0, any pytree of arrays. The key of a run is
            `jax.random.fold_in(jax.random.key(seed), replicate)`.
        step: `step(state, ...)` returns `(state, metrics)`, or the state alone where `record` has all metrics. Metrics
            are a dict of scalars. A run ends as `converged` when the metric `done` is true, as `nonfinite` when a
            metric is infinite or nan.
        record: `record(state, ...)` returns metrics that are too costly for every step; it is called at the points of
            the curve only.
        steps: length of a run; `training.steps` in a config.
        points: number of steps at which metrics are kept, `logarithmic` or `regular` (`spacing`).
        static: parameters to treat as static even though they could be traced.
        minimize: the metric by which settings are compared: by default `loss`, or the first where there is none.
        maximize: the same, for a metric where larger is better.

    """

    name: str
    init: Callable[..., Any]
    step: Callable[..., Any]
    record: Callable[..., Mapping[str, Any]] | None = None
    _: KW_ONLY
    steps: int
    points: int = 48
    spacing: Literal["logarithmic", "regular"] = "logarithmic"
    static: Collection[str] = ()
    minimize: str = ""
    maximize: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "static", tuple(self.static))

    @property
    def functions(self) -> list[Callable[..., Any]]:
        """Those that there are."""
        return [function for function in (self.init, self.step, self.record) if function is not None]


class Description(NamedTuple):
    """What is needed to read the results of a training, in plain values: plan.json keeps it, so that no code is.

    `parameters`: the kind of each (`int`, `float`, `bool`, `str`, `any`, or its options with `|` between), and a list
    of its default, if any; `metrics`: their Arrow types; `final`: the metric by which settings are compared, `largest`:
    whether more is better; `source`: the version of JAX and a checksum of the functions.
    """

    name: str
    parameters: Mapping[str, Sequence[Any]]
    metrics: Mapping[str, str]
    final: str
    largest: bool
    steps: int
    curve: Mapping[str, Any]
    source: str


@lru_cache(maxsize=32)
def experiment(training: Training, examples: tuple[tuple[str, Any], ...] = ()) -> Experiment:
    """Return the experiment of a training, whose metrics tracing finds with `examples` of its parameters.

    Raises InputError where the functions do not fit together.
    """
    found = later("expreg.kinds.own.trace:describe")(training, dict(examples))
    trained = partial(later("expreg.kinds.own.program:trained"), training, found.final)
    return described(found, **_functions(training), trained=trained)


@lru_cache(maxsize=32)
def _functions(training: Training) -> dict[str, Any]:
    """Return what runs a training, the same objects at every call: compiled programs are remembered by them."""
    return {name: partial(later(f"expreg.kinds.own.program:{name}"), training) for name in _RUNS}


def described(description: Description, **functions: Any) -> Experiment:
    """Return the experiment of a description; without functions it can be read, and not run."""
    unknown = dict.fromkeys(_RUNS, partial(later("expreg.kinds.own.program:unknown"), description))
    return Experiment(
        name=description.name,
        schema=lru_cache(partial(later("expreg.kinds.own.schema:config"), description)),
        columns=lambda: [Column(name, kind, "metric at the end") for name, kind in description.metrics.items()],
        curves=lambda: [Column(name, "float64", "metric along the run") for name in description.metrics],
        row=partial(later("expreg.kinds.own.program:row"), description),
        size=lambda one: " ".join(["cell", *(f"{name}={value}" for name, value in one["parameters"].items())]),
        final=description.final,
        largest=description.largest,
        figures={name: partial(later(f"expreg.kinds.own.page:{name}"), description) for name in ("settings", "curves")},
        page=later("expreg.kinds.own.page:page"),
        statuses={"converged": "done", "max_steps": "ran to its last step", "nonfinite": "a metric is not finite"},
        remembered=description._asdict(),
        **unknown | functions,
    )


def examples(axes: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Return the first value of each axis of a grid, as far as it stands there."""
    found: dict[str, Any] = {}
    for name, given in axes.items():
        if name in ("product", "zip"):
            found |= dict(examples(given))
        elif name != "concat":
            found[name] = next(
                iter(np.ravel(next(iter(given.values())) if isinstance(given, Mapping) else given)), None
            )
    return tuple((name, value.item() if isinstance(value, np.generic) else value) for name, value in found.items())

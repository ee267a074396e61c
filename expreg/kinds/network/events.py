"""The events of (C.27): what each claims, how it is judged along the path of a run, and its columns.

An event is one record of `EVENTS`; config, programs, columns, summaries and documentation derive from that list.
This module imports no JAX: functions of arrays use the operators and the namespace of what they are given.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from expreg.activation import lookup
from expreg.core.config.parts import once_for
from expreg.types import PRECISIONS, Array, Column, Row, Settings, Status

TOLERANCE = {"float32": 1e-3, "float64": 1e-9}
"""Relative slack of the events (C.27)."""
RESOLUTION = {"f32": 1e-4, "f64": 1e-12}
"""Where lambda is a smaller share of lambda_max(H^cts), rounding hides how lambda_min(H) compares to it (H.7)."""
NEEDS = ("training", "theory", "resolved", "reach", "plain", "tolerance", "kernel")
"""What an event may need, see `Event.needs`."""
CERTIFIED = 4 / 3
"""The lambda of a certificate over lambda_min(H(0)) (C.20): it may lie above or below that of H^cts."""
NEVER = -1
"""The first violation step, in the record of a run, of an event that was never violated."""


class Look(NamedTuple):
    """What an event along the path sees of a run at one step: scalars unless a shape is given."""

    step: Array
    residual: Array  # ||r_t||; at a measurement ||r|| as it was last looked at
    previous: Array  # ||r_{t-1}||, infinity at t = 0; at a measurement the same as `residual`
    initial_residual: Array  # r_0, (n,)
    initial_norm: Array  # ||r_0||
    eta_scaled: Array
    inputs: Any  # `descent.Inputs` of the run
    initial: Mapping[str, Array]  # what is known of the start: lambda_0, radius, ...
    movement: Array  # max over steps so far and neurons of ||w_r(t) - w_r(0)||, as of the last measurement
    lambda_min: Array | None = None  # of H(t); at a measurement, and only if an event of the run needs "kernel"

    @property
    def slack(self) -> float:
        """Return the relative slack of the run's precision."""
        return TOLERANCE[str(self.residual.dtype)]


class Facts(NamedTuple):
    """What is known of a finished run on the host."""

    settings: Settings
    problem: Any  # `start.Problem`: data and spectrum of H^cts
    record: Mapping[str, Array]  # what the program left
    tolerance: float = math.nan

    @property
    def lam(self) -> float:
        """Return lambda_min(H^cts)."""
        return self.problem.extremes[0]

    @property
    def real(self) -> type:
        """Return the number type of the run."""
        return PRECISIONS[self.settings["precision"]]


@dataclass(frozen=True, kw_only=True)
class Event:
    """One event of (C.27).

    - `name`, `title`: the title completes "the probability that ...".
    - `claim`: exponent of n in the width that the theorem asks for, after the factor log(n / delta); None for none.
    - `along_path`: whether it is about the whole trajectory; a run that leaves the range of numbers then fails it.
    - `needs`: what a cell must have for the event to mean anything, else it is null. "training": steps, not only a
      start; "theory": H^cts; "resolved": a lambda that rounding does not hide; "reach": radii and certificate;
      "plain": gradient descent with one step size; "tolerance": a tolerance above 0; "kernel": lambda_min(H(t)).
    - `rank`: place among all criteria of a page, most telling first. `link`: the step of the proof that it stands for.
      `share`: the claim about its share of successes at the widest m.
    - `margin(facts)`: allowed / measured, on the host; the event holds where it is at least 1.
    - `first(facts, margin)`: first violation step, None where the event holds; by default that of the path, and for
      an event without one 0 where the margin is below 1.

    Judged along the path, by the program, if `update` is given:

    - `when`: "step", every step t = 0, 1, ...; or "measure", the start and every `measure_every` steps.
    - `update(look)`: a number, and whether the event is violated at this step; traced by JAX for many steps at a time.
    - `fold`: which of these numbers the record keeps, "minimum" or "maximum".
    - `keeps`: its name in the record. `column`: the column of that name in the rows, if it is one.
    """

    name: str
    title: str
    margin: Callable[[Facts], float]
    claim: float | None = 2.0
    along_path: bool = False
    rank: int = 99
    link: str = ""
    share: str = ""
    needs: frozenset[str] = frozenset()
    first: Callable[[Facts, float], int | None] | None = None
    when: str = "step"
    update: Callable[[Look], tuple[Array, Array]] | None = None
    fold: str = "minimum"
    keeps: str | None = None
    column: Column | None = None

    @property
    def nothing(self) -> float:
        """Return what the fold of no number is."""
        return math.inf if self.fold == "minimum" else -math.inf

    def violation(self, facts: Facts, margin: float) -> int | None:
        """Return the first violation step of a finished run, None where the event holds."""
        if self.first is not None:
            return self.first(facts, margin)
        if self.update is None:
            return None if margin * (1 + TOLERANCE[facts.real.__name__]) >= 1 else 0
        step = int(facts.record[f"{self.name}_step"])
        return None if step == NEVER else step


def _ratio(allowed: Any, measured: Any) -> float:
    return float(allowed) / float(measured) if measured else math.inf


# --- the events


def _unstable(facts: Facts, margin: float) -> int | None:
    """At 2 the error neither grows nor falls; which side of it a rounded product lies on means nothing."""
    return None if margin * (1 - 4 * float(np.finfo(facts.real).eps)) > 1 else 0


def _left(look: Look) -> tuple[Array, Array]:
    return look.movement, ~(look.movement <= look.initial["radius"] * (1 + look.slack))


def _kernel_lost(look: Look, least: Any) -> tuple[Array, Array]:
    """Follow lambda_min(H(t)), and whether it is below the least that is asked for."""
    lambda_min: Any = look.lambda_min
    return lambda_min, ~(lambda_min >= least * (1 - look.slack))


def _rate_lost(look: Look, lam: Any = None) -> tuple[Array, Array]:
    """Follow log((1 - m eta kappa^2 lambda/2)^t ||r_0||^2 / ||r_t||^2), t >= 1; below 0 the rate is lost.

    lambda is that of H^cts, unless given. Where the step is so large that the factor is not positive, the rate asks for
    r_1 = 0.
    """
    xp = look.residual.__array_namespace__()
    decrease = xp.clip(look.eta_scaled * (look.inputs.lambda_cts if lam is None else lam) / 2, 0, 1)
    fall = xp.where(look.step > 0, look.step * xp.log1p(-decrease), 0)
    margin = fall + 2 * xp.log(look.initial_norm) - 2 * xp.log(look.residual)
    margin = xp.where(look.residual == 0, math.inf, margin)  # nothing is left to fall, not even where r_0 = 0
    return xp.where(look.step > 0, margin, math.inf), ~(margin >= -look.slack)


def _rate_margin(facts: Facts, name: str = "rate_margin") -> float:
    with np.errstate(over="ignore"):
        return float(np.exp(float(facts.record[name]) / 2))


def _not_converged(facts: Facts, _: float) -> int | None:
    """Training stops when ||r_t|| <= eps for the first time, so the budget T of a run that succeeds is that t."""
    return None if int(facts.record["status"]) == Status.converged else int(facts.record["steps"])


_LIST = (
    Event(
        name="E0",
        title="the step size is stable at initialisation",
        claim=None,
        rank=8,
        needs=frozenset({"training", "plain"}),
        margin=lambda facts: _ratio(2, float(facts.record["eta_scaled"]) * float(facts.record["lambda_max_0"])),
        first=_unstable,
    ),
    Event(
        name="E1",
        title="the initial Gram matrix is within lambda/4 in Frobenius norm",
        rank=4,
        link="initial concentration",
        needs=frozenset({"theory"}),
        margin=lambda facts: _ratio(facts.lam / 4, facts.record["frobenius_error"]),
    ),
    Event(
        name="E1s",
        title="the initial Gram matrix is within lambda/4 in spectral norm",
        rank=7,
        link="initial concentration",
        needs=frozenset({"theory"}),
        margin=lambda facts: _ratio(facts.lam / 4, facts.record["spectral_error"]),
    ),
    Event(
        name="E1m",
        title="the initial smallest eigenvalue is at least 3/4 lambda",
        rank=5,
        link="initial concentration",
        needs=frozenset({"theory", "resolved"}),
        margin=lambda facts: _ratio(facts.record["lambda_0"], 3 / 4 * facts.lam),
    ),
    Event(
        name="E2",
        title="no weight leaves the radius of the proof",
        along_path=True,
        rank=6,
        link="lazy movement",
        needs=frozenset({"training", "reach"}),
        margin=lambda facts: _ratio(facts.record["radius"], facts.record["max_movement"]),
        when="measure",
        update=_left,
        fold="maximum",
    ),
    Event(
        name="E3",
        title="the smallest eigenvalue stays at least lambda/2",
        along_path=True,
        rank=2,
        link="kernel",
        share="kernel",
        needs=frozenset({"training", "kernel", "theory", "resolved"}),
        margin=lambda facts: _ratio(facts.record["lambda_min_path"], facts.lam / 2),
        when="measure",
        update=lambda look: _kernel_lost(look, look.inputs.lambda_cts / 2),
        keeps="lambda_min_path",
        column=Column("lambda_min_path", "float64", "smallest lambda_min(H(t)) at the measured steps; null without E3"),
    ),
    Event(
        name="E4",
        title="the residual stays below the linear rate of the proof",
        along_path=True,
        rank=3,
        link="linear rate",
        share="linear rate",
        needs=frozenset({"training", "plain", "theory"}),
        margin=_rate_margin,
        update=_rate_lost,
        keeps="rate_margin",
    ),
    Event(
        name="E5",
        title="gradient descent converges",
        along_path=True,
        rank=0,
        link="convergence",
        share="probability",
        needs=frozenset({"training", "tolerance"}),
        margin=lambda facts: _ratio(facts.tolerance, facts.record["residual_final"]),
        first=_not_converged,
    ),
    Event(
        name="Ecert",
        title="the refined certificate holds",
        rank=9,
        link="certificate",
        needs=frozenset({"reach"}),
        margin=lambda facts: float(facts.record["certificate_margin"]),
        first=lambda facts, _: None if facts.record["certified"] else 0,
    ),
)
_ON_REQUEST = (
    Event(
        name="E3cert",
        title="the smallest eigenvalue stays at least 2/3 of its start, as a certificate promises",
        claim=None,
        along_path=True,
        rank=13,
        needs=frozenset({"training", "kernel", "reach"}),
        margin=lambda facts: _ratio(
            facts.record["lambda_min_certified"], CERTIFIED / 2 * float(facts.record["lambda_0"])
        ),
        when="measure",
        update=lambda look: _kernel_lost(look, CERTIFIED / 2 * look.initial["lambda_0"]),
        keeps="lambda_min_certified",
    ),
    Event(
        name="E4cert",
        title="the residual stays below the linear rate that a certificate promises",
        claim=None,
        along_path=True,
        rank=14,
        needs=frozenset({"training", "plain", "reach"}),
        margin=lambda facts: _rate_margin(facts, "rate_margin_certified"),
        update=lambda look: _rate_lost(look, CERTIFIED * look.initial["lambda_0"]),
        keeps="rate_margin_certified",
    ),
)
EVENTS: dict[str, Event] = {event.name: event for event in (*_LIST, *_ON_REQUEST)}
"""Every event by name, in the order of configs and pages; `expreg.register` adds to it."""
BUILT_IN = frozenset(EVENTS)
"""Those of the package; all others were registered."""
BUNDLED = tuple(event.name for event in _LIST)
"""What is measured where a config does not say: events that are added later change no config and no cell id."""


# --- which of them a cell is judged by, and what its row says


def at_start() -> list[str]:
    """Return the events that need no training."""
    return [name for name, event in EVENTS.items() if "training" not in event.needs]


def is_plain(settings: Settings) -> bool:
    """Return whether training is gradient descent with one step size, to which the theory applies."""
    training = settings["training"]
    return bool(training["optimizer"]["name"] == "sgd" and training["step_size"]["schedule"] is None)


@once_for("measure", "network", "training")
def judged(settings: Settings) -> list[str]:
    """Return the measured events that mean something in a cell, before its spectrum is known."""
    activation, training = lookup(settings["network"]["activation"]), settings.get("training")
    missing = set() if activation.exponential else {"reach"}
    if activation.expectation is None:
        missing |= {"theory", "reach"}
    if training is None:
        missing |= {"training", "kernel", "plain", "tolerance"}
    else:
        missing |= (set() if is_plain(settings) else {"plain"}) | (
            set() if training["tolerance"] > 0 else {"tolerance"}
        )
    return [name for name in settings["measure"] if EVENTS[name].needs.isdisjoint(missing)]


def row(facts: Facts) -> Row:
    """Return of every measured event whether it holds, first violation step and margin; None if meaningless.

    Null is what is about another algorithm, what theory does not know or prove, and what rounding decides.
    """
    settings, (lowest, highest) = facts.settings, facts.problem.extremes
    hidden = lowest is not None and not lowest > RESOLUTION[settings["precision"]] * highest
    known = [name for name in judged(settings) if not (hidden and "resolved" in EVENTS[name].needs)]
    found = Row()
    for name in settings["measure"]:
        event, margin, first = EVENTS[name], math.nan, None
        if name in known:
            margin = event.margin(facts)
            first = event.violation(facts, margin)
        found[name] = first is None if name in known else None
        found[f"{name}_step"], found[f"{name}_margin"] = first, finite(margin)
    return found


def carried(facts: Facts) -> Row:
    """Return the columns that events carry along the path; None where they were not measured."""
    row = Row()
    for name, event in EVENTS.items():
        if event.column is not None:
            found = facts.record.get(event.column.name) if name in facts.settings["measure"] else None
            row[event.column.name] = None if found is None else float(found)
    return row


def finite(value: Any) -> float | None:
    """Return a number, None where it is not finite."""
    return float(value) if math.isfinite(value) else None


# --- what is checked once, when an event is registered


def check(event: Event) -> list[str]:
    """Return what is wrong with an event, one line each: unknown needs, or an update that gives no pair of scalars."""
    lines = [f"needs {name!r}, expected some of {', '.join(NEEDS)}" for name in sorted({*event.needs} - {*NEEDS})]
    if event.when not in ("step", "measure"):
        lines.append(f"when is {event.when!r}, expected 'step' or 'measure'")
    if event.fold not in ("minimum", "maximum"):
        lines.append(f"fold is {event.fold!r}, expected 'minimum' or 'maximum'")
    if event.column is not None and (event.update is None or event.column.name != event.keeps):
        lines.append(f"column is {event.column.name!r}, expected the name that `keeps` gives to what `update` finds")
    if event.update is not None:
        try:
            value, violated = event.update(_LOOK)
            shapes = np.shape(value), np.shape(violated)
            if shapes != ((), ()) or np.asarray(violated).dtype != bool:
                lines.append(f"update gives shapes {shapes}, expected a number and one boolean")
        except Exception as error:
            lines.append(f"update raised {type(error).__name__}: {error}; expected (number, violated)")
    return [f"event {event.name!r}: {line}" for line in lines]


_ONE, _TWO = np.ones(()), np.ones(2)
_SCALARS = ("m", "scale", "step_factor", "max_steps", "tolerance", "divergence", "lambda_cts", "gram_norm")
_LOOK = Look(
    step=np.ones((), np.int32),
    residual=_ONE,
    previous=_ONE,
    initial_residual=_TWO,
    initial_norm=_ONE,
    eta_scaled=_ONE,
    inputs=SimpleNamespace(X=np.ones((2, 2)), y=_TWO, **dict.fromkeys(_SCALARS, _ONE)),
    initial=defaultdict(lambda: _ONE),
    movement=_ONE,
    lambda_min=_ONE,
)

"""Run every solver on every problem to the same accuracy, and say how long each took."""

import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from expreg import sparse
from expreg.benchmark.judge import REQUIRED, Judge
from expreg.benchmark.peers import PEERS, Peer, missing, objective
from expreg.benchmark.problems import CASES, Case
from expreg.core.page import terminal

REPEATS = 3
WIDTH = 1000  # of the table: no column is cut
LIMIT, QUICK_LIMIT = 60.0, 2.0  # seconds of one solver on one problem, after a few steps that compile what it needs
WARM = 2  # steps of a peer before anything is timed

Solve = Callable[..., Any]  # `expreg.solve`, handed over by the caller


class Outcome(NamedTuple):
    """One solver on one problem: `seconds` is the median of `repeats` runs, None if it did not get there.

    `first_seconds`: a run before those, of two steps for a peer, with all compilation in it. `accuracy`: the judge's
    number (`Judge`) at the end. `steps`: iterates looked at. `note`: why there are no seconds.
    """

    solver: str
    seconds: float | None = None
    first_seconds: float = 0.0
    accuracy: float | None = None
    steps: int = 0
    repeats: int = 0
    note: str = ""


class _Stop(Exception):
    """Ends a peer's loop from inside."""


class _Watch:
    """The judge at a peer's elbow: stops it when it is accurate enough or out of time; its own time is not counted."""

    def __init__(self, judge: Judge, limit: float, steps: int | None = None) -> None:
        self.judge, self.limit, self.most = judge, limit, steps
        self.began, self.judging, self.steps, self.accuracy = time.perf_counter(), 0.0, 0, math.inf
        self.stopped = False

    def __call__(self, x: np.ndarray) -> None:
        entered = time.perf_counter()
        self.accuracy = self.judge(x)
        self.steps += 1
        self.judging += time.perf_counter() - entered
        self.stopped = self.accuracy <= REQUIRED or self.seconds() > self.limit or self.steps == self.most
        if self.stopped:
            raise _Stop

    def seconds(self) -> float:
        return time.perf_counter() - self.began - self.judging


class _Run(NamedTuple):
    seconds: float
    accuracy: float
    steps: int
    note: str


def run(
    solve: Solve,
    names: Sequence[str] = tuple(CASES),
    *,
    quick: bool = False,
    limit: float | None = None,
    peers: Sequence[str] = tuple(PEERS),
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Return one document with the outcomes on the named problems, and what they amount to; `say` gets each line.

    Everyone works in float64 on the same machine in one run, one after the other, to the accuracy `REQUIRED` of the
    judge. Peers start at x = 0; `solve` is called as `solve(A, b, loss=, activation=, solver="auto")` and finds its
    own start, within its time. Needs at most about 6 GiB.
    """
    seconds = (QUICK_LIMIT if quick else LIMIT) if limit is None else limit
    found = []
    with jax.enable_x64(True):
        for name in names:
            case = CASES[name](quick)
            if quick:
                case = case._replace(name="{}, here {} x {}".format(name, *case.A.shape))
            outcomes = []
            for outcome in _outcomes(case, solve, peers, seconds):
                outcomes.append(outcome)
                result = f"{outcome.seconds:.4g} s in {outcome.steps} steps" if outcome.seconds else outcome.note
                say(f"{case.name:38s} {outcome.solver:16s} {result}")
            found.append(_summary(case, outcomes))
    return {"accuracy": REQUIRED, "limit_seconds": seconds, "quick": quick, "problems": found, **_overall(found)}


def _outcomes(case: Case, solve: Solve, peers: Sequence[str], limit: float) -> Iterator[Outcome]:
    judges = [Judge(case.A, b, case.loss, case.activation) for b in case.targets]
    own = partial(_own, case, solve, judges)
    yield _measured("expreg", own, own)
    A = jax.tree.map(jnp.asarray, sparse.from_any(case.A))
    problems = [objective(A, b, case.loss, case.activation, case.x0) for b in case.targets]
    for name in peers:
        peer = PEERS[name]
        reason = missing(peer, case.A.shape)
        if reason:
            yield Outcome(name, note=reason)
        else:
            warm = partial(_peer, peer, case, problems[:1], judges, math.inf, WARM)
            yield _measured(name, warm, partial(_peer, peer, case, problems, judges, limit))


def _own(case: Case, solve: Solve, judges: list[Judge]) -> _Run:
    """Solve for all targets at once."""
    began = time.perf_counter()
    b = case.targets[0] if len(case.targets) == 1 else np.stack(case.targets, axis=1)
    answer = solve(case.A, b, loss=case.loss, activation=case.activation, solver="auto")
    elapsed = time.perf_counter() - began
    accuracy = [judge(np.asarray(x)) for judge, x in zip(judges, np.reshape(answer.x, (-1, len(case.x0))), strict=True)]
    worst = int(np.argmax(accuracy))
    return _Run(elapsed, accuracy[worst], int(np.sum(answer.steps)), f"target {worst}: {answer.message}")


def _peer(
    peer: Peer, case: Case, problems: list[Any], judges: list[Judge], limit: float, steps: int | None = None
) -> _Run:
    runs: list[_Run] = []
    for problem, judge in zip(problems, judges, strict=False):
        watch = _Watch(judge, limit / len(problems), steps)
        with suppress(_Stop), np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of peers about the rules of their own that are switched off
            peer.run(problem, case.x0, watch)
        why = f"out of time after {watch.limit:.3g} s" if watch.stopped else "stopped by itself"
        runs.append(_Run(watch.seconds(), watch.accuracy, watch.steps, why))
        if watch.accuracy > REQUIRED:
            break  # the others would not change that
    worst = max(runs, key=lambda run: run.accuracy)
    return worst._replace(seconds=sum(run.seconds for run in runs), steps=sum(run.steps for run in runs))


def _measured(name: str, warm: Callable[[], _Run], once: Callable[[], _Run]) -> Outcome:
    """Warm up, then run until the median stands, or once if that was not accurate enough."""
    began = time.perf_counter()
    try:
        warm()
        first = time.perf_counter() - began
        runs = [once()]
        while runs[-1].accuracy <= REQUIRED and len(runs) < REPEATS:
            runs.append(once())
    except Exception as failure:  # a solver that breaks on a problem has not solved it: that is its result
        note = f"{type(failure).__name__}: {failure}"[:200]
        return Outcome(name, first_seconds=time.perf_counter() - began, note=note)
    _, accuracy, steps, note = runs[-1]
    if accuracy > REQUIRED:
        note = f"{note}; accuracy {accuracy:.1e}, expected {REQUIRED:.0e}"
        return Outcome(name, None, first, accuracy, steps, len(runs), note)
    return Outcome(name, statistics.median(run.seconds for run in runs), first, accuracy, steps, len(runs))


def _summary(case: Case, outcomes: list[Outcome]) -> dict[str, Any]:
    own = outcomes[0].seconds
    rivals = {outcome.solver: outcome.seconds for outcome in outcomes[1:] if outcome.seconds is not None}
    best = min(rivals, key=lambda name: rivals[name]) if rivals else None
    return {
        "problem": case.name,
        "loss": case.loss,
        "activation": case.activation,
        "rows": case.A.shape[0],
        "columns": case.A.shape[1],
        "nnz": int(getattr(case.A, "nnz", case.A.size)),
        "sparse": hasattr(case.A, "nnz"),
        "targets": len(case.targets),
        "outcomes": [outcome._asdict() for outcome in outcomes],
        "best_peer": best,
        "times_faster": rivals[best] / own if best and own else None,
    }


def _overall(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Return on how many problems we are first, and the geometric mean of the ratios to the best peer of each.

    Where no peer got there we are first without a ratio; where we did not get there we are not first, and the
    number of problems in the geometric mean is given with it.
    """
    ratios = [one["times_faster"] for one in found if one["times_faster"]]
    alone = [one for one in found if one["best_peer"] is None and one["outcomes"][0]["seconds"] is not None]
    mean = statistics.geometric_mean(ratios) if ratios else None
    first = sum(ratio > 1 for ratio in ratios) + len(alone)
    return {"first_on": first, "of": len(found), "geometric_mean": mean, "mean_over": len(ratios)}


def text(document: dict[str, Any]) -> str:
    """Return the table that people read: seconds per solver and problem, notes below."""
    solvers = [outcome["solver"] for outcome in document["problems"][0]["outcomes"]]
    rows = [
        [
            one["problem"],
            *("-" if o["seconds"] is None else f"{o['seconds']:.4g}" for o in one["outcomes"]),
            f"{one['times_faster']:.2f}x" if one["times_faster"] else "-",
        ]
        for one in document["problems"]
    ]
    outcomes = [(one["problem"], outcome) for one in document["problems"] for outcome in one["outcomes"]]
    notes = dict.fromkeys(f"{problem}: {o['solver']}: {o['note']}" for problem, o in outcomes if o["note"])
    first, mean = max(o["first_seconds"] for _, o in outcomes), document["geometric_mean"]
    over = f"; geometric mean {mean:.2f}x over the best peer of {document['mean_over']} problems" if mean else ""
    lines = [
        *terminal.lines(["problem", *solvers, "faster"], rows, right=True, indent=0, width=WIDTH),
        "",
        f"seconds, median of {REPEATS}, to accuracy {document['accuracy']:.0e}; warm-up with "
        f"compilation, not counted, took up to {first:.1f} s",
        f"expreg first on {document['first_on']} of {document['of']}{over}",
    ]
    return "\n".join([*lines, "", *notes] if notes else lines)

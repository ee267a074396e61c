"""Side-by-side timings with peers, on problems that everyone gets and by a judge that belongs to nobody."""

from collections.abc import Callable
from typing import Any

from expreg.errors import InputError, Problem

SUITES = ("regression", "scaling", "columns", "sweep")


def bench(
    suite: str, *, quick: bool, limit: float | None, only: str | None, say: Callable[[str], None]
) -> tuple[dict[str, Any], str]:
    """Run a suite of the benchmark; return its document and its table. Progress goes to `say`. Raises InputError."""
    from expreg.benchmark import columns, scaling, sweep
    from expreg.benchmark import suite as regression
    from expreg.benchmark.problems import CASES
    from expreg.solver import solve

    if suite not in SUITES:
        raise InputError(Problem("E-ENUM", f"got {suite!r}, expected one of {', '.join(SUITES)}", key="SUITE"))
    if suite == "sweep":
        found = sweep.run(quick=quick, only=only, say=say)
        return found, sweep.text(found)
    if suite == "columns":
        found = columns.run(quick=quick, say=say)
        return found, columns.text(found)
    if suite == "scaling":
        found = scaling.run(solve, quick=quick, say=say)
        return found, scaling.text(found)
    names = [name for name in CASES if only is None or only in name]
    if not names:
        message = f"got {only!r}, expected part of the name of a problem: {'; '.join(CASES)}"
        raise InputError(Problem("E-ENUM", message, key="--only"))
    found = regression.run(solve, names, quick=quick, limit=limit, say=say)
    return found, regression.text(found)

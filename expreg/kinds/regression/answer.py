"""What a run of `regression` found, in a sentence and a table: which method solves how many problems, at what cost."""

from collections.abc import Sequence

import pandas as pd

from expreg.core.stats.describe import Record, quartiles, shown, split


def label(values: Record, settings: Sequence[str]) -> str:
    """Return a method in words: solver, sketch with its size, and those of the `settings` that differ."""
    size: str = "" if pd.isna(values["sketch_size"]) else f" {int(values['sketch_size'])}"
    sketched = "" if values["sketch"] == "none" else f", {values['sketch']}{size}"
    return f"{values['solver']}{sketched}" + "".join(f", {name} = {shown(values[name])}" for name in settings)


def describe(cells: pd.DataFrame, method: Sequence[str], problem: Sequence[str]) -> Record:
    """Return sentences and table on the problems that every method ran, those that solve most most cheaply first.

    `method`: the columns that make a method, solver, sketch and sketch_size the first of them; `problem`: those that
    make a problem. Where no problem was given to all methods there is no comparison, hence no sentence.
    """
    methods = list(split(cells, method))
    problems = cells.groupby([name for name in problem if name in cells], dropna=False, sort=False).ngroup()
    shared = set(problems).intersection(*(problems[rows.index] for _, rows in methods))
    found = [_method(values, rows[problems[rows.index].isin(shared)], method[3:]) for values, rows in methods if shared]
    ranked = sorted(found, key=lambda one: (-one["share"], one["passes"]["median"] or 0.0))
    note = f"{len(shared)} problems{', those that every method ran' if len(methods) > 1 else ''}; medians and quartiles"
    rows = [
        [one["label"], one["cells"], one["converged"], *(_cell(one[name]) for name in ("steps", "passes"))]
        for one in ranked
    ]
    return {
        "sentences": [_sentence(ranked[0], len(ranked))] if ranked else [],
        "table": {
            "columns": ["method", "runs", "converged", "steps", "passes"],
            "rows": rows,
            "note": f"{note} of steps and of passes over A where a method converged.",
        },
    }


def _method(values: Record, rows: pd.DataFrame, settings: Sequence[str]) -> Record:
    done = rows[rows["status"] == "converged"]
    counts = {"cells": len(rows), "converged": len(done), "share": len(done) / max(len(rows), 1)}
    return {"label": label(values, settings), **counts, **{name: quartiles(done[name]) for name in ("steps", "passes")}}


def _sentence(best: Record, methods: int) -> str:
    first = (
        f"Of {methods} methods {best['label']} solves most with the fewest passes: it" if methods > 1 else best["label"]
    )
    steps, passes = (best[name]["median"] for name in ("steps", "passes"))
    cost = (
        ""
        if steps is None
        else f", in {steps:g} step{'' if steps == 1 else 's'} and {passes:g} passes over A (medians)"
    )
    return f"{first} converges on {best['converged']} of {best['cells']} problems{cost}."


def _cell(found: Record) -> tuple[float, float, float] | None:
    return None if found["median"] is None else (found["median"], found["low"], found["high"])

"""The user's own A and b: what is wrong with them, before anything is written."""

import json
from collections.abc import Sequence
from dataclasses import replace

from expreg import data
from expreg.errors import InputError, Problem
from expreg.solver.validate import check as check_arrays
from expreg.types import Settings


def check(cells: Sequence[Settings]) -> list[Problem]:
    """Return what is wrong with the files of these cells, read once per problem and solver."""
    own = {
        json.dumps((settings["problem"], settings["solver"]), sort_keys=True): settings
        for settings in cells
        if "path" in settings["problem"]
    }
    return [problem for settings in own.values() for problem in _problems(settings)]


def _problems(settings: Settings) -> list[Problem]:
    """Return what is wrong with A and b for this loss, activation and solver."""
    given, chosen = settings["problem"], settings["solver"]
    named = {key: given[key] for key in ("loss", "activation")} | {"solver": chosen["name"]}
    sketch = None if chosen["sketch"] == "none" else chosen["sketch"]
    try:
        A, b = data.read_problem(given["path"], given["target_path"])
        check_arrays(A, b, **named, sketch=sketch, weights=given["weight"], x0=None, tol=1e-10)
    except InputError as error:
        return [replace(problem, file=problem.file or given["path"]) for problem in error.problems]
    return []

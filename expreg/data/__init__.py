"""Points and labels: random geometries, bundled digits, the user's files, and what must hold for all of them.

JAX is imported when something is drawn, not before.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from expreg.data.files import data_shape, read_arrays, read_file, sha256
from expreg.data.heads import HEADS, Attention, attention, attention_row, save_heads
from expreg.data.kinds import DATA, LABELS, DataKind, LabelKind, draw, make, together
from expreg.data.matrices import read_problem, read_vector, without_empty
from expreg.data.validate import validate
from expreg.errors import InputError, Problem

__all__ = [
    "DATA",
    "HEADS",
    "LABELS",
    "Attention",
    "DataKind",
    "LabelKind",
    "attention",
    "attention_row",
    "check_file",
    "data_shape",
    "draw",
    "make",
    "read_arrays",
    "read_problem",
    "read_vector",
    "save_heads",
    "sha256",
    "together",
    "validate",
    "without_empty",
]


def check_file(options: Mapping[str, Any], *, activation: str) -> list[Problem]:
    """Return what is wrong with the file that the `data` settings name, read as the run would read it."""
    try:
        X, y = read_file(options)
    except InputError as failure:
        return list(failure.problems)
    if y is None and options["labels"]["kind"] == "given":
        message = "the file has no labels; name their column by target, or expected labels.kind sign or teacher"
        return [Problem("E-DATA", message, key="data.labels", file=str(options["path"]))]
    labels = np.zeros(len(X)) if y is None else y
    allowed = bool(options.get("allow_duplicates", False))
    return validate(X, labels, activation=activation, allow_duplicates=allowed, name=str(options["path"]))

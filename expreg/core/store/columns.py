"""What rows must be to fit the columns that their experiment declares, and in which order tables have them."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from expreg.types import BASE, FAILED, Column, Status

CURVE = "curve_"
"""What the name of a curve begins with in a row and in a part."""
NAMES = tuple(column.name for column in BASE)
_KINDS: Mapping[str, tuple[type, type]] = {  # what most values are, and what else may stand for it
    "string": (str, str),
    "bool": (bool, bool),
    "int64": (int, Integral),
    "float64": (float, Real),
}
STATUSES = (*(status.name for status in Status if status), *FAILED)
TYPES = tuple(_KINDS)
"""The types that a column may have."""


def types_of(columns: Sequence[Column]) -> dict[str, str]:
    """Return the types of an experiment's columns by name, with those that every experiment has."""
    return {column.name: column.type for column in (*BASE, *columns)}


def check_row(row: Mapping[str, Any], types: Mapping[str, str]) -> None:
    """Raise ValueError unless a row has a status, declared columns only, of their types, and curves of equal length."""
    if row.get("status") not in STATUSES:
        raise ValueError(f"status is {row.get('status')!r}, expected one of {', '.join(STATUSES)}")
    curves = []
    for name, value in row.items():
        if value is None or (name in types and type(value) is _KINDS[types[name]][0]):
            continue
        if name.startswith(CURVE):
            curves.append(name)
            continue
        if name not in types:
            raise ValueError(f"column {name!r} is not declared by the experiment")
        value = value.item() if isinstance(value, np.generic) else value
        if not isinstance(value, _KINDS[types[name]]) or (isinstance(value, bool) and types[name] != "bool"):
            raise ValueError(f"column {name!r} is {type(value).__name__}, declared as {types[name]}")
    check_curves(row, curves)


def check_curves(row: Mapping[str, Any], curves: Iterable[str]) -> None:
    """Raise ValueError unless the lists of a row's curve, which has these names, are equally long."""
    lengths = {name: len(row[name]) for name in curves if row.get(name) is not None}
    if lengths and (f"{CURVE}step" not in lengths or len(set(lengths.values())) > 1):
        raise ValueError(f"cell {row['cell']}: curves of unequal length: {lengths}")


def in_order(given: Collection[str], columns: Iterable[Column]) -> list[str]:
    """Return the columns of a part: those of every experiment, the declared ones that are there, axes, curves."""
    declared = [column.name for column in columns if column.name in given and column.name not in NAMES]
    rest = sorted(set(given) - {*NAMES, *declared}, key=lambda name: (name.startswith(CURVE), name))
    return [*NAMES, *declared, *rest]


def merged(parts: Iterable[Sequence[str]], axes: Collection[str]) -> list[str]:
    """Return the columns of a table from those of its parts, in the order that the parts agree upon.

    A column that only a later part has stands behind the one before it there; `axes` are last but for the curves.
    """
    order = list(NAMES)
    for names in parts:
        place = 0
        for name in names:
            if name not in order:
                order.insert(place, name)
            place = order.index(name) + 1

    def place_of(name: str) -> tuple[bool, bool, str]:
        curve, axis = name.startswith(CURVE), name in axes
        return curve, axis, name if curve or axis else ""

    return sorted(order, key=place_of)

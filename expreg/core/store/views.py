"""A run as a Dataset of xarray."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from expreg.errors import InputError, Problem, optional

if TYPE_CHECKING:
    import xarray

MOST = 10**7
"""Entries that a variable of a Dataset may have."""


def dataset(
    cells: pd.DataFrame, axes: Sequence[str], along: Sequence[str], meanings: Mapping[str, str]
) -> "xarray.Dataset":
    """Return cells as a Dataset: a dimension per axis, a variable of floats per column of numbers, nan where none is.

    `along`: columns that the first axis determines, which become its coordinates. Raises InputError without xarray, or
    where the axes do not identify a cell or span too many entries.
    """
    xr = optional("xarray", "frames")
    pairs = [pd.factorize(_plain(cells[axis]), sort=True, use_na_sentinel=False) for axis in axes]
    shape = tuple(len(labels) for _, labels in pairs)
    size = math.prod(shape)
    repeated = bool(cells.duplicated(list(axes)).any()) if axes else len(cells) > 1
    if repeated or size > MOST:
        why = "do not identify a cell" if repeated else f"span {size} entries for {len(cells)} cells, limit {MOST}"
        raise InputError(Problem("E-AXES", f"the axes {', '.join(axes)} {why}; `Run.cells` has a row for each"))
    place = np.ravel_multi_index([codes for codes, _ in pairs], shape) if axes else np.zeros(len(cells), int)

    def variable(name: str) -> Any:
        values = np.full(size, np.nan)
        values[place] = cells[name].to_numpy(float, na_value=np.nan)
        return list(axes), values.reshape(shape), {"long_name": meanings.get(name, name)}

    numbers = cells.select_dtypes(["number", "bool", "boolean"]).columns.difference([*axes, *along], sort=False)
    found = xr.Dataset(
        {name: variable(name) for name in numbers}, dict(zip(axes, (of for _, of in pairs), strict=True))
    )
    first = cells.drop_duplicates(axes[0]).sort_values(axes[0]) if along else cells
    return found.assign_coords({name: (axes[0], _plain(first[name])) for name in along})


def _plain(column: pd.Series) -> np.ndarray:
    """Return a column as NumPy has it; a missing value is nan among numbers and empty among texts."""
    if not column.isna().any():
        return column.to_numpy()
    numeric = pd.api.types.is_numeric_dtype(column)
    return column.to_numpy(float, na_value=np.nan) if numeric else column.fillna("").to_numpy()

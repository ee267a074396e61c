"""Split the rows of a run into comparable groups and read the outcomes of each criterion out of them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from expreg.core.stats import describe, settings
from expreg.core.stats.describe import Floats
from expreg.kinds.network.columns import INNER
from expreg.kinds.network.events import EVENTS
from expreg.types import FAILED

# Axes that are measured along or averaged over (replicate), and what `data` says.
_INNER_AXES = {*INNER, "replicate", "data", "data.kind"}
_DIMENSION_AXES = {"d", "data.d"}


class Criterion(NamedTuple):
    """What "success" means: an event of (C.27), or a measured number that stays at or below a limit.

    `claim` is the exponent of n in the width that the theorem asks for, after the factor log(n/delta); None where
    the theorem claims none. `along_path` marks what is judged over the whole trajectory. `rank`: place among all
    criteria, most telling first; it decides order and colour in figures. `link`: the step of the proof that it
    stands for. `share`: the claim about its share of successes at the widest m. `holds(rows)`: 1, 0 or nan for each
    of the prepared rows; None for an event, whose column says whether it holds.
    """

    name: str
    title: str
    claim: float | None
    along_path: bool
    rank: int
    link: str = ""
    share: str = ""
    holds: Callable[[pd.DataFrame], Floats] | None = None


def _within(measured: pd.Series, limit: Any) -> Floats:
    """Return per row whether what is measured stays at or below its limit, nan where either is missing."""
    return np.where(measured.notna() & np.isfinite(limit), measured <= limit, np.nan)


def _proof_radius(rows: pd.DataFrame) -> pd.Series:
    """Return lambda / (2 e^2 n), a radius like that of the proof."""
    return rows["lambda_cts"] / (2.0 * np.e**2 * rows["n"])


def _refined(rows: pd.DataFrame) -> Floats:
    """Judge the movement in units of the radii (C.22); a network without radii has none to stay within."""
    moved = rows["refined_movement"]
    return _within(moved.mask(moved.isna() & np.isfinite(rows["radius"]), np.inf), 1.0)


DERIVED = (
    Criterion(
        *("movement", "no weight moves further than lambda/(2 e^2 n), a radius like the proof's", 2.0, True, 1),
        link="lazy movement",
        holds=lambda rows: _within(rows["max_movement"], _proof_radius(rows)),
    ),
    Criterion(
        *("movement_frobenius", "no weight leaves the radius of the Frobenius argument", None, True, 11),
        holds=lambda rows: _within(rows["max_movement"], rows["radius_frobenius"]),  # (C.10)
    ),
    Criterion(
        *("movement_refined", "each weight stays within its own radius of the certificate", None, True, 10),
        holds=_refined,
    ),
    Criterion(
        "movement_linearised",
        "no weight of the linearised network moves further than lambda/(2 e^2 n)",
        *(None, False, 12),
        holds=lambda rows: _within(rows["movement_linearised"], _proof_radius(rows)),  # (B.24)
    ),
)
MOVEMENT_FIXED = Criterion(
    *("movement_fixed", "no weight moves further than 0.1", None, True, 99),
    holds=lambda rows: _within(rows["max_movement"], 0.1),
)
"""A radius that depends neither on n nor on lambda; for comparison only, and in no figure."""
FIT = Criterion("fit", "the data are fitted", None, True, 99, holds=lambda rows: rows["fit"].to_numpy())
"""Of `capacity`, where it is the only one."""
LINKS = ("initial concentration", "certificate", "lazy movement", "kernel", "linear rate", "convergence")
"""In the order of the proof; the certificate is the same chain, followed with the numbers of one network."""


def criteria() -> tuple[Criterion, ...]:
    """Return all criteria: the events, as many as there are now, then those derived from measured numbers."""
    fields = ("name", "title", "claim", "along_path", "rank", "link", "share")
    return (*(Criterion(*(getattr(event, field) for field in fields)) for event in EVENTS.values()), *DERIVED)


_NUMBERS = (
    *("n", "m", "d", "eta", "scale", "steps", "tolerance", "lambda_cts", "lambda_max_cts", "label_norm", "gram_norm"),
    *("lambda_max_0", "eta_certified", "max_steps", "residual_initial"),
    *("max_movement", "refined_movement", "movement_linearised", "radius", "radius_frobenius", "fit"),
    *("frobenius_error", "frobenius_expected"),
)
_DEFAULTS: dict[str, str | float] = {
    "data": "data",
    "status": "unknown",
    "optimizer": "sgd",
    "scale": 1.0,
    "replicate": 0,
    "cell": "",
}


class Group(NamedTuple):
    """Rows that differ in n, m and replicate only; `key` names what they share."""

    key: dict[str, Any]
    label: str
    rows: pd.DataFrame


class Outcomes(NamedTuple):
    """Outcomes of one criterion at one n.

    `widths` (G,) ascending; `success` (S, G) with 1 success, 0 none, nan missing (failed or not run).
    """

    widths: Floats
    success: Floats


def prepare(cells: pd.DataFrame) -> pd.DataFrame:
    """Return `cells` with every column that the analysis reads; nan where null or absent.

    Numbers and events become float64. Where absent, data is "data", the optimizer sgd, the scale 1 and the
    replicate 0. Rows without n or m are left out: there is nothing to place them at.
    """
    # The order of the parts on disk is chance; the summary must not depend on it.
    found = cells.sort_values("cell") if "cell" in cells else cells
    columns: dict[str, Any] = {}
    for name in (*_NUMBERS, *EVENTS, *(f"{event}_{what}" for event in EVENTS for what in ("margin", "step"))):
        values = found[name] if name in found else pd.Series(np.nan, found.index)
        columns[name] = pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    for name, default in _DEFAULTS.items():
        columns[name] = found[name].fillna(default) if name in found else default
    others = found.drop(columns=[name for name in columns if name in found])
    rows = pd.concat([others, pd.DataFrame(columns, index=found.index)], axis=1)
    return rows[rows["n"].notna() & rows["m"].notna()].reset_index(drop=True)


def split(cells: pd.DataFrame, axes: Sequence[str]) -> list[Group]:
    """Return the groups of prepared `cells`, alike in data kind and all axes but n, m, replicate and d(n).

    Cells that repeat a (group, n, m, replicate) count as further replicates.
    """
    keys = ["data", *_outer_axes(cells, axes)]
    codes, values = pd.factorize(cells["replicate"], sort=True)
    repeat = cells.groupby([*keys, "n", "m", "replicate"], dropna=False).cumcount().to_numpy()
    parts = list(describe.split(cells.assign(_replicate=codes + len(values) * repeat), keys))
    dimensions, several = _dimensions(parts), len({key["data"] for key, _ in parts}) > 1
    return [
        Group(key, _label(key, dimension, several), rows)
        for (key, rows), dimension in zip(parts, dimensions, strict=True)
    ]


def _outer_axes(rows: pd.DataFrame, axes: Sequence[str]) -> list[str]:
    outer = [axis for axis in axes if axis in rows and axis not in _INNER_AXES]
    others = [axis for axis in outer if axis not in _DIMENSION_AXES]
    values = rows.groupby(["data", *others, "n"], dropna=False)
    # d = n or d = 2n belongs to the scaling in n; only a dimension that is free at given n makes groups.
    free = [axis for axis in outer if axis in _DIMENSION_AXES and (values[axis].nunique(dropna=False) > 1).any()]
    return others + free


def _dimensions(parts: Sequence[tuple[dict[str, Any], pd.DataFrame]]) -> list[dict[str, str]]:
    """Return for each group what to show in place of axes that only served to set d, such as d = 2n; mostly nothing.

    Such axes have names of the user's own, and they and the way in which d follows n determine each other.
    """
    names = sorted({name for key, _ in parts for name in key if "." not in name} - {"data", "seed", "precision", "d"})
    found = [_dimension(rows) for _, rows in parts]
    values = [tuple(str(key.get(name)) for name in names) for key, _ in parts]
    one_to_one = len(set(zip(values, found, strict=True))) == len(set(values)) == len(set(found)) > 1
    if not names or None in found or not one_to_one:
        return [{} for _ in parts]
    return [dict.fromkeys(names, f"d = {dimension}") for dimension in found]


def _dimension(rows: pd.DataFrame) -> str | None:
    """Return d as "n", "2n" or "8"; None where it is neither proportional to n nor constant, or n is one value."""
    if rows["n"].nunique() < 2 or rows["d"].isna().any():
        return None
    ratio = (rows["d"] / rows["n"]).unique()
    if len(ratio) == 1:
        return "n" if ratio[0] == 1 else f"{ratio[0]:g}n"
    return f"{rows['d'].iloc[0]:g}" if rows["d"].nunique() == 1 else None


def _label(key: dict[str, Any], instead: dict[str, str], several: bool) -> str:
    """Return what sets a group apart in words: its axes, and its data where there are `several` kinds or no axes."""
    # An axis that does not apply to this kind of data has no value here. `data.kind` says what `data` says.
    own = {name: value for name, value in key.items() if name not in ("data", "data.kind") and not pd.isna(value)}
    called = settings.short(list(own))
    parts = [instead.get(name, f"{called[name]} = {describe.shown(value)}") for name, value in own.items()]
    return ", ".join([*[str(key["data"])] * (several or not parts), *dict.fromkeys(parts)])


def plain(rows: pd.DataFrame) -> pd.Series:
    """Return per row whether training is gradient descent with one step size, to which the theory applies."""
    constant = rows["schedule"].isna() if "schedule" in rows else True
    return (rows["optimizer"] == "sgd") & constant


def judge(rows: pd.DataFrame, criterion: Criterion) -> pd.Series | None:
    """Return per row 1 (success), 0 (none) or nan (missing); None if the criterion was measured nowhere.

    A failed cell (oom, timeout, error) says nothing about the mathematics: it is missing, never "no success". A run
    that left the range of numbers violated the path events that could no longer be measured on it.
    """
    found = rows[criterion.name] if criterion.holds is None else pd.Series(criterion.holds(rows), rows.index)
    found = found.mask(rows["status"].isin(FAILED))
    if found.isna().all():
        return None
    broken_off = rows["status"].isin(("diverged", "nonfinite")) & found.isna()
    return found.mask(broken_off, 0.0) if criterion.along_path else found


def outcomes(rows: pd.DataFrame, success: pd.Series) -> Outcomes:
    """Lay out the outcomes of rows at one n as replicates by widths; nan for absent cells."""
    widths, column = np.unique(rows["m"], return_inverse=True)
    replicates, line = np.unique(rows["_replicate"], return_inverse=True)
    table = np.full((len(replicates), len(widths)), np.nan)
    table[line, column] = success[rows.index]
    return Outcomes(widths.astype(np.float64), table)

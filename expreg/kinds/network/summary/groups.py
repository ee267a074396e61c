"""Split the rows of a run into comparable groups and read the outcomes of each criterion out of them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from expreg.core.stats import describe
from expreg.kinds.network.events import EVENTS
from expreg.types import FAILED

Floats = NDArray[np.float64]

# A run that left the range of numbers violated the path events that could no longer be measured on it.
_BROKEN_OFF = ("diverged", "nonfinite")

# Axes that are measured along (n, m) or averaged over (replicate), under both names a config may give them.
_INNER_AXES = {"n", "data.n", "m", "network.m", "replicate", "data", "data.kind"}
_DIMENSION_AXES = {"d", "data.d"}


class Criterion(NamedTuple):
    """What "success" means: an event of (C.27), or a measured number that stays at or below a limit.

    `claim` is the exponent of n in the width that the theorem asks for, after the factor log(n/delta); None where
    the theorem claims none. `along_path` marks what is judged over the whole trajectory. `rank`: place among all
    criteria, most telling first; it decides order and colour in figures. `link`: the step of the proof that it
    stands for. `share`: the claim about its share of successes at the widest m. `measured`, `limit`: arrays from
    prepared rows; None for an event, whose column says whether it holds.
    """

    name: str
    title: str
    claim: float | None
    along_path: bool
    rank: int
    link: str = ""
    share: str = ""
    measured: Callable[[pd.DataFrame], Any] | None = None
    limit: Callable[[pd.DataFrame], Any] | None = None


def _proof_radius(rows: pd.DataFrame) -> Floats:
    """Return lambda / (2 e^2 n), a radius like that of the proof."""
    return rows["lambda_cts"].to_numpy() / (2.0 * np.e**2 * rows["n"].to_numpy())


def _refined_movement(rows: pd.DataFrame) -> Floats:
    """Return the movement in units of the radii (C.22); a network without radii has none to stay within."""
    moved = rows["refined_movement"].to_numpy(copy=True)
    moved[np.isnan(moved) & np.isfinite(rows["radius"].to_numpy())] = np.inf
    return moved


DERIVED = (
    Criterion(
        *("movement", "no weight moves further than lambda/(2 e^2 n)", 2.0, True, 1, "lazy movement"),
        measured=lambda rows: rows["max_movement"].to_numpy(),
        limit=_proof_radius,
    ),
    Criterion(
        *("movement_frobenius", "no weight leaves the radius of the Frobenius argument", None, True, 11),
        measured=lambda rows: rows["max_movement"].to_numpy(),
        limit=lambda rows: rows["radius_frobenius"].to_numpy(),  # (C.10)
    ),
    Criterion(
        *("movement_refined", "each weight stays within its own radius of the certificate", None, True, 10),
        measured=_refined_movement,
        limit=lambda rows: np.ones(len(rows)),
    ),
    Criterion(
        "movement_linearised",
        "no weight of the linearised network moves further than lambda/(2 e^2 n)",
        *(None, False, 12),
        measured=lambda rows: rows["movement_linearised"].to_numpy(),  # (B.24)
        limit=_proof_radius,
    ),
)
LINKS = ("initial concentration", "certificate", "lazy movement", "kernel", "linear rate", "convergence")
"""In the order of the proof; the certificate is the same chain, followed with the numbers of one network."""


def events() -> tuple[Criterion, ...]:
    """Return the criteria that are events, as many as there are now."""
    return tuple(
        Criterion(event.name, event.title, event.claim, event.along_path, event.rank, event.link, event.share)
        for event in EVENTS.values()
    )


def criteria() -> tuple[Criterion, ...]:
    """Return all criteria: the events, then those derived from measured numbers."""
    return (*events(), *DERIVED)


_NUMBERS = (
    *("n", "m", "d", "eta", "scale", "steps", "tolerance", "lambda_cts", "lambda_max_cts", "label_norm", "gram_norm"),
    *("max_movement", "refined_movement", "movement_linearised", "radius", "radius_frobenius"),
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

    `widths` (G,) ascending; `success` (S, G) with 1 success, 0 none, nan missing (failed or not run yet).
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
    names = [criterion.name for criterion in events()]
    named = (*_NUMBERS, *names, *(f"{event}_{what}" for event in names for what in ("margin", "step")))
    columns: dict[str, Any] = {name: _numbers(found[name]) if name in found else np.nan for name in named}
    for name, default in _DEFAULTS.items():
        columns[name] = found[name].fillna(default) if name in found else default
    others = found.drop(columns=[name for name in columns if name in found])
    rows = pd.concat([others, pd.DataFrame(columns, index=found.index)], axis=1)
    return rows[rows["n"].notna() & rows["m"].notna()].reset_index(drop=True)


def _numbers(values: pd.Series) -> Floats:
    return pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)


def split(cells: pd.DataFrame, axes: Sequence[str]) -> list[Group]:
    """Return the groups of prepared `cells`, alike in data kind and all axes but n, m, replicate and d(n)."""
    keys = ["data", *_outer_axes(cells, axes)]
    rows = cells.assign(_replicate=_replicate_codes(cells, keys))
    parts = [
        (dict(zip(keys, values, strict=True)), part) for values, part in rows.groupby(keys, dropna=False, sort=True)
    ]
    dimensions = _dimensions(parts)
    return [_group(key, part, dimension) for (key, part), dimension in zip(parts, dimensions, strict=True)]


def _dimensions(parts: Sequence[tuple[dict[str, Any], pd.DataFrame]]) -> list[dict[str, str]]:
    """Return for each group what to show in place of axes that only served to set d, such as d = 2n; mostly nothing.

    Such axes have names of the user's own, and they and the way in which d follows n determine each other.
    """
    names = {name for key, _ in parts for name in key if "." not in name} - {"data", "seed", "precision", "d"}
    found = [_dimension(part) for _, part in parts]
    values = [tuple(str(key.get(name)) for name in sorted(names)) for key, _ in parts]
    pairs = set(zip(values, found, strict=True))
    one_to_one = len(pairs) == len(set(values)) == len(set(found)) > 1
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


def _outer_axes(rows: pd.DataFrame, axes: Sequence[str]) -> list[str]:
    outer = [axis for axis in axes if axis in rows and axis not in _INNER_AXES]
    dimension = [axis for axis in outer if axis in _DIMENSION_AXES]
    others = [axis for axis in outer if axis not in _DIMENSION_AXES]
    values = rows.groupby(["data", *others, "n"], dropna=False)
    # d = n or d = 2n belongs to the scaling in n; only a dimension that is free at given n makes groups.
    return others + [axis for axis in dimension if (values[axis].nunique(dropna=False) > 1).any()]


def _replicate_codes(rows: pd.DataFrame, keys: list[str]) -> NDArray[np.int64]:
    """Return replicate numbers; cells that repeat a (group, n, m, replicate) count as further replicates."""
    codes, values = pd.factorize(rows["replicate"], sort=True)
    placed = rows.assign(_code=codes)
    repeat = placed.groupby([*keys, "n", "m", "_code"], dropna=False).cumcount().to_numpy()
    return np.asarray(codes + len(values) * repeat, dtype=np.int64)


def _group(key: dict[str, Any], rows: pd.DataFrame, instead: dict[str, str]) -> Group:
    # An axis that does not apply to this kind of data has no value here. `data.kind` says what `data` says.
    own = {name: value for name, value in key.items() if name not in ("data", "data.kind") and not pd.isna(value)}
    parts = [instead.get(name, f"{_short(name, own)} = {describe.shown(value)}") for name, value in own.items()]
    return Group(key, ", ".join([str(key["data"]), *dict.fromkeys(parts)]), rows)


def _short(name: str, others: Iterable[str]) -> str:
    """Return the last part of a dotted name that says something, where that is clear: `data.labels.kind` is labels."""
    last = _last(name)
    return last if sum(_last(other) == last for other in others) == 1 else name


def _last(name: str) -> str:
    return name.removesuffix(".kind").removesuffix(".name").rsplit(".", 1)[-1]


def judge(rows: pd.DataFrame, criterion: Criterion) -> Floats | None:
    """Return per row 1 (success), 0 (none) or nan (missing); None if the criterion was measured nowhere.

    A failed cell (oom, timeout, error) says nothing about the mathematics: it is missing, never "no success".
    """
    outcome = rows[criterion.name].to_numpy(copy=True) if criterion.limit is None else _within(rows, criterion)
    outcome[rows["status"].isin(FAILED).to_numpy()] = np.nan
    if np.isnan(outcome).all():
        return None
    if criterion.along_path:
        broken = rows["status"].isin(_BROKEN_OFF).to_numpy()
        outcome[broken & np.isnan(outcome)] = 0.0
    return outcome


def _within(rows: pd.DataFrame, criterion: Criterion) -> Floats:
    """Return per row whether what is measured stays at or below its limit, nan where either is missing."""
    assert criterion.measured is not None
    assert criterion.limit is not None
    measured, limit = criterion.measured(rows), criterion.limit(rows)
    return np.where(~np.isnan(measured) & np.isfinite(limit), measured <= limit, np.nan)


def at_each_n(rows: pd.DataFrame) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield every n, ascending, with the positions of its rows."""
    points = rows["n"].to_numpy()
    for n in np.unique(points):
        yield int(n), np.flatnonzero(points == n)


def outcomes(rows: pd.DataFrame, success: Floats, at: NDArray[np.int64]) -> Outcomes:
    """Lay out the outcomes of the rows at positions `at` as replicates by widths; nan for absent cells."""
    widths, place = np.unique(rows["m"].to_numpy()[at], return_inverse=True)
    replicates, line = np.unique(rows["_replicate"].to_numpy()[at], return_inverse=True)
    table = np.full((len(replicates), len(widths)), np.nan)
    table[line, place] = success[at]
    return Outcomes(widths, table)

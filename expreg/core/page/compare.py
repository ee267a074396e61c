"""Runs side by side: the settings in which they differ, and what each of them found."""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from expreg.core.page import words
from expreg.core.store.disk import read_json, storage
from expreg.core.store.store import leaves
from expreg.core.store.table import plan_of, survey
from expreg.errors import InputError, Problem

if TYPE_CHECKING:
    import pandas as pd


def compare(directories: Sequence[Path | str]) -> tuple["pd.DataFrame", "pd.DataFrame"]:
    """Return what differs between runs, one column per run: (settings by path, findings by name).

    Settings are those of the plan and, as the config has them, the sweep and the analysis. Findings: counts of
    statuses, from summary.json the width thresholds m*(n) by group and criterion, read off the success curve as on the
    page, with their intervals, and the exponents of n that are usable. Raises InputError where there is no run.
    """
    folders = [Path(directory) for directory in directories]
    names = [folder.name for folder in folders]
    labels = names if len(set(names)) == len(names) else [str(folder) for folder in folders]
    settings = _side_by_side(labels, [_settings(folder) for folder in folders])
    differ = np.array([len({*map(repr, values)}) > 1 for values in settings.to_numpy()], dtype=bool)
    return settings[differ], _side_by_side(labels, [dict(_findings(folder)) for folder in folders])


def _settings(folder: Path) -> dict[str, Any]:
    """Return the settings of a run by path; of the sweep one for each axis, its values on one line."""
    plan = plan_of(folder) or {}
    with storage(folder):
        try:
            config = yaml.safe_load((folder / "config.yaml").read_text("utf-8"))
        except (FileNotFoundError, ValueError, yaml.YAMLError, RecursionError):
            config = None
    given = config if isinstance(config, Mapping) else {}
    whole = {**plan.get("identity", {}), **{key: given[key] for key in ("sweep", "analysis") if key in given}}
    return leaves(_short(whole))


def _short(value: Any) -> Any:
    """Return nested settings with each list as a line of text: a list is one setting."""
    if isinstance(value, Mapping):
        return {key: _short(item) for key, item in value.items()}
    return json.dumps(value, default=str) if isinstance(value, list) else value


def _findings(folder: Path) -> Iterator[tuple[str, Any]]:
    plan = plan_of(folder)
    best, damaged = survey(folder, plan)
    counts = Counter(row.status for row in best.values())
    yield "planned cells", (plan or {}).get("cells")
    yield from (("cells", counts.total()), ("damaged parts", len(damaged)))
    yield from ((f"status {name}", count) for name, count in sorted(counts.items()))
    yield from _of_summary(folder, _thresholds)


def _of_summary(folder: Path, read: Callable[[Mapping[str, Any]], Iterable[tuple[str, Any]]]) -> list[tuple[str, Any]]:
    """Return what is read of the summary of a run, nothing where there is none."""
    with storage(folder):
        try:
            return list(read(read_json(folder / "summary.json")))
        except FileNotFoundError:
            return []
        except ValueError as error:
            raise InputError(Problem("E-JSON", str(error), file=str(folder / "summary.json"))) from error
        except (TypeError, KeyError, AttributeError):
            message = "is not what expreg writes; `expreg report` makes it again"
            raise InputError(Problem("E-JSON", message, file=str(folder / "summary.json"))) from None


def differences(directories: Sequence[Path | str], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Return the exponents that a later run shares with the first, less those of the first, with their intervals.

    The interval is that of independent runs; it is too wide where both have the same replicates.
    `differ`: whether 0 lies outside.
    """
    first, *others = [dict(_of_summary(Path(directory), _exponents)) for directory in directories]
    return [
        {"run": label, "minus": labels[0], "exponent": name} | _difference(found[name], first[name])
        for label, found in zip(labels[1:], others, strict=True)
        for name in found
        if name in first
    ]


def _difference(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, Any]:
    value = one["value"] - other["value"]
    low = value - math.hypot(one["value"] - one["low"], other["high"] - other["value"])
    high = value + math.hypot(one["high"] - one["value"], other["value"] - other["low"])
    return {"value": value, "low": low, "high": high, "differ": not low <= 0.0 <= high}


def conclusions(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the differences of each run as one sentence, those that are not shown to differ behind the others."""
    lines = []
    for run in dict.fromkeys(one["run"] for one in found):
        own = [one for one in found if one["run"] == run]
        parts = [
            f"{', '.join(_shown(one) for one in own if one['differ'] == differ)}: {words}"
            for differ, words in ((True, "differ"), (False, "not shown to differ"))
            if any(one["differ"] == differ for one in own)
        ]
        lines.append(f"Exponents of n, {run} minus {own[0]['minus']}: {'; '.join(parts)}.")
    return lines


def _shown(one: Mapping[str, Any]) -> str:
    return f"{one['exponent']} {words.cell_text([one[key] for key in ('value', 'low', 'high')])}"


def _exponents(summary: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, float]]]:
    """Yield the exponents that are usable, by criterion and, where there are several groups, by group."""
    groups = summary.get("groups", [])
    for group in groups:
        for criterion in group.get("criteria", []):
            fit = criterion.get("exponent") or {}
            if fit.get("usable") and all(isinstance(fit["raw"][key], float) for key in ("value", "low", "high")):
                yield f"{group['label']}, " * (len(groups) > 1) + criterion["criterion"], fit["raw"]


def _thresholds(summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    delta = (summary.get("settings") or {}).get("delta")
    share = "" if delta is None else f" ({100 * (1 - delta):.4g} %)"
    for group in summary.get("groups", []):
        for criterion in group.get("criteria", []):
            name = f"{group['label']}: {criterion['criterion']}"
            for row in criterion.get("thresholds", []):
                yield f"{name}, m* at n = {row['n']}{share}", words.cell_text(words.threshold(row))
            fit = criterion.get("exponent") or {}
            if fit.get("usable"):
                yield f"{name}, exponent of n", words.cell_text([fit["raw"][key] for key in ("value", "low", "high")])


def _side_by_side(labels: list[str], columns: list[dict[str, Any]]) -> "pd.DataFrame":
    import pandas as pd

    names = list(dict.fromkeys(name for column in columns for name in column))
    # by position: one run may be given twice
    listed = {place: [column.get(name) for name in names] for place, column in enumerate(columns)}
    return pd.DataFrame(listed, index=names, dtype=object).set_axis(labels, axis=1)

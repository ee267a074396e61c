"""What `expreg plan` says beside the cost: the theory at the sizes of the sweep, and what its replicates resolve."""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from expreg import theory
from expreg.activation import lookup
from expreg.core.page import terminal
from expreg.core.stats import power, thresholds
from expreg.core.stats.describe import shown, spread
from expreg.kinds.network.start import problem
from expreg.kinds.network.summary import growth
from expreg.types import Settings

MOST_N = 8
"""Distinct n whose theory is shown: the smallest, the largest, and others evenly between them."""
MOST_REGIMES = 6
LARGEST_N = 512
"""Above it the spectrum of H^cts takes too long for a plan."""
_COLUMNS = {
    "n": "n",
    "d": "d",
    "lambda": "lambda",
    "spectral_norm": "||X||",
    "width_spectral": "spectral",
    "width_frobenius": "Frobenius",
    "width_abstract": "abstract",
    "local_exponent": "exponent",
    "weight_bound": "B",
    "radius": "R",
    "step_size": "eta",
    "iterations": "T",
}
_LEGEND = (
    "Widths that suffice: by the spectral argument (C.13), by the Frobenius argument (C.12), and in the form of the"
    " abstract (C.14; constant 1 and c_B = 4 are ours), whose local exponent of n is (C.15). B (C.1), R (C.9), eta"
    " and T (C.17) are those at the spectral width; the form of eta is reconstructed. A width that suffices is no"
    " threshold."
)


def theory_table(cells: Iterable[Settings], delta: float) -> dict[str, Any]:
    """Return `rows`, the theory at each data regime and n of network cells, and `left_out`, sentences on the others.

    lambda, ||X|| and ||y|| are those of the first replicate of each. A width beyond the floats, and everything where
    lambda is not positive, is null.
    """
    first: dict[str, Settings] = {}
    seen = set()
    for settings in cells:
        network = settings["network"]
        known = (id(settings["data"]), network["activation"], network["init"], network["scale"])
        if known not in seen:  # equal blocks are one object: the text is made once for each, not for each cell
            seen.add(known)
            data = settings["data"]
            first.setdefault(f"{_regime(settings)} {data['n']} {data['d']}", settings)
    regimes: dict[str, list[Settings]] = defaultdict(list)
    for settings in first.values():
        regimes[_regime(settings)].append(settings)
    labels = _labels(list(regimes))
    rows, large, many = [], set(), False
    for regime, found in list(regimes.items())[:MOST_REGIMES]:
        kept = spread((one["data"]["n"] for one in found), MOST_N)
        many |= len(kept) < len({one["data"]["n"] for one in found})
        for settings in sorted(found, key=lambda one: (one["data"]["n"], one["data"]["d"])):
            n = settings["data"]["n"]
            if n in kept and n > LARGEST_N:
                large.add(n)
            elif n in kept:
                rows.append({"data": labels[regime]} | _row(settings, delta))
    left_out = [f"n = {', '.join(map(str, sorted(large)))}: the spectrum takes too long for a plan."] if large else []
    left_out += [f"At most {MOST_N} values of n are shown per regime."] if many else []
    left_out += [f"{len(regimes) - MOST_REGIMES} more regimes are not shown."] if len(regimes) > MOST_REGIMES else []
    return {"delta": delta, "rows": rows, "left_out": left_out}


def _regime(settings: Settings) -> str:
    """Return what cells share whose theory differs in n and d only."""
    data = {key: value for key, value in settings["data"].items() if key not in ("n", "d", "allow_duplicates")}
    network = {key: settings["network"][key] for key in ("activation", "init", "scale")}
    return json.dumps(data | network, sort_keys=True)


def _labels(regimes: Sequence[str]) -> dict[str, str]:
    """Return for each regime its kind of data and what sets it apart from the others."""
    parsed = {regime: json.loads(regime) for regime in regimes}
    keys = sorted({key for values in parsed.values() for key in values} - {"kind"})
    apart = [key for key in keys if len({json.dumps(values.get(key)) for values in parsed.values()}) > 1]
    return {
        regime: ", ".join([values["kind"], *(f"{key} = {_short(values[key])}" for key in apart if key in values)])
        for regime, values in parsed.items()
    }


def _short(value: Any) -> str:
    return str(value.get("kind", value)) if isinstance(value, Mapping) else shown(value)


def _row(settings: Settings, delta: float) -> dict[str, Any]:
    found = problem(settings)
    n, d, network = settings["data"]["n"], settings["data"]["d"], settings["network"]
    (lam, highest), label_norm = found.extremes, found.label_norm
    s_x = float(np.linalg.norm(found.X, 2))
    row = {"n": n, "d": d, "lambda": lam, "spectral_norm": s_x, "label_norm": label_norm}
    names = [name for name in _COLUMNS if name not in row]
    # for cosh and sinh the arguments hold with the envelope cosh(z) <= e^|z| in place of the derivative
    proved = lookup(network["activation"]).exponential and lam and highest and lam > 1e-12 * highest
    numbers = _asked(settings, lam or 0.0, s_x, label_norm, delta) if proved else {}
    return row | {name: _finite(numbers.get(name)) for name in names}


def _asked(settings: Settings, lam: float, s_x: float, label_norm: float, delta: float) -> dict[str, float]:
    """Return what the theorem asks for; output scale kappa enters through y / kappa (A.6)."""
    n, network, training = settings["data"]["n"], settings["network"], settings.get("training")
    scale = network["scale"]
    width = theory.width_spectral(n, delta, lam, s_x, label_norm / scale)
    bound = float(theory.weight_bound(n, width, delta, init=network["init"]))
    asked = {
        "width_spectral": width,
        "width_frobenius": theory.width_frobenius(n, delta, lam),
        "width_abstract": float(theory.width(n, delta, lam)),
        "local_exponent": float(theory.local_exponent(n, delta, lam)),
        "weight_bound": bound,
        "radius": float(theory.radius(lam, s_x, math.exp(2 * bound))),
        "step_size": float(theory.step_size(n, width, delta, lam, scale=scale)),
    }
    if training is None or not training["tolerance"]:
        return asked
    eps = training["tolerance"] * (label_norm if training["relative"] else 1.0)
    steps = theory.iterations(width, asked["step_size"], lam, label_norm, eps, scale=scale)
    return asked | {"iterations": float(steps)}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def replicates(cells: Iterable[Settings]) -> int:
    """Return how many cells, at the least, differ in replicate and seed only."""
    # blocks that are equal are one object, and all of them live as long as the cells
    counts = Counter(
        (*(id(value) for key, value in one.items() if isinstance(value, Mapping)), one["precision"]) for one in cells
    )
    return min(counts.values(), default=0)


def too_few(cells: Iterable[Settings], analysis: Mapping[str, Any]) -> str | None:
    """Return what is wrong if fewer replicates are planned than the quantile at 1 - delta needs (D.4), else None.

    Refused is what has no upper limit at all, 29 replicates at delta = 0.1 and 95 %; an interval needs 36.
    """
    delta, confidence, planned = analysis["delta"], analysis["confidence"], replicates(cells)
    least = thresholds.replicates_needed(delta, confidence, sides=1)
    if planned >= least:
        return None
    return (
        f"the {1 - delta:.4g} quantile needs {least} replicates for an upper limit at {100 * confidence:.4g} % (D.4),"
        f" {thresholds.replicates_needed(delta, confidence)} for an interval; the sweep has {planned}. Raise"
        " replicate.count, lower analysis.confidence, or leave analysis.delta out"
    )


def resolution(cells: Sequence[Settings], analysis: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return how many replicates the wanted interval of an exponent needs (D.4, D.14), with sentences.

    None where no exponent can be measured: fewer than two values of n, or an n with fewer than two widths.
    """
    widths: dict[int, set[int]] = defaultdict(set)
    for settings in cells:
        widths[settings["data"]["n"]].add(settings["network"]["m"])
    grids = {n: sorted(found) for n, found in widths.items() if len(found) > 1}
    if len(grids) < 2:
        return None
    asked = (analysis["delta"], analysis["confidence"], analysis["half_width"])
    found = power.needed(sorted(grids), *asked, grids, replicates=replicates(cells))
    largest = power.largest_exponent(analysis["delta"], grids)
    expected = {"value": 0.0, "low": -found["expected"]}
    needed = growth.detectable(expected, growth.CLAIMED, analysis["confidence"])
    return found | {"largest": largest, "detectable": needed, "decides": largest >= needed}


def warnings(cells: Sequence[Settings], analysis: Mapping[str, Any]) -> list[str]:
    """Return why the grid of a sweep could contradict nothing, whatever is measured; empty where it could."""
    found = resolution(cells, analysis)
    if found is None or found["decides"]:
        return []
    return [f"{_decision(found)} Sweep wider networks, a larger range of n, or more replicates."]


def outlook(cells: Sequence[Settings], analysis: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a plan adds for networks: `theory`, `power`, and `lines`, the same for a terminal."""
    found = {"theory": theory_table(cells, analysis["delta"]), "power": resolution(cells, analysis)}
    return found | {"lines": lines(found)}


def lines(found: Mapping[str, Any]) -> list[str]:
    """Return theory and power as lines of at most 100 columns."""
    text, rows = [], found["theory"]["rows"]
    if rows:
        text += [f"theory at delta = {found['theory']['delta']:g}, data of the first replicate", *_table(rows)]
    for sentence in [_LEGEND] * bool(rows) + found["theory"]["left_out"]:
        text += terminal.wrapped(sentence, 2)
    if found["power"]:
        sentences = [*found["power"]["sentences"], _decision(found["power"])]
        text += ["replicates", *(line for sentence in sentences for line in terminal.wrapped(sentence, 2))]
    return text


def _decision(found: Mapping[str, Any]) -> str:
    shown = f"This grid resolves exponents of at most {found['largest']:.2f} after the log factor"
    if found["decides"]:
        return f"{shown}; from {found['detectable']:.2f} on one would contradict {growth.CLAIMED:g}."
    needed = f"{found['detectable']:.2f} is needed to contradict {growth.CLAIMED:g}"
    return f"{shown}, and {needed}: no verdict on it is possible."


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    heading, *lines = terminal.lines(
        list(_COLUMNS.values()), [[_cell(row[name], name) for name in _COLUMNS] for row in rows], right=True
    )
    found = [heading]
    for i, (row, line) in enumerate(zip(rows, lines, strict=True)):
        if i == 0 or row["data"] != rows[i - 1]["data"]:
            found.append(f"  {row['data']}"[: terminal.WIDTH])
        found.append(line)
    return found


def _cell(value: Any, name: str) -> str:
    if value is None:
        return "-"
    if isinstance(value, int):
        return str(value)
    if name.startswith("width") or name in ("step_size", "iterations"):
        return f"10^{math.log10(value):.1f}" if value > 0 else "0"
    return f"{value:.1e}" if name == "radius" else f"{value:.2f}" if value >= 0.01 else f"{value:.1e}"

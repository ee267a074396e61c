"""Numbers of README and docs, made from runs of the shipped configs so that they cannot drift; `make figures`.

    python docs/figures.py [texts | bench SUITE ... | CONFIG ...]

runs (or resumes) the named configs below runs/, all of `RUNS` if none is named, keeps their numbers in docs/results/,
copies their pictures to docs/images/, and rewrites what stands between `<!-- figures: ... -->` and `<!-- end -->`. The
words after `figures:` are a function of `SHOWN` and its arguments, mostly the name of a config. The suite compares
texts and results.

    python docs/figures.py bench SUITE ...

times suites of `expreg bench` instead, on a machine that should be idle, and keeps what they say with machine and date.
"""

import datetime
import hashlib
import json
import math
import os
import platform
import re
import shutil
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import formulas
import numpy as np
import yaml

ROOT = Path(__file__).resolve().parents[1]
RESULTS, IMAGES = ROOT / "docs" / "results", ROOT / "docs" / "images"
FORMULAS = ROOT / "expreg" / "core" / "page" / "formulas.json"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUNS: dict[str, tuple[str, ...]] = {
    "quickstart": (),
    "threshold": ("thresholds",),
    "lazy": (),
    "budget": ("budget",),
    "lambda": (),
    "iid": (),
    "initial": ("thresholds",),
    "concentration": (),
    "certificate": (),
    "certified_training": (),
    "threshold_delta": (),
    "capacity": ("capacity",),
    "search": ("thresholds",),
    "newton": ("iterations",),
    "good_start": (),
    "in_context": (),
    "in_context_attention": (),
    "in_context_steps": (),
    "newton_25": (),
}
"""Configs, and the figures of each that pages show."""
CHANGED: dict[str, tuple[str, dict[str, Any]]] = {
    "newton_25": ("newton", {"solver.sketch_size": 25, "sweep.product.problem.radius": 2}),
}
"""Runs of a config with some of its values changed."""
BLOCK = re.compile(r"(<!-- figures: ([^>]*?) -->)(.*?)(<!-- end -->)", re.DOTALL)
Record = dict[str, Any]


# --- results


def asked(name: str) -> tuple[Path, dict[str, Any]]:
    """Return the config of a run and what is changed in it."""
    config, changes = CHANGED.get(name, (name, {}))
    return ROOT / "configs" / f"{config}.yaml", changes


def content(name: str) -> str:
    """Return a digest of what a config says, comments left out: results of another config are stale."""
    path, changes = asked(name)
    said = yaml.safe_load(path.read_text())
    text = json.dumps([said, changes] if changes else said, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def results(name: str) -> Record:
    """Return the stored numbers of a config."""
    return dict(json.loads((RESULTS / f"{name}.json").read_text()))


def store(name: str) -> None:
    """Run a config, keep its numbers and copy its pictures."""
    import expreg

    options = {"progress": True, "draw": bool(RUNS[name])}  # statistics alone need no page
    run = expreg.run(*asked(name), out=ROOT / "runs" / name, **options)
    summary = run.summary
    planned = json.loads((run.directory / "plan.json").read_text())["cells"]
    kept: Record = {"config": content(name), "planned": planned, "cells": len(run.cells)}
    kinds = (("criteria", _kept), ("ratios", _shift), ("shrinkage", _basin))
    kept["groups"] = [next(of for key, of in kinds if key in group)(group) for group in summary["groups"]]
    kept["joint"] = summary.get("joint", [])
    names = ("claim", "group", "criterion", "measured", "low", "high", "verdict", "reason", "replicates")
    kept["verdicts"] = [{key: verdict[key] for key in names} for verdict in summary["verdicts"]]
    data = set(run.cells["data"]) if "data" in run.cells else ()
    for one in (*kept["groups"], *kept["verdicts"]):  # pages show groups of several configs in one table
        place = "label" if "label" in one else "group"
        if len(data) == 1 and one[place] and not one[place].startswith(kind := min(data)):
            one[place] = f"{kind}, {one[place]}"
    if name == "threshold_delta":
        kept["coefficients"] = _coefficients(run.cells)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(_rounded(kept), indent=1, ensure_ascii=False) + "\n")
    for figure in RUNS[name]:
        shutil.copy(run.directory / "figures" / f"{figure}.png", IMAGES / f"{name}-{figure}.png")


def bench(suite: str) -> None:
    """Run a suite of `expreg bench` and keep what it says with the machine, its load and the date."""
    from expreg import benchmark

    load = os.getloadavg()[0]  # of others; 0 where the machine is idle
    found, _ = benchmark.bench(suite, quick=False, limit=None, only=None, say=print)
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
    versions = [f"{name} {_version(name)}" for name in ("jax", "torch") if _version(name)]
    on = ", ".join([_processor(), f"{os.cpu_count()} cores", *versions])
    circumstances = {"on": on, "date": date, "load": load}
    (RESULTS / f"bench_{suite}.json").write_text(json.dumps(_rounded(circumstances | found), indent=1) + "\n")


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _processor() -> str:
    flags = Path("/proc/cpuinfo")
    found = re.search("^model name\\s*: (.*)$", flags.read_text() if flags.exists() else "", re.MULTILINE)
    return found[1] if found else platform.machine()


def _kept(group: Record) -> Record:
    widths = ("n", "interpolated", "interpolated_low", "interpolated_high", "beyond", "narrowest", "widest")
    kinds = ("value", "low", "high")

    def threshold(found: Record) -> Record:
        fit = found["exponent"]
        return {
            "criterion": found["criterion"],
            "title": found.get("title"),
            "flow_time": found.get("flow_time"),
            "thresholds": [{key: at[key] for key in widths} for at in found["thresholds"]],
            **{kind: {key: fit[kind][key] for key in kinds} for kind in ("raw", "corrected")},
            "usable": fit["usable"],
            "looser": _looser(found),
        } | ({"success": found["success"]} if found["criterion"] == "fit" else {})

    return {
        "label": group["label"],
        "lambda_exponent": group["lambda_exponent"],
        "criteria": [threshold(found) for found in group["criteria"]],
        "budgets": [threshold(found) for found in group["budgets"]],
    }


def _basin(group: Record) -> Record:
    numbers = ("label", "shrinkage", "start_radius", "start_radius_norms", "reached", "worst", "fit", "points")
    looser = group["hessian_lipschitz"] and group["hessian_lipschitz"] / group["hessian_change"]
    return {key: group[key] for key in numbers} | {"hessian_looser": looser}


def _shift(group: Record) -> Record:
    return {key: group[key] for key in ("label", "cells", "slope", "errors", "ratios", "closeness")}


def _looser(found: Record) -> list[float]:
    """Return log10 of the bound's width (C.14) over the measured one at every n with a threshold."""
    asked = {at["n"]: at["width"] for at in found.get("bound_exponent", ())}
    known = [(asked.get(at["n"]), at["interpolated"]) for at in found["thresholds"]]
    return [math.log10(bound / measured) for bound, measured in known if bound and measured]


def _coefficients(cells: Any) -> Record:
    """Return a and b of m* = c + a log n + b log(1/delta) with intervals over replicates, by the script's quantiles."""
    sys.path.insert(0, str(ROOT / "experiments"))
    import threshold_delta

    return {event: threshold_delta.coefficients(cells, event) for event in ("E5", "E3")}


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


# --- what pages show


def number(value: float | None, digits: int = 2) -> str:
    """Return a number with so many decimals, and a real minus sign."""
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def interval(found: Mapping[str, Any]) -> str:
    """Return `value [low, high]`, a dash where there is none."""
    if found["value"] is None:
        return "–"
    return f"{number(found['value'])} [{number(found['low'])}, {number(found['high'])}]"


def width(at: Mapping[str, Any], *, limits: bool = False) -> str:
    """Return a threshold in whole neurons, with its interval if `limits`; beyond the grid as such."""
    if at["interpolated"] is None:
        ends = {"below": f"≤ {at['narrowest']:,}", "above": f"> {at['widest']:,}"}
        return ends.get(at["beyond"], "–")
    values = [at[f"interpolated{end}"] for end in ("", "_low", "_high")]
    shown = [f"{value:,.0f}" if value >= 1000 else f"{value:.3g}" for value in values if value]
    return f"{shown[0]} [{shown[1]}, {shown[2]}]" if limits and len(shown) == 3 else shown[0]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
    return "\n" + "\n".join(lines) + "\n"


def exponents(name: str, *criteria: str) -> str:
    """Return thresholds and exponents of the named criteria, a row for each group.

    A criterion is one of the config, or `CONFIG/CRITERION/GROUP` of another, of groups whose label contains GROUP.
    """
    chosen = [(one.split("/") if "/" in one else [name, one, ""]) for one in criteria]
    found = [
        (_shown(config)[criterion] if place == 0 else "", points(group["label"]), one)
        for config, criterion, only in chosen
        for place, (group, one) in enumerate(
            (group, one)
            for group in results(config)["groups"]
            if only in group["label"].replace(" ", "")
            for one in group["criteria"]
            if one["criterion"] == criterion
        )
    ]
    ns = sorted({at["n"] for *_, one in found for at in one["thresholds"]})
    rows = []
    for words, label, one in found:
        widths = {at["n"]: width(at) for at in one["thresholds"]}
        fits = [interval(one[kind]) if one["usable"] else "–" for kind in ("raw", "corrected")]
        rows.append([words, label, *(widths.get(n, "–") for n in ns), *fits])
    return table(["criterion", "points", *(f"n = {n}" for n in ns), "exponent of n", "after log(n/δ)"], rows)


def _shown(name: str) -> Record:
    """Return by name how pages write each criterion of a config."""
    found = (one for group in results(name)["groups"] for one in group["criteria"])
    return {one["criterion"]: f"`{one['criterion']}`: {_plain(one['title'])}" for one in found}


def _plain(title: str) -> str:
    return title.replace("lambda/(2 e^2 n)", "λ/(2e²n)").replace("lambda", "λ")


def points(label: str) -> str:
    """Return the label of a group as pages write it."""
    for long, short in _WORDS.items():
        label = label.replace(long, short)
    return label


_WORDS = {"coherence = ": "", "solver = gauss_newton": "Gauss-Newton", "solver = gd": "gradient descent"}


def capacity(name: str, group: str, d: str) -> str:
    """Return the smallest width of a fit at every n, beside that at which there is a weight for each point."""
    one, rows = _criterion(name, group, "fit"), []
    for at in one["thresholds"]:
        n, least = at["n"], at["n"] // int(d)
        found = {
            point["m"]: f"{100 * point['successes'] / point['trials']:.0f} %"
            for point in one["success"]
            if point["n"] == n
        }
        ratio = number(at["interpolated"] and at["interpolated"] * int(d) / n)
        rows.append([str(n), width(at, limits=True), ratio, found.get(least, "–"), found.get(least + 2, "–")])
    return table(
        ["n", "m*: half of the fits succeed", "m* d / n", "fits at m = n / d", "fits with two neurons more"], rows
    )


def budget(name: str) -> str:
    """Return the width for convergence within each flow time."""
    found = results(name)
    rows, ns = [], sorted({at["n"] for g in found["groups"] for b in g["budgets"] for at in b["thresholds"]})
    for group in found["groups"]:
        for one in group["budgets"]:
            widths = {at["n"]: width(at) for at in one["thresholds"]}
            fit = interval(one["raw"]) if one["usable"] else "–"
            rows.append([points(group["label"]), f"{one['flow_time']:g}", *(widths.get(n, "–") for n in ns), fit])
    return table(["points", "flow time", *(f"n = {n}" for n in ns), "exponent of n"], rows)


def joint(name: str) -> str:
    """Return the exponents of 1/lambda of every criterion."""
    rows = [
        [f"`{found['criterion']}`", interval(found["1/lambda"]), f"{found['points']}", number(found["bound"])]
        for found in results(name)["joint"]
        if found["usable"]
    ]
    return table(["criterion", "exponent of 1/λ", "thresholds", "the bound's own"], rows)


def _criterion(name: str, group: str, criterion: str) -> Record:
    """Return a criterion of the one group whose label contains `group`, blanks left out."""
    [found] = [one for one in results(name)["groups"] if group in one["label"].replace(" ", "")]
    [one] = [one for one in found["criteria"] if one["criterion"] == criterion]
    return dict(one)


def exponent(name: str, group: str, criterion: str, kind: str = "raw") -> str:
    """Return one exponent with its interval."""
    return interval(_criterion(name, group, criterion)[kind])


def threshold(name: str, group: str, criterion: str, n: str) -> str:
    """Return one threshold with its interval."""
    [at] = [at for at in _criterion(name, group, criterion)["thresholds"] if at["n"] == int(n)]
    return width(at, limits=True)


def times(name: str, group: str, n: str, *flow_times: str) -> str:
    """Return the widths for convergence at one n within the flow times, in one line."""
    [found] = [one for one in results(name)["groups"] if group in one["label"]]
    widths = {b["flow_time"]: at for b in found["budgets"] for at in b["thresholds"] if at["n"] == int(n)}
    shown = [width(widths[float(time)]) for time in flow_times]
    return ", ".join(shown)


def looser(name: str, criterion: str) -> str:
    """Return how many times the bound's width exceeds the measured one, over all n and groups of a config."""
    found = [one for group in results(name)["groups"] for one in group["criteria"] if one["criterion"] == criterion]
    every = [factor for one in found for factor in one["looser"]]
    return f"10^{min(every):.1f} to 10^{max(every):.1f}"


def _verdict(name: str, claim: str, group: str) -> Record:
    """Return the one verdict on a claim about the group whose label, blanks left out, is or else contains `group`."""
    found = [one for one in results(name)["verdicts"] if one["claim"] == claim.replace("_", " ")]
    labels = [str(one["group"]).replace(" ", "") for one in found]
    same = [one for one, label in zip(found, labels, strict=True) if label == group]
    [one] = same or [one for one, label in zip(found, labels, strict=True) if group in label]
    return dict(one)


def reason(name: str, claim: str, group: str = "") -> str:
    """Return the reason of the verdict on a claim."""
    return str(_verdict(name, claim, group)["reason"])


def share(name: str, claim: str, group: str) -> str:
    """Return the share that a verdict is about, with its interval."""
    found = _verdict(name, claim, group)
    return interval({"value": found["measured"], "low": found["low"], "high": found["high"]})


def basin(name: str, field: str, *groups: str) -> str:
    """Return a number of the regression groups whose labels, blanks left out, are these; powers of ten where small."""
    found = {str(one["label"]).replace(" ", ""): one for one in results(name)["groups"]}
    return ", ".join(_scientific(found[group][field]) for group in groups)


def _scientific(value: float) -> str:
    if 0.01 <= abs(value) < 1e4 or not value:
        return f"{value:.3g}"
    digits, power = f"{value:.1e}".split("e")
    return f"{digits}·10{int(power)}".replace(f"10{int(power)}", "10" + str(int(power)).translate(_RAISED))


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def steps_to(name: str, accuracy: str, group: str) -> str:
    """Return the median steps to an accuracy from every distance, the shortest first."""
    [found] = [one for one in results(name)["groups"] if str(one["label"]).replace(" ", "") == group]
    known = [point for point in found["points"] if math.isclose(point["accuracy"], float(accuracy))]
    return ", ".join(f"{point['median']:g}" for point in sorted(known, key=lambda point: float(point["distance"])))


def _group(name: str, group: str) -> Record:
    """Return the first group of a run whose label contains `group`, blanks left out."""
    return next(dict(one) for one in results(name)["groups"] if group in one["label"].replace(" ", ""))


def ratios(name: str) -> str:
    """Return how much of each bound is used, over all moves: a row per bound, a column per kind of move."""
    found = results(name)["groups"]
    rows = []
    for bound, words in _BOUNDS.items():
        at = [one for group in found for one in group["ratios"] if one["over"] == "all" and one["bound"] == bound]
        spread = ["{} [{}, {}]".format(*(_scientific(one[end]) for end in ("median", "low", "high"))) for one in at]
        violations = f"{sum(one['violations'] for one in at)} of {sum(one['instances'] for one in at):,}"
        rows.append([words, *spread, _scientific(max(one["largest"] for one in at)), violations])
    kinds = [group["label"].partition(",")[0] for group in found]
    return table(["bound", *kinds, "largest", "violations"], rows)


_BOUNDS = {
    "tight": "tight (G.6)",
    "rows": "rows (G.7), (G.8)",
    "softmax": "softmax (G.9)",
    "radius": "R form (G.10)",
}


def ratio(name: str, group: str, bound: str, over: str, *values: str) -> str:
    """Return the median share of a bound that is used where one number of a problem has these values."""
    known = [one for one in _group(name, group)["ratios"] if (one["over"], one["bound"]) == (over, bound)]
    at = {str(one["value"]): one["median"] for one in known}
    return ", ".join(_scientific(at[value]) for value in values)


def slopes_of_moves(name: str) -> str:
    """Return the median slope of the shift in small moves for every kind of move."""
    return ", ".join(f"{group['slope']['value']:.5f}" for group in results(name)["groups"])


def error(name: str, label: str) -> str:
    """Return the largest relative error of an identity, over all groups."""
    known = [group["errors"][label] for group in results(name)["groups"]]
    return _scientific(max(value for value in known if value is not None))


def closeness(name: str, *over: str) -> str:
    """Return the cosines between the moves by tokens and by steps, a row per head or per value of what was swept."""
    rows = []
    for group in results(name)["groups"]:
        for one in (one for one in group["closeness"] if one["over"] in over):
            place = f"{one['layer']}, {one['head']}" if one["over"] == "head" else _swept(one)
            rows.append([place, *(number(one[column][1]) for column in _COSINES)])
    first = "layer, head" if over == ("head",) else "of all problems those with"
    return table([first, *_COSINES.values()], rows)


def _swept(one: Record) -> str:
    name = {"n": "n", "d": "d", "R": "problem.radius", "size": "problem.largest"}[one["over"]]
    return f"{_SWEPT[one['over']]} {one[name]:g}"


_SWEPT = {"n": "n =", "d": "d =", "R": "R =", "size": "steps times"}
_COSINES = {
    "cosine_gd": "one step of gd",
    "cosine_newton": "one step of Newton",
    "path_cosine_gd": "all steps of gd",
    "path_cosine_newton": "all steps of Newton",
}


def widths(*runs: str) -> str:
    """Return the thresholds of `fit` at every n, with intervals: a row for each `CONFIG/GROUP`."""
    found = [_criterion(*run.split("/"), "fit")["thresholds"] for run in runs]
    ns = [at["n"] for at in max(found, key=len)]
    known = [{at["n"]: width(at, limits=True) for at in one} for one in found]
    rows = [[_RUNS[run], *(at.get(n, "–") for n in ns)] for run, at in zip(runs, known, strict=True)]
    return table(["m*", *(f"n = {n}" for n in ns)], rows)


_RUNS = {
    "capacity/gauss_newton,d=4": "Gauss-Newton, coupled",
    "capacity/gd,d=4": "gradient descent, coupled",
}


def fits(name: str, group: str, d: str, side: str, share: str) -> str:
    """Return how many runs fit of those with at most (`below`) or at least (`above`) that many weights per point."""
    own, limit = _criterion(name, group, "fit")["success"], float(share) / int(d)
    chosen = [at for at in own if (at["m"] <= limit * at["n"] if side == "below" else at["m"] >= limit * at["n"])]
    return f"{sum(at['successes'] for at in chosen)} of {sum(at['trials'] for at in chosen)}"


def moves(name: str) -> str:
    """Return how many moved problems there were, and how many exceeded a bound."""
    every = [one for group in results(name)["groups"] for one in group["ratios"] if one["over"] == "all"]
    tight = sum(one["instances"] for one in every if one["bound"] == "tight")
    above = sum(one["violations"] for one in every)
    return f"{tight:,} moved problems, {above or 'no'} bound{'s' * (above > 1)} violated"


def cells(name: str) -> str:
    """Return how many cells of a run there were."""
    return f"{results(name)['cells']:,}"


def coefficients(name: str) -> str:
    """Return the coefficients of log n and log(1/delta) of both events."""
    found = results(name)["coefficients"]
    rows = [
        [f"`{event}`", *(interval(one[key]) for key in ("n", "delta")), number(one["r2"])]
        for event, one in found.items()
    ]
    return table(["criterion", "a, of log n", "b, of log(1/δ)", "R²"], rows)


def reliability() -> str:
    """Return what `make soak` found, a row for each kind of fault."""
    rows = []
    ordered = sorted((RESULTS / "reliability").glob("*.json"), key=lambda path: (len(path.stem.split("-")[0]), path))
    for path in ordered:
        found = json.loads(path.read_text())
        numbers = ", ".join(f"{key.replace('_', ' ')} {value:,}" for key, value in found["numbers"].items())
        rows.append([path.stem, found["title"], numbers, found["date"]])
    return table(["", "what was done", "found", "date"], rows)


def slopes(*coherences: str) -> str:
    """Return local exponents of n in sum V / lambda^2 (C.2) on equiangular points, from its closed form."""
    ns = [4 * 2**k for k in range(9)]
    rows = []
    for coherence in map(float, coherences):
        logs = np.log2([expected_width(n, coherence) for n in ns])
        rows.append([f"{coherence:g}", *(number(float(slope)) for slope in np.diff(logs))])
    return table(["coherence", *(f"{n} → {2 * n}" for n in ns[:-1])], rows)


def expected_width(n: int, coherence: float) -> float:
    """Return sum V / lambda^2 for exp (C.2): on equal entries every formula is a number (B.3), (B.7)."""
    off = coherence**2 * (math.exp(4 * (1 + coherence)) - math.exp(2 * (1 + coherence)))
    lam = math.e**2 - coherence * math.exp(1 + coherence)
    return (n * (math.exp(8) - math.exp(4)) + n * (n - 1) * off) / lam**2


# --- what `expreg bench` measured


def measured(name: str) -> str:
    """Return where and when a suite was measured."""
    found = results(name)
    busy = f", with a load of {found['load']:.0f} by others" if found["load"] >= 1 else ""
    return f"{found['on']}, {found['date']}{busy}"


def speed(name: str, *peers: str) -> str:
    """Return microseconds per cell and step of every line, and how many times as long a peer takes."""
    rows = []
    for line in results(name)["lines"]:
        others = [(line["microseconds"].get(peer), line["ratios"].get(peer)) for peer in peers]
        shown = ["–" if value is None else f"{_digits(value, 3)} ({_digits(ratio, 2)}x)" for value, ratio in others]
        own = _digits(line["microseconds"]["expreg"], 3)
        rows.append([line["size"], f"{line['cells']:,}", f"{line['steps']:,}", own, *shown])
    return table(["n x m", "cells", "steps", "expreg", *peers], rows)


def _digits(value: float, digits: int) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.{digits}g}"


def faster(name: str, peer: str) -> str:
    """Return the geometric mean, and the least, of how many times as long a peer takes."""
    every = [line["ratios"][peer] for line in results(name)["lines"] if peer in line["ratios"]]
    return f"{statistics.geometric_mean(every):.2g} (at the least {min(every):.2g})"


def peers(name: str) -> str:
    """Return our time, that of the best peer and their ratio on every problem."""
    found, rows = results(name)["problems"], []
    for one in found:
        seconds = {outcome["solver"]: outcome["seconds"] for outcome in one["outcomes"]}
        best = f"{one['best_peer']}, {_time(seconds[one['best_peer']])}" if one["best_peer"] else "–"
        ratio = f"{one['times_faster']:.2g}" if one["times_faster"] else "–"
        rows.append([one["problem"], _time(seconds["expreg"]), best, ratio])
    return table(["problem", "expreg", "best peer", "ratio"], rows)


def first(name: str) -> str:
    """Return on how many problems we are first, and the geometric mean of the ratios to the best peer of each."""
    found = results(name)
    mean = f"{found['geometric_mean']:.2g} times as fast in the geometric mean"
    return f"first on {found['first_on']} of {found['of']}, {mean}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def growth(name: str, *path: str) -> str:
    """Return a slope that a suite found, with the least and largest of its repeats where there are some."""
    found: Any = results(name)
    for key in path:
        found = found[key]
    if isinstance(found, float):
        return number(found)
    return interval({"value": found["median"], "low": found["low"], "high": found["high"]})


SHOWN: dict[str, Callable[..., str]] = {
    found.__name__: found
    for found in (
        *(exponents, capacity, budget, times, joint, exponent, threshold, looser),
        *(reason, share, basin, steps_to, coefficients, slopes, reliability),
        *(ratios, ratio, slopes_of_moves, error, closeness, widths, fits, cells, moves),
        *(measured, speed, faster, peers, first, growth),
    )
}


def rewritten(text: str) -> str:
    """Return a page with every block made from the stored results."""

    def block(match: re.Match[str]) -> str:
        function, *arguments = match[2].split()
        return match[1] + SHOWN[function](*arguments) + match[4]

    return BLOCK.sub(block, text)


def main(names: Sequence[str]) -> None:
    """Run the configs, or suites of the benchmark, keep their numbers, rewrite the pages; `texts` does only that."""
    kind, *rest = names or [""]
    for name in rest if kind in ("bench", "texts") else names or RUNS:
        (bench if kind == "bench" else store)(name)
    for page in PAGES:
        page.write_text(rewritten(page.read_text()))
    FORMULAS.write_text(formulas.packaged((ROOT / "docs" / "mathematics.md").read_text()))


if __name__ == "__main__":
    main(sys.argv[1:])

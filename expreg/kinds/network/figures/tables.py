"""The tables of a group of networks: exponents, thresholds, models, margins, rates, eigenvalues."""

from collections.abc import Iterator, Mapping
from typing import Any

from expreg.core.page.style import finite, records
from expreg.core.page.words import interval, number, share
from expreg.kinds.network.figures import searched
from expreg.kinds.network.figures.look import criteria_of, limits

Record = Mapping[str, Any]
MOST = 20
"""Groups that have tables of their own on the page; summary.json has all."""


def tables(summary: Record) -> list[dict[str, Any]]:
    """Return the tables of the run and of every group that have rows, as `core.page.words.Parts` describes them."""
    return [table for table in [_joint(summary)] if table["rows"]] + [
        table | {"group": group.get("label") or "group"}
        for group in records(summary, "groups")[:MOST]
        for table in (
            *(exponents(group), _budgets(group), thresholds(group), searched.table(group)),
            *(_models(group), _margins(group), *_numbers(group)),
        )
        if table["rows"]
    ]


def _joint(summary: Record) -> dict[str, Any]:
    return {
        "title": "",
        "group": "Exponents of n and λ together",
        "note": "Least squares of log m* − log log(n/δ) on log n and log 1/λ over all groups that differ in their data"
        " only, with bootstrap intervals. The width of the theorem has exponent 2 in both, more at finite n (C.15).",
        "columns": ["criterion", "data", "n", "1/λ", "bound's own, 1/λ", "thresholds", "usable"],
        "prose": ["usable"],
        "rows": [
            [
                *(j.get("criterion"), j.get("pool")),
                *(limits(j.get(name) or {}, "value") for name in ("n", "1/lambda")),
                *(j.get("bound"), j.get("points"), "yes" if j.get("usable") else f"no: {j.get('why_not')}"),
            ]
            for j in records(summary, "joint")
        ],
    }


def exponents(group: Record) -> dict[str, Any]:
    """Return the table of the exponents of every criterion."""
    return {
        "title": "",
        "note": "Exponents of n in the width threshold, as they are and after the factor log(n/δ) is taken out.",
        "columns": ["criterion", "meaning", "claimed", "raw", "after the log factor", "points", "usable"],
        "prose": ["meaning", "usable"],
        "rows": [
            [
                *(c.get("criterion"), c.get("title"), c.get("claim_exponent")),
                *(limits(found.get(kind) or {}, "value") for kind in ("raw", "corrected")),
                *(found.get("points"), "yes" if found.get("usable") else f"no: {found.get('why_not')}"),
            ]
            for c in criteria_of(group)
            for found in [c.get("exponent") or {}]
            if all(len({row[axis] for row in records(c, "success")}) > 1 for axis in ("n", "m"))
        ],
    }


def _budgets(group: Record) -> dict[str, Any]:
    ns = sorted({t["n"] for b in records(group, "budgets") for t in records(b, "thresholds")})
    return {
        "title": "Width for convergence by budget",
        "folded": "closed",
        "note": "The width at which a share 1 − δ of replicates converges within each flow time, read off the same"
        " runs. At 2 the time is that of the linear rate (E4): below it and somewhat above, the budget decides, not the"
        " width. Raw exponent of n. A dash: beyond the grid of widths.",
        "columns": ["flow time", *(f"n = {n}" for n in ns), "exponent of n"],
        "rows": [
            [
                b.get("flow_time"),
                *(limits(at[n], "interpolated", "interpolated_") if n in at else None for n in ns),
                limits((b.get("exponent") or {}).get("raw") or {}, "value")
                if (b.get("exponent") or {}).get("usable")
                else None,
            ]
            for b in records(group, "budgets")
            for at in [{t["n"]: t for t in records(b, "thresholds")}]
        ],
    }


def thresholds(group: Record) -> dict[str, Any]:
    """Return the table of the thresholds of every criterion at every n."""
    return {
        "title": "Thresholds",
        "folded": "open",
        "note": "m*(n, δ): the width from which on a share 1 − δ of replicates succeeds, an order statistic with its"
        " distribution-free interval; beside it the value read off the monotone success curve, which the exponents are"
        " fitted to. Median: of the width from which on all wider ones succeed (m*_last), and of the narrowest that"
        " succeeds (m*_first); not monotone: the share of replicates in which they differ. A dash: beyond the grid, or"
        " too few replicates to tell.",
        "columns": [
            *("criterion", "n", "m*(n, δ)", "off the curve", "median", "first success, median", "replicates"),
            *("censored below | above", "not monotone", "bracketed"),
        ],
        "rows": [
            [
                *(c.get("criterion"), t.get("n"), limits(t, "quantile")),
                *(limits(t, "interpolated", "interpolated_"), t.get("median"), t.get("median_first")),
                *(t.get("replicates"), f"{number(t.get('censored_below'))} | {number(t.get('censored_above'))}"),
                *(share(t.get("non_monotone")), "yes" if t.get("bracketed") else "no"),
            ]
            for c in criteria_of(group)
            for t in records(c, "thresholds")
        ],
    }


def _models(group: Record) -> dict[str, Any]:
    def best(found: Record) -> str:
        law = found.get("best")
        if not law:
            return "–"
        form = "with log factor" if law.get("exponent") == "corrected" else "without"
        return f"{law.get('law')}, {form} ({number(law.get('aic_gap'), 2)})"

    likely = [(c.get("criterion"), (c.get("models") or {}).get("censored") or {}) for c in criteria_of(group)]
    return {
        "title": "Exponents by likelihood",
        "folded": "closed",
        "note": "Exponents of n after the log factor, with bootstrap intervals over replicates: maximum likelihood of"
        " the replicates' own thresholds, known up to a grid cell or open (D.9, D.11), under the theory's law m* ="
        " C n^alpha (log n + Exp(1)) and under a lognormal law, and the better by AIC. In brackets: by how much AIC"
        " prefers it to the next.",
        "columns": ["criterion", "theory's law", "lognormal law", "better law", "usable"],
        "prose": ["usable"],
        "rows": [
            [
                name,
                *(limits((found.get(law) or {}).get("corrected") or {}, "value") for law in ("theory", "lognormal")),
                *(best(found), "yes" if found.get("usable") else f"no: {found.get('why_not')}"),
            ]
            for name, found in likely
            if found
        ],
    }


def _margins(group: Record) -> dict[str, Any]:
    return {
        "title": "Margins and first violations",
        "folded": "closed",
        "note": "Margin: allowed over measured, median over replicates with the 5 % and 95 % quantiles; the event holds"
        " from 1 on. At the narrowest width, the first at or above the threshold, and the widest. Step: median first"
        " step at which the event fails, of the replicates in which it does; 0 is the start.",
        "columns": ["criterion", "n", "m", "which", "margin", "5 % to 95 %", "violated", "of", "first step"],
        "rows": [
            [
                *(c.get("criterion"), row.get("n"), row.get("m"), row.get("at"), row.get("margin")),
                *(interval(row.get("low"), row.get("high")), row.get("violated"), row.get("trials")),
                row.get("first_step"),
            ]
            for c in criteria_of(group)
            for row in records(c, "margins")
            if finite(row.get("margin")) is not None or row.get("violated")
        ],
    }


def _numbers(group: Record) -> Iterator[dict[str, Any]]:
    yield {
        "title": "Rates",
        "folded": "closed",
        "note": "Factor by which the residual shrinks per step: median over replicates and quartiles. Smaller is"
        " faster.",
        "digits": 5,
        "columns": ["n", "m", "measured", "theory", "linearised", "cells"],
        "rows": [
            [r["n"], r["m"], limits(r, "measured"), r.get("theory"), r.get("linearised"), r.get("cells")]
            for r in records(group, "rates")
        ],
    }
    yield {
        "title": "Eigenvalues",
        "folded": "closed",
        "note": "Smallest eigenvalue of the infinite-width kernel, median and quartiles over replicates, and the"
        " largest, median.",
        "digits": 4,
        "columns": ["n", "smallest", "largest"],
        "rows": [
            [s["n"], limits(s, "lambda_cts", "lambda_"), s.get("lambda_max_cts")] for s in records(group, "spectrum")
        ],
    }

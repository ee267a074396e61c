"""Tables beside the thresholds: exponents by models, margins of events, dependence on the data."""

from collections.abc import Iterator, Mapping
from typing import Any

from expreg.core.page.style import criteria_of, finite, records
from expreg.core.page.words import interval, number

Table = dict[str, Any]


def group_tables(group: Mapping[str, Any]) -> list[Table]:
    """Return the tables of one group that have rows: title, note, columns, and rows of text and numbers."""
    return [table for table in (_models(group), _margins(group)) if table["rows"]]


def run_tables(summary: Mapping[str, Any]) -> list[Table]:
    """Return the tables over all groups that have rows."""
    return [table for table in (_covariates(summary),) if table["rows"]]


def _models(group: Mapping[str, Any]) -> Table:
    return {
        "title": "Exponents by models",
        "note": "Exponents of n after the log factor, with bootstrap intervals over replicates. Success: logit model"
        " of all cells (D.5, D.6), and the best of logit, probit and the theory's link by AIC. Thresholds: maximum"
        " likelihood of the replicates' own thresholds, known up to a grid cell or open (D.9, D.11), under the theory's"
        " law m* = C n^alpha (log n + Exp(1)) and under a lognormal law, and the better by AIC. In brackets: by how"
        " much AIC prefers it to the next.",
        "columns": [
            *("criterion", "success, logit", "best link", "thresholds, theory's law", "thresholds, lognormal"),
            *("better law", "said of them"),
        ],
        "rows": [_model_row(c) for c in criteria_of(group) if c.get("models")],
    }


def _model_row(criterion: Mapping[str, Any]) -> list[Any]:
    cells, likely = (criterion["models"].get(name) or {} for name in ("psychometric", "censored"))
    return [
        criterion.get("criterion"),
        _exponent((cells.get("logit") or {}).get("corrected")),
        _best(cells, "link"),
        _exponent((likely.get("theory") or {}).get("corrected")),
        _exponent((likely.get("lognormal") or {}).get("corrected")),
        _best(likely, "law"),
        "; ".join(dict.fromkeys(_remarks(cells, likely))) or "–",
    ]


def _remarks(cells: Mapping[str, Any], likely: Mapping[str, Any]) -> Iterator[str]:
    if cells.get("separated"):
        yield "separated: Firth's penalty instead of maximum likelihood"
    elif finite(cells.get("separated_resamples")):
        yield f"{100 * cells['separated_resamples']:.0f} % of the resamples separated"
    for record in (cells, likely):
        if not record.get("usable") and record.get("why_not") and not cells.get("separated"):
            yield str(record["why_not"])


def _exponent(found: Mapping[str, Any] | None) -> str:
    if not found or finite(found.get("value")) is None:
        return "–"
    return f"{found['value']:.2f} {_limits(found)}".rstrip()


def _limits(found: Mapping[str, Any]) -> str:
    low, high = finite(found.get("low")), finite(found.get("high"))
    return "" if low is None or high is None else f"[{low:.2f}, {high:.2f}]"


def _best(record: Mapping[str, Any], kind: str) -> str:
    best = record.get("best")
    if not best:
        return "–"
    form = "with log factor" if best.get("exponent") == "corrected" else "without"
    return f"{best.get(kind)}, {form} ({number(best.get('aic_gap'), 2)})"


def _margins(group: Mapping[str, Any]) -> Table:
    return {
        "title": "Margins and first violations",
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


def _covariates(summary: Mapping[str, Any]) -> Table:
    return {
        "title": "Dependence on the data",
        "note": "log m* after the log factor on properties of each replicate's data (D.16): interval-censored lognormal"
        " regression over all groups that train alike, sandwich errors over replicates. Predicted: the exponents in the"
        " two sufficient widths, by the spectral (C.13) and the Frobenius argument (C.12).",
        "columns": ["criterion", "quantity", "coefficient", "interval", "spectral", "Frobenius", "said of it"],
        "rows": [line for record in records(summary, "covariates") for line in _covariate_rows(record)],
    }


def _covariate_rows(record: Mapping[str, Any]) -> Iterator[list[Any]]:
    name = record.get("criterion")
    if not record.get("usable"):
        yield [name, "–", "–", "", None, None, str(record.get("why_not"))]
        return
    for found in records(record, "coefficients"):
        predicted = found.get("predicted") or {}
        numbers = [f"{found['value']:.2f}", _limits(found)]
        yield [name, found.get("name"), *numbers, predicted.get("spectral"), predicted.get("frobenius"), ""]
    for left in records(record, "left_out"):
        yield [name, left.get("name"), "–", "", None, None, left.get("why")]

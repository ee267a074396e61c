"""The report: one HTML file that opens anywhere, with the figures beside it in three formats."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jinja2
import pandas as pd
from markupsafe import Markup, escape

from expreg.core.page import words
from expreg.core.page.drawing import figures
from expreg.core.page.rendering import Saved, reason, saved
from expreg.core.page.style import Figure, finite
from expreg.core.stats.describe import OUTSIDE
from expreg.core.store.disk import make_directory, refuse_link, remove_temporaries, replace, storage
from expreg.types import Experiment

_SVG_DISPLAY = "width:100%;height:auto;stroke-linejoin:round;stroke-linecap:butt;max-width"
EXPLORED = "explore.html"
"""The page of all cells, which the report links to where it is there."""
_MOST_VERDICTS = 40  # of one claim; summary.json has all
_FORMULAS = "<!-- formulas -->"  # their place in the template
_LABEL = re.compile(r"\b[A-H]\.\d+")
# labels in parentheses, as in (C.14) and (B.11, B.12), but first what has none: drawings, quoted files, tags
_LABELS = re.compile(r"<(svg|style|pre|title)\b.*?</\1>|<[^>]*>|\([A-H]\.\d[^()<]*\)", re.DOTALL)
_SCALE = 1.75  # CSS pixels per point: figures drawn for a page of 6.75 inches, shown on a screen


@dataclass(frozen=True)
class Shown:
    """A figure as the page shows it: inline SVG, or the reason why there is none."""

    name: str
    title: str
    caption: str
    svg: Markup
    problem: str


def write(
    directory: str | os.PathLike[str],
    experiment: Experiment,
    cells: pd.DataFrame,
    curves: pd.DataFrame,
    summary: Mapping[str, Any],
    manifest: Mapping[str, Any],
    config_text: str,
) -> Path:
    """Write figures/ and report.html into a run directory, each file at once; return the path of the report.

    Figures that cannot be drawn are named in the report with the reason. Files of figures that this run no
    longer has are removed. Raises StorageError if a file cannot be written.
    """
    report, folder = Path(directory) / "report.html", Path(directory) / "figures"
    drawn = figures(experiment, cells, curves, summary)
    rendered = [_shown(figure, files) for figure, files in zip(drawn, saved(drawn), strict=True)]
    written = {f"{shown.name}.{suffix}": data for shown, formats in rendered for suffix, data in formats.items()}
    ours = re.compile(rf"({'|'.join(map(re.escape, ['trials', 'space', *experiment.figures]))})(-\d)?\.(svg|pdf|png)")
    with storage(folder):
        refuse_link(folder)
        make_directory(folder)
        for place in (folder, folder.parent):
            remove_temporaries(place)
        for path in sorted(folder.iterdir()):
            if ours.fullmatch(path.name) and path.name not in written:  # an earlier report's would be taken for current
                path.unlink()
    for name, content in written.items():
        replace(folder / name, content)
    shown, explored = [shown for shown, _ in rendered], (report.parent / EXPLORED).exists()
    page = html(experiment, shown, cells, summary, manifest, config_text, explored=explored)
    replace(report, page.encode())
    return report


def _shown(figure: Figure, found: Saved) -> tuple[Shown, dict[str, bytes]]:
    """Return what the page shows of a figure, and its files; in place of one that fails, its reason."""
    formats, problem = found
    try:
        svg = inline(formats["svg"], figure.name, figure.title) if formats else Markup("")
    except Exception as error:  # a figure must never fail the report
        formats, problem, svg = {}, reason(error), Markup("")
    return Shown(figure.name, figure.title, figure.caption, svg, problem), formats


def inline(svg: bytes, name: str, title: str) -> Markup:
    """Return an SVG of ours for use inside HTML: no namespaces, metadata or styles, ids behind `name`."""
    reference = {"id": ("^", f"{name}__"), "href": ("^#", f"#{name}__")}
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rsplit("}", 1)[-1] in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rsplit("}", 1)[-1]
        attributes = {key.rsplit("}", 1)[-1]: value for key, value in element.attrib.items()}
        element.attrib.clear()
        for key, value in attributes.items():
            element.attrib[key] = re.sub(*reference.get(key, (r"url\(#", f"url(#{name}__")), value)
    width = _SCALE * float(root.attrib["width"].removesuffix("pt"))
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib.update({"role": "img", "aria-label": title, "style": f"{_SVG_DISPLAY}:{width:.0f}px"})
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def html(
    experiment: Experiment,
    shown: list[Shown],
    cells: pd.DataFrame,
    summary: Mapping[str, Any],
    manifest: Mapping[str, Any],
    config_text: str,
    *,
    explored: bool = False,
) -> str:
    """Return the report as one HTML document without scripts or references to anything outside it."""
    facts = _flat(manifest)
    listed = re.compile(r"\.\d+\.").search  # finds what belongs to a list of records, such as one per compilation
    own = words.parts(experiment, summary)
    known = environment()
    template = known.from_string(files("expreg.core.page").joinpath("report.html.jinja").read_text("utf-8"))
    counts = (summary.get("counts") or {}).get("by_status") or {}
    meaning = words.STATUSES | dict(experiment.statuses)
    page = template.render(
        summary=summary,
        asked=words.asked(summary, own.grid),
        tally=words.tally(own.verdicts) if own.verdicts or experiment.claims else "",
        warnings=words.warnings(cells, summary, own.warnings, manifest),
        block=own.block(known, {figure.name for figure in shown if not figure.problem}),
        explored=explored,
        answer=own.answer,
        first=own.first,
        claims=words.by_claim([v for v in own.verdicts if v.get("verdict") != OUTSIDE], experiment.claims),
        outside=words.outside(own.verdicts),
        unjudged=words.by_claim([v for v in own.verdicts if v.get("verdict") == OUTSIDE], experiment.claims),
        most=_MOST_VERDICTS,
        tables=own.tables,
        statuses=[(status, count, meaning.get(status, "")) for status, count in counts.items()],
        figures=shown,
        config_text=config_text,
        manifest=[row for row in facts if not listed(row[0])],
        details=[row for row in facts if listed(row[0])],
    )
    return _explained(page)


def _explained(page: str) -> str:
    """Return the page with labels of formulas, as in (C.14), linked to the formulas, which come where the mark is."""
    paragraphs = json.loads(files("expreg.core.page").joinpath("formulas.json").read_text("utf-8"))
    known = {label for labels, _ in paragraphs for label in labels}
    cited: set[str] = set()

    def link(found: re.Match[str]) -> str:
        if (label := found[0]) not in known:
            return label
        cited.add(label)
        return f'<a href="#formula-{label}">{label}</a>'

    def linked(found: re.Match[str]) -> str:
        return _LABEL.sub(link, found[0]) if found[0].startswith("(") else found[0]

    page = _LABELS.sub(linked, page)
    places = [
        "".join(f'<span id="formula-{label}"></span>' for label in labels if label in cited) + f"<p>{text}</p>"
        for labels, text in paragraphs
        if cited & set(labels)
    ]
    section = '<section id="formulas">\n<h2>Formulas</h2>\n' + "\n".join(places) + "\n</section>" if places else ""
    return page.replace(_FORMULAS, section)


def environment() -> jinja2.Environment:
    """Return the environment of the page: everything is escaped, with filters and functions for numbers."""
    found = jinja2.Environment(autoescape=True, finalize=_printable, trim_blocks=True, lstrip_blocks=True)
    found.filters |= {"number": words.number, "symbols": symbols, "powers": powers, "numeric_columns": _numeric_columns}
    found.globals |= {"interval": words.interval, "replicates_words": words.replicates_words}
    return found


def _printable(value: object) -> object:
    """Return text with invisible and bidirectional characters as escapes; lines and tabs stay."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode("ascii") for c in value)


def symbols(text: object) -> Markup:
    """Return plain text as HTML with powers of n, m, e and lambda raised, and delta and lambda as letters."""
    safe = str(escape(_printable(str(text))))
    safe = re.sub(r"\b([nme]|lambda)\^(-?\d+(?:\.\d+)?|\(2\+o\(1\)\))", r"\1<sup>\2</sup>", safe)
    safe = safe.replace("<sup>(2+o(1))</sup>", "<sup>2+o(1)</sup>")
    return Markup(re.sub(r"\blambda\b", "λ", re.sub(r"\bdelta\b", "δ", safe)).replace("&gt;=", "≥"))


def _numeric_columns(table: Mapping[str, Any]) -> set[int]:
    """Return the columns of a table that hold a number: they are aligned on the right, where it is unknown too."""
    cells = (cell for row in table["rows"] for cell in enumerate(row))
    return {i for i, value in cells if finite(value) is not None or isinstance(value, list | tuple)}


def powers(text: object) -> Markup:
    """Return plain text as HTML with powers of ten raised."""
    return Markup(re.sub(r"\b10\^(-?\d+)", r"10<sup>\1</sup>", str(symbols(text))))


def _flat(value: object, path: str = "") -> list[tuple[str, str]]:
    """Return (dotted path, text) for every leaf of a nested manifest, lists of plain values on one line."""
    if isinstance(value, Mapping):
        return [leaf for key, item in value.items() for leaf in _flat(item, f"{path}.{key}" if path else str(key))]
    if isinstance(value, list | tuple):
        if any(isinstance(item, Mapping | list | tuple) for item in value):
            return [leaf for i, item in enumerate(value) for leaf in _flat(item, f"{path}.{i}")]
        return [(path, ", ".join(str(item) for item in value))]
    return [(path, "–" if value is None else str(value))]

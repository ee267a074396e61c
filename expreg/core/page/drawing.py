"""All figures of a run, drawn so that none can fail the report, and the same bytes for the same rows."""

import io
import warnings
from collections.abc import Mapping
from typing import Any

import pandas as pd

from expreg.core.page import trials
from expreg.core.page.style import Figure, style
from expreg.errors import printable
from expreg.types import Experiment

# No dates anywhere: the same rows give the same bytes.
_FORMATS: dict[str, dict[str, Any]] = {
    "svg": {"metadata": {"Date": None}},
    "pdf": {"metadata": {"CreationDate": None}},
    "png": {"dpi": 160},
}


def figures(
    experiment: Experiment, cells: pd.DataFrame, curves: pd.DataFrame, summary: Mapping[str, Any]
) -> list[Figure]:
    """Draw every figure that the data allow; one that fails is returned without drawing, with its reason."""
    drawn: list[Figure] = []
    sampled = (summary.get("best") or {}).get("trials")
    for name, build in ({"trials": trials.figures} | dict(experiment.figures)).items():
        if name == ("settings" if sampled else "trials"):  # lines over settings need a grid
            continue
        try:
            with style():
                drawn += build(cells, curves, summary)
        except Exception as error:  # whatever is wrong with one figure, the others and the tables stand
            drawn.append(Figure(name, name, "", None, reason(error)))
    return drawn


def render(figure: Figure) -> dict[str, bytes]:
    """Return the figure as svg, pdf and png, the same bytes for the same input; raises as matplotlib does."""
    if figure.figure is None:
        return {}
    files = {}
    with style(), warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; that is no reason to warn or stop.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        # Placing everything once and keeping it halves the time and puts all formats in step.
        if layout := figure.figure.get_layout_engine():
            layout.execute(figure.figure)
            figure.figure.set_layout_engine(None)
        for suffix, options in _FORMATS.items():
            target = io.BytesIO()
            figure.figure.savefig(target, format=suffix, **options)
            files[suffix] = target.getvalue()
    return files


def reason(error: Exception) -> str:
    """Return what went wrong in one printable line."""
    return printable(f"{type(error).__name__}: {' '.join(str(error).split())}")[:300]

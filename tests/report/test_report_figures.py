"""Figures: what is drawn, where it stands, and that nothing can stop the others."""

import copy
import math
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure as Canvas
from report import synthetic

from expreg.core.page import drawing, page, rendering, style
from expreg.core.stats.summary import summarise
from expreg.kinds.network.figures import curves, look, phase, thresholds
from expreg.kinds.network.summary.groups import criteria

EMPTY = pd.DataFrame()
NAMES = ["thresholds", "phase", "success", "convergence", "rates", "lambda"]


@pytest.fixture(scope="module")
def run():
    return synthetic.small()


@pytest.fixture(scope="module")
def drawn(run):
    return {figure.name: figure for figure in drawing.figures(synthetic.EXPERIMENT, *run)}


def without(summary, *keys):
    """Return a copy of a summary whose groups lack `keys`."""
    kept = copy.deepcopy(summary)
    for group in kept["groups"]:
        for key in keys:
            group[key] = []
    return kept


def names(*run):
    return [figure.name for figure in drawing.figures(synthetic.EXPERIMENT, *run)]


def log_slope(line):
    x, y = np.log(line.get_xdata()), np.log(line.get_ydata())
    return np.diff(y) / np.diff(x)


def test_every_figure_is_drawn_from_full_data(drawn):
    assert list(drawn) == NAMES
    assert all(figure.figure is not None and not figure.problem for figure in drawn.values())
    assert all(figure.title and len(figure.caption) > 80 for figure in drawn.values())


def test_long_budgets_have_a_figure_with_a_line_for_each_flow_time():
    table, _, _ = synthetic.run(n=(8, 16, 32), m=(8, 32, 128, 512), replicates=10, resamples=20)
    unit = 2 / (table["eta_scaled"] * table["lambda_cts"]) * np.log(table["residual_initial"] / table["tolerance"])
    # the time to convergence falls with the width: 512 / m units
    table = table.assign(max_steps=np.ceil(10 * unit), steps=np.floor(512 / table["m"] * unit), status="converged")
    summary = summarise(synthetic.EXPERIMENT, table, EMPTY, name="x", axes=["n", "m"], resamples=20, delta=0.5)
    found = {figure.name: figure for figure in drawing.figures(synthetic.EXPERIMENT, table, EMPTY, summary)}
    assert not found["budget"].problem
    axis = found["budget"].figure.axes[0]
    words = [text.get_text() for text in axis.get_legend().get_texts()]
    assert [word.split("  ")[0] for word in words] == [f"flow time {t}" for t in ("0.5", "1", "2", "4", "10")]
    middle = {b["flow_time"]: b["thresholds"][0]["interpolated"] for b in summary["groups"][0]["budgets"]}
    assert middle[1.0] == pytest.approx(256, rel=0.01)  # between 128, which takes 4 units, and 512, which takes 1
    assert middle[10.0] == pytest.approx(64, rel=0.01)
    assert middle[0.5] is None


@pytest.fixture(scope="module")
def hostile(run):
    """Draw one group whose label and criteria are what a user may put into any text, and too long for any panel."""
    cells, curve_rows, summary = copy.deepcopy(run)
    del summary["groups"][1]
    [group] = summary["groups"]
    group["label"] = "".join(synthetic.HOSTILE[2:]) + "a label that is far longer than what fits above any panel, " * 3
    for criterion, other in zip(group["criteria"], synthetic.HOSTILE, strict=False):
        criterion["criterion"], criterion["title"] = other, other
    return drawing.figures(synthetic.EXPERIMENT, cells, curve_rows, summary)


def test_hostile_names_are_drawn_as_text(hostile):
    assert not [figure.problem for figure in hostile if figure.problem]
    svg = rendering.render(hostile[0])["svg"].decode()
    assert "<img" not in svg
    assert "\u202e" not in svg


def test_no_label_is_clipped(drawn, hostile):
    for figure in [*drawn.values(), *hostile]:
        canvas = figure.figure
        with style.style():
            canvas.draw_without_rendering()
            box = canvas.get_tightbbox()
        width, height = canvas.get_size_inches()
        assert min(box.x0, box.y0) > -0.02, figure.name
        assert box.x1 < width + 0.02, figure.name
        assert box.y1 < height + 0.02, figure.name


def test_colours_markers_and_line_styles_tell_criteria_apart():
    looks = [look.criterion_look(criterion.name) for criterion in criteria()]
    assert len({one["color"] for one in looks}) == len(looks)
    assert len({(one["marker"], str(one["linestyle"])) for one in looks}) == len(looks)
    grey = [np.dot(style.ordered_look(i, 6)["color"][:3], (0.2126, 0.7152, 0.0722)) for i in range(6)]
    assert np.diff(grey).min() > 0.05, "dark to light"


@pytest.mark.parametrize(
    ("missing", "gone"),
    [("criteria", {"thresholds", "phase", "success"}), ("rates", {"rates"}), ("spectrum", {"lambda"})],
)
def test_a_figure_without_data_is_left_out(run, missing, gone):
    cells, curve_rows, summary = run
    assert names(cells, curve_rows, without(summary, missing)) == [n for n in NAMES if n not in gone]


def test_convergence_needs_curves_and_the_others_do_not(run):
    cells, curve_rows, summary = run
    rest = [name for name in NAMES if name != "convergence"]
    assert names(cells, curve_rows.iloc[:0], summary) == rest
    assert names(EMPTY, EMPTY, summary) == rest
    assert names(EMPTY, EMPTY, {}) == []


@pytest.mark.parametrize(("n", "m"), [((16,), synthetic.WIDTHS[::4]), ((8, 16), (64,)), ((16,), (64,))])
def test_one_n_or_one_width_has_the_figures_that_show_something(n, m):
    found = drawing.figures(synthetic.EXPERIMENT, *synthetic.run(n=n, m=m, replicates=4, resamples=2))
    assert not [figure.problem for figure in found if figure.problem]
    drawn = {figure.name for figure in found}
    assert "convergence" in drawn
    for name, axes in (("phase", (n, m)), ("success", (m,)), ("lambda", (n,))):
        assert (name in drawn) == all(len(values) > 1 for values in axes)


def test_without_a_theory_everything_else_is_drawn(run):
    cells, curve_rows, _ = run
    cells = cells.assign(lambda_cts=None, lambda_max_cts=None, E3=None, activation="mine")
    curve_rows = curve_rows.assign(linearised=None)
    summary = summarise(synthetic.EXPERIMENT, cells, curve_rows, name="x", axes=["n", "m", "rho"], resamples=5)
    found = drawing.figures(synthetic.EXPERIMENT, cells, curve_rows, summary)
    assert [figure.name for figure in found] == [name for name in NAMES if name not in ("lambda", "rates")]
    assert not [figure.problem for figure in found if figure.problem]
    text = page.html(synthetic.EXPERIMENT, [], cells, summary, {}, "")
    assert text.count("and 1 more group: λ is not known (no theory of this activation)") == 1
    assert "chain of the proof" not in text


def test_null_thresholds_leave_the_other_figures(run):
    cells, curve_rows, summary = copy.deepcopy(run)
    for group in summary["groups"]:
        for criterion in group["criteria"]:
            criterion["exponent"] = {"raw": None, "corrected": None, "usable": False, "why_not": "none"}
            for row in criterion["thresholds"]:
                row |= dict.fromkeys(("quantile", "low", "high", "interpolated", "interpolated_low"))
                row["flags"] = {"quantile": "too few replicates"}
    found = drawing.figures(synthetic.EXPERIMENT, cells, curve_rows, summary)
    assert not [figure.problem for figure in found if figure.problem]
    assert "phase" in {figure.name for figure in found}


def only(**figures):
    return replace(synthetic.EXPERIMENT, figures=figures)


LAMBDA = {"lambda": synthetic.EXPERIMENT.figures["lambda"]}


def test_a_figure_that_fails_does_not_stop_the_others(run):
    def broken(*_):
        raise RuntimeError("no ink\x1b[2J")

    found = {figure.name: figure for figure in drawing.figures(only(phase=broken, **LAMBDA), *run)}
    assert found["lambda"].figure is not None
    assert found["phase"].figure is None
    assert found["phase"].problem == r"RuntimeError: no ink\x1b[2J"
    assert rendering.render(found["phase"]) == {}


def test_the_users_matplotlib_settings_change_nothing(run):
    [plain] = drawing.figures(only(**LAMBDA), *run)
    with mpl.rc_context({"font.size": 30, "axes.grid": False, "svg.fonttype": "none", "savefig.dpi": 300}):
        [other] = drawing.figures(only(**LAMBDA), *run)
        found = rendering.render(other)
    assert found == rendering.render(plain)


@pytest.mark.parametrize("trouble", ["none", "the process fails", "it says nothing", "a figure stays", "no disk"])
def test_figures_that_a_second_process_saves_are_the_same(run, monkeypatch, trouble):
    def drawn():
        return drawing.figures(synthetic.EXPERIMENT, *run)[:4]

    monkeypatch.setattr(rendering, "cores", lambda: 1)
    alone = rendering.saved(drawn())
    monkeypatch.setattr(rendering, "cores", lambda: 2)
    figures, here, attempt = drawn(), [], rendering._attempt
    monkeypatch.setattr(rendering, "_attempt", lambda figure: here.append(figure.name) or attempt(figure))
    if trouble in ("the process fails", "it says nothing"):
        monkeypatch.setattr(sys, "executable", shutil.which("false" if trouble == "the process fails" else "true"))
    if trouble == "a figure stays":
        figures[1].figure.of_a_user = lambda: 0
    if trouble == "no disk":
        monkeypatch.setattr(rendering.tempfile, "TemporaryFile", lambda: Path("/no/such/file").read_bytes())
    assert rendering.saved(figures) == alone
    assert len(here) == (2 if trouble == "none" else 4)


# --- positions


def test_a_fit_has_the_slope_of_its_exponent_and_the_guides_that_of_claim_and_bound(run, drawn):
    _, _, summary = run
    for axis, group in zip(drawn["thresholds"].figure.axes, summary["groups"], strict=True):
        claim, bound = [line for line in axis.lines if line.get_color() == "#9a9a9a"]
        assert log_slope(claim) == pytest.approx(2.0)
        expected = [point["alpha_eff"] for point in group["criteria"][0]["bound_exponent"]]
        assert log_slope(bound)[[0, -1]] == pytest.approx([expected[0], expected[-1]], rel=1e-6)
        names = {text.get_text().strip().split(",")[0]: text for text in axis.texts}
        assert {"slope 2", "bound"} <= names.keys()
        markers = np.concatenate([line.get_xydata() for line in axis.lines if line.get_marker() != "None"])
        for name in ("slope 2", "bound"):  # far from all markers
            pixels = axis.transData.transform([names[name].get_position(), *markers])
            assert np.hypot(*(pixels[1:] - pixels[0]).T).min() > 0.1 * axis.bbox.height
        for criterion in group["criteria"]:
            if criterion["exponent"]["usable"]:
                colour = look.criterion_look(criterion["criterion"])["color"]
                [fit] = [line for line in axis.lines if line.get_color() == colour and line.get_zorder() == 3]
                assert log_slope(fit) == pytest.approx(criterion["exponent"]["raw"]["value"])
                raw = criterion["exponent"]["raw"]
                at_16 = np.exp(np.interp(math.log(16), np.log(fit.get_xdata()), np.log(fit.get_ydata())))
                assert at_16 == pytest.approx(math.exp(raw["intercept"]) * 16 ** raw["value"])


def test_thresholds_beyond_the_grid_stand_at_its_end():
    curves_at = {8: (0.95, 1.0), 16: (0.0, 0.5), 32: (0.0, 1.0)}
    success = [
        {"n": n, "m": m, "isotonic": s} for n, of in curves_at.items() for m, s in zip((16, 64), of, strict=True)
    ]
    rows = [
        {"n": 8, "quantile": None},
        {"n": 16, "quantile": None},
        {"n": 32, "quantile": 64.0, "low": None, "high": None, "bracketed": True},
        {"n": 64, "quantile": None, "flags": {"quantile": "too few replicates"}},
    ]
    found = thresholds.points_of({"success": success, "thresholds": rows}, 1 - 0.1, "quantile")
    assert [(p.n, p.m, p.state) for p in found] == [(8, 16, "below"), (16, 64, "above"), (32, 64, "fitted")]
    assert (found[2].low, found[2].high) == (0.0, math.inf)


def test_cell_edges_are_geometric_midpoints():
    centres = np.array([8.0, 16.0, 64.0])
    found = phase.edges(centres)
    assert found[1:-1] ** 2 == pytest.approx(centres[:-1] * centres[1:])
    assert found[[0, -1]] == pytest.approx([8 / math.sqrt(2), 128.0])
    assert phase.edges(np.array([8.0])) == pytest.approx([8 / math.sqrt(2), 8 * math.sqrt(2)])


def test_pairs_that_were_not_run_are_holes():
    rows = [{"n": 8, "m": 2, "rate": 0.0}, {"n": 8, "m": 4, "rate": 1.0}, {"n": 16, "m": 4, "rate": 0.5}]
    n, m, rates = phase.success_matrix(rows)
    assert (list(n), list(m)) == ([8, 16], [2, 4])
    assert np.isnan(rates[0, 1])
    assert rates[1] == pytest.approx([1.0, 0.5])


def test_curves_are_aligned_log_linearly_and_keep_their_last_value():
    all_steps = (np.array(s, dtype=float) for s in ([0, 1, 4], [0, 8], [0, 2, 16]))
    runs = [{"step": s, "residual": 0.5**s} for s in all_steps]
    steps = curves.common_steps(runs)
    assert steps[0] == 0
    assert steps[-1] == 8, "two of three runs reach step 8, one goes on"
    found = curves.aligned(runs, "residual", steps)
    assert found[1:] == pytest.approx(np.tile(0.5**steps, (2, 1)))
    assert found[0] == pytest.approx(0.5 ** np.minimum(steps, 4))


def test_a_figure_is_laid_out_once_and_drawn_once_per_format(run, monkeypatch):
    draws = []
    monkeypatch.setattr(Canvas, "draw", lambda self, renderer, draw=Canvas.draw: draws.append(draw(self, renderer)))
    [figure] = drawing.figures(only(**LAMBDA), *run)
    layouts, layout = [], figure.figure.get_layout_engine()
    monkeypatch.setattr(layout, "execute", lambda drawn, execute=layout.execute: layouts.append(execute(drawn)))
    assert len(rendering.render(figure)) == len(draws) == 3
    assert len(layouts) == 1


def test_curves_may_come_in_any_order(run, drawn):
    cells, curve_rows, summary = run
    convergence = only(convergence=synthetic.EXPERIMENT.figures["convergence"])
    shuffled = curve_rows.sample(frac=1, random_state=0)
    [found] = drawing.figures(convergence, cells, shuffled, summary)
    pairs = zip(found.figure.axes, drawn["convergence"].figure.axes, strict=True)
    for line, other in ((a, b) for one, two in pairs for a, b in zip(one.lines, two.lines, strict=True)):
        np.testing.assert_array_equal(line.get_xydata(), other.get_xydata())


def test_the_theory_line_is_the_guaranteed_rate(run, drawn):
    cells, _, _ = run
    axis = drawn["convergence"].figure.axes[0]
    widest = cells[(cells["data"] == "equiangular") & (cells["n"] == 8) & (cells["m"] == cells["m"].max())]
    contraction = (widest["eta_scaled"] * widest["lambda_cts"]).median()
    dotted = [line for line in axis.lines if line.get_zorder() == 3][-1]
    assert dotted.get_ydata() == pytest.approx((1 - contraction / 2) ** (dotted.get_xdata() / 2))


def test_a_width_that_never_converges_does_not_squeeze_the_others(drawn):
    for axis in drawn["convergence"].figure.axes:
        medians = [line for line in axis.lines if line.get_zorder() == 4]
        assert axis.get_xlim()[1] <= 3 * medians[-1].get_xdata()[-1] + 1e-9


def test_rates_are_decays_of_the_logarithm(run, drawn):
    _, _, summary = run
    axis = drawn["rates"].figure.axes[0]
    row = next(r for r in summary["groups"][0]["rates"] if r["measured"] is not None and r["measured"] < 1)
    x, y = axis.containers[0].lines[0].get_data()
    assert (x[0], y[0]) == pytest.approx((-math.log(row["theory"]), -math.log(row["measured"])))
    assert axis.get_xlim() == axis.get_ylim()


def test_limits_of_random_data_are_drawn_for_unit_norm_exponential_networks_only(run, drawn):
    def reference_lines(figure):
        heights = [line.get_ydata()[0] for line in figure.axes[0].lines if line.get_xdata()[0] == 0]
        return [h for h in heights if h == pytest.approx(math.e**2) or h == pytest.approx(math.e * (math.e - 1))]

    cells, curve_rows, summary = run
    assert len(reference_lines(drawn["lambda"].figure)) == 2
    [other] = drawing.figures(only(**LAMBDA), cells.assign(activation="cosh"), curve_rows, summary)
    assert not reference_lines(other.figure)


def test_many_panels_are_spread_over_figures_by_owner():
    panels = [(owner, i) for owner in "abcdef" for i in range(4)]
    found = style.pages("phase", panels, owner=lambda panel: panel[0])
    assert [name for name, _ in found] == ["phase", "phase-2", "phase-3", "phase-4"]
    assert all(len({panel[0] for panel in chunk}) == 1 for _, chunk in found)
    drawn = style.paged("phase", "", "", panels, lambda _: None, owner=lambda panel: panel[0])
    assert drawn[0].caption == " 8 more panels are not drawn."
    assert style.pages("phase", panels[:6]) == [("phase", panels[:6])]


@pytest.mark.parametrize(
    ("values", "ticks"),
    [([8, 12, 16], [8, 12, 16]), (range(8, 4097, 8), [8, 32, 128, 512, 2048]), ([7], [7])],
)
def test_ticks_are_the_values_or_powers_of_two(values, ticks):
    canvas, (axis,) = style.canvas(1, 2)
    style.log_ticks(axis, "x", values)
    assert list(axis.get_xticks()) == ticks
    assert canvas.axes == [axis]

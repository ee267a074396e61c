"""The interactive page: the same rows, inert whatever they contain, small; and in a browser, where one is found."""

import base64
import html
import json
import re
import shutil
import subprocess
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report import synthetic
from report.synthetic import EXPERIMENT, HOSTILE

from expreg.core.page import explore
from expreg.core.page.page import EXPLORED
from expreg.core.page.page import write as write_report

AXES = ["data", "n", "m", "rho"]
NAME = "<script>document.title='hacked'</script> $x$"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --enable-logging=stderr --virtual-time-budget=20000 --dump-dom"
)


def hostile():
    """Return a run whose texts, names of columns and settings are what a user should not be able to do harm with."""
    cells, curves, summary = synthetic.small()
    texts = [HOSTILE[i % len(HOSTILE)] for i in range(len(cells))]
    cells = cells.assign(**{HOSTILE[0]: texts, HOSTILE[2]: np.arange(len(cells)) % 3, "status_detail": texts})
    cells["steps"] = np.arange(1, len(cells) + 1)
    return cells, curves, {**summary, "name": NAME}


def unpacked(data):
    *lines, last = zlib.decompress(data).decode().split("\n")
    head = json.loads(last)
    lines = [json.loads(line) for line in lines]
    return head, {column["name"]: column for column in lines[: head["columns"]]}, lines[head["columns"] :]


def values(column):
    if column["type"] == "number":
        return [np.nan if value is None else value for value in column["values"]]
    codes = column.get("values", range(len(column["levels"])))
    return [None if code < 0 else column["levels"][code] for code in codes]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    where = tmp_path_factory.mktemp("run")
    return explore.write(where, EXPERIMENT, *hostile(), [*AXES, HOSTILE[0]])


# --- what is in it -------------------------------------------------------------------------------------------


def test_the_page_has_all_rows_sorted_by_the_swept_settings_and_the_same_for_the_same_rows():
    cells, curves, _ = synthetic.small()
    data = explore.packed(EXPERIMENT, cells.sample(frac=1, random_state=0), curves, AXES)
    head, columns, _ = unpacked(data)
    expected = cells.sort_values(["data", "n", "m", "rho", "cell"])
    found = pd.DataFrame({name: values(column) for name, column in columns.items()}).sort_values(
        ["data", "n", "m", "rho", "cell"]
    )
    assert head["cells"] == len(cells) == len(found)
    assert list(columns)[:6] == [*AXES, "status", "cell"]
    assert [columns[name]["axis"] for name in columns] == [name in AXES for name in columns]
    assert set(columns) | set(head["same"]) == set(cells)
    for name in ("data", "cell", "status", "n", "m"):
        assert list(found[name]) == list(expected[name])
    np.testing.assert_allclose(found["eta"], expected["eta"], rtol=5e-6)
    assert list(found["E5"]) == [str(value).lower() for value in expected["E5"]]
    assert head["same"]["activation"] == "exp"
    order = list(zip(*(values(columns[name]) for name in AXES[:3]), strict=True))
    assert order == sorted(order)
    again = explore.packed(EXPERIMENT, cells.sample(frac=1, random_state=0), curves, AXES)
    assert again == data


def test_every_curve_is_at_its_cell_and_thinned_without_its_ends():
    cells, curves, _ = synthetic.small()
    long = pd.DataFrame({"cell": cells["cell"].iloc[0], "step": range(1000), "residual": np.geomspace(1, 1e-3, 1000)})
    curves = pd.concat([curves[curves["cell"] != long["cell"].iloc[0]], long.assign(linearised=np.nan)])
    head, columns, lines = unpacked(explore.packed(EXPERIMENT, cells, curves, AXES))
    names = values(columns["cell"])
    assert head["kinds"] == ["residual", "linearised"]
    assert head["curves"] == head["all_curves"] == len(lines) == curves["cell"].nunique()
    own = dict(list(curves.groupby("cell")))
    for row, steps, residual, linearised in lines:
        curve = own[names[row]]
        assert (steps[0], steps[-1]) == (curve["step"].iloc[0], curve["step"].iloc[-1])
        assert len(steps) == len(residual) == len(linearised) <= explore.POINTS
        kept = curve.set_index("step").loc[steps]
        np.testing.assert_allclose(residual, kept["residual"], rtol=5e-4)
        assert linearised[0] is None or linearised == pytest.approx(kept["linearised"].tolist(), rel=5e-4)


def test_what_is_left_out_is_named_and_the_limits_keep_any_page_under_8_mb(monkeypatch, page):
    data = len(re.search(r'id="data">([^<]*)', page.read_text())[1])
    fixed = page.stat().st_size - data
    assert fixed + 4 / 3 * explore.DATA_LIMIT < 7.95e6
    assert explore.COLUMNS_LIMIT < explore.DATA_LIMIT
    cells, curves, _ = synthetic.small()
    whole = explore.packed(EXPERIMENT, cells, curves, AXES)
    monkeypatch.setattr(explore, "COLUMNS_LIMIT", len(whole) // 10)
    monkeypatch.setattr(explore, "DATA_LIMIT", len(whole) // 2)
    small = explore.packed(EXPERIMENT, cells, curves, AXES)
    head, columns, lines = unpacked(small)
    everything = unpacked(whole)[1]
    assert len(small) < len(whole) // 2 + 2000
    assert head["left_out"]
    assert [name for name in everything if name not in columns] == head["left_out"]
    assert 0 < len(lines) == head["curves"] < head["all_curves"]
    rows = [line[0] for line in lines]
    assert len({values(columns["n"])[row] for row in rows}) == 3, "a sample of all cells, not the first of them"


def test_missing_infinite_and_unknown_values_and_repeated_columns():
    cells = pd.DataFrame(
        {"cell": ["a", "b", "c"], "status": "error", "k": [1, 2, 3], "steps": pd.array([1, None, 3], "Int64")}
    )
    cells = cells.assign(
        kind=["u", "v", "v"],
        twin=["u", "v", "v"],
        double=cells["k"],
        far=[np.inf, 0.5, np.nan],
        gone=None,
        label=["x", None, "x"],
        later=[1.5, 2.5, 2.5],
    )
    head, columns, lines = unpacked(
        explore.packed(EXPERIMENT, cells, pd.DataFrame(columns=["cell", "step"]), ["k", "kind"])
    )
    assert list(columns) == ["k", "kind", "status", "steps", "cell", "double", "far", "label", "later"]
    assert columns["steps"]["values"] == [1, None, 3]
    assert columns["far"]["values"] == [None, 0.5, None]
    assert values(columns["label"]) == ["x", None, "x"]
    assert columns["later"]["meaning"] == ""  # of a newer version or a plug-in that is not there
    assert (lines, head["kinds"], head["same"]) == ([], [], {})


def test_an_axis_that_only_some_blocks_sweep_has_the_values_of_its_column_everywhere():
    cells = pd.DataFrame({"cell": ["a", "b", "c"], "status": "converged", "p.optimizer": ["sgd", None, "adam"]})
    cells = cells.assign(optimizer=["sgd", "sgd", "adam"], eta=[1.0, 2.0, 4.0])
    cells["p.eta"] = pd.array([3, None, 4], "Int64")  # not the same: the column stays
    columns = unpacked(explore.packed(EXPERIMENT, cells, pd.DataFrame(), ["p.optimizer", "p.eta"]))[1]
    assert list(columns) == ["p.optimizer", "p.eta", "status", "cell", "eta"]
    assert values(columns["p.optimizer"]) == ["adam", "sgd", "sgd"]
    assert columns["p.optimizer"]["meaning"].startswith("optax optimizer")


def test_texts_of_the_run_are_never_markup(page):
    text = page.read_text()
    assert NAME not in text
    assert html.escape(NAME, quote=False) in html.unescape(text).replace(NAME, html.escape(NAME, quote=False))
    assert not [bad for bad in HOSTILE if bad in text]
    assert text.count("<script") == text.count("</script>") == 4  # library, data, two of ours
    assert "default-src 'none'; script-src 'unsafe-inline'" in text
    assert not re.search(r"""(src|href)=["'](?!report\.html)""", text)
    library = zlib.decompress(base64.b64decode(re.search(r'id="library">([^<]*)', text)[1])).decode()
    assert "plotly.js" in library[:200]
    assert "MIT license" in library[:200]
    found = unpacked(base64.b64decode(re.search(r'id="data">([^<]*)', text)[1]))[1]
    assert set(found[HOSTILE[0]]["levels"]) == {HOSTILE[0], HOSTILE[1], HOSTILE[2], "\\x1b[31mred", "a\\u202eb"}


def test_a_run_without_rows_has_a_page(tmp_path):
    cells, curves, summary = synthetic.small()
    explore.write(tmp_path, EXPERIMENT, cells[:0], curves[:0], summary, AXES)
    data = base64.b64decode(re.search(r'id="data">([^<]*)', (tmp_path / EXPLORED).read_text())[1])
    assert unpacked(data)[0] == {
        "cells": 0, "columns": 0, "same": {}, "left_out": [], "kinds": [], "curves": 0, "all_curves": 0,
    }  # fmt: skip


# --- in a browser --------------------------------------------------------------------------------------------

PROBE = """<script>
{
document.body.style.width = "390px";  // of a phone; a window cannot be less than 500 wide
const found = {};
const rest = (ms) => new Promise((done) => setTimeout(done, ms));
const shownRows = () => [...document.querySelectorAll("tbody tr[data-row]")].map((line) => line.innerText.split("\\t"));
const head = (name) => [...document.querySelectorAll("th button")].find((b) => b.textContent.startsWith(name));
const press = (key) => table.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
const search = async (text) => {
  $("search").value = text;
  $("search").dispatchEvent(new Event("input"));
  await rest(300);
  return $("count").textContent;
};
async function probe() {
  for (let tries = 0; tries < 500 && !document.documentElement.dataset.ready; tries++) await rest(20);
  await rest(200);
  found.all = $("count").textContent;
  found.rows = shownRows().length;
  found.axes = [...document.querySelectorAll("#scatter .g-xtitle, #scatter .g-ytitle")].map((t) => t.textContent);
  found.points = document.querySelectorAll("#scatter .points path").length;
  found.curves = document.querySelectorAll("#curves .lines path").length;
  found.search = await search("converged m>=64 n=8");
  found.unknown = await search("zz=1");
  await search("");
  head("m").click();
  head("m").click();
  found.sorted = [head("m").parentNode.ariaSort, ...shownRows().slice(0, 20).map((r) => Number(r[2]))];
  $("grid").scrollTop = 1e9;
  await rest(200);
  found.last = Number(shownRows().at(-1)[2]);
  const filter = [...document.querySelectorAll(".filter")].find((f) => f.innerText.startsWith("n:"));
  filter.open = true;
  filter.querySelector("input").click();
  found.filtered = [filter.querySelector("summary").textContent, $("count").textContent];
  document.querySelector("button[type=reset]").click();
  await rest(200);
  found.reset = $("count").textContent;
  table.focus();
  press("Home"); press("ArrowDown"); press("ArrowDown");
  await rest(300);
  found.chosen = [$("chosen").querySelector("h2").textContent, document.querySelector("[aria-selected=true]").id,
    table.getAttribute("aria-activedescendant"), document.querySelectorAll("#curves .lines path").length];
  $("colour").value = HOSTILE; $("colour").dispatchEvent(new Event("change"));
  $("x").value = HOSTILE; $("x").dispatchEvent(new Event("change"));
  await rest(300);
  found.legend = [...document.querySelectorAll("#scatter .legendtext")].map((t) => t.textContent);
  found.title = document.querySelector("#scatter .g-xtitle").textContent;
  found.foreign = document.querySelectorAll("img, iframe, main b, main script, main a").length;
  found.tools = [...document.querySelectorAll("#scatter .modebar-btn")].map((b) => b.dataset.title);
  const fetched = performance.getEntriesByType("resource").map((entry) => entry.name);
  found.requests = fetched.filter((name) => !/^(data|blob):/.test(name));
  found.width = document.body.scrollWidth;
  document.body.append(element("pre", { id: "found", textContent: JSON.stringify(found) }));
}
probe();
}
</script>"""


def opened(path: Path, *flags: str) -> tuple[str, list[str]]:
    """Return what a browser makes of a page, and its console."""
    command = [CHROMIUM, *FLAGS.split(), f"--user-data-dir={path.parent / 'profile'}", *flags, path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.split("\n") if "CONSOLE" in line]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_in_chromium_cells_are_filtered_sorted_searched_and_chosen_and_nothing_is_fetched(page, tmp_path):
    cells, curves, _ = hostile()
    probe = PROBE.replace("HOSTILE", json.dumps(HOSTILE[0]).replace("<", "\\u003c"))
    path = tmp_path / "explore.html"
    path.write_text(page.read_text().replace("</body>", f"{probe}</body>"))
    text, console = opened(path, "--window-size=500,844")
    assert console == []
    found = json.loads(html.unescape(re.search(r'<pre id="found">(.*)</pre>', text)[1]))
    assert found["all"] == found["reset"] == f"{len(cells):,} cells"
    assert 10 < found["rows"] < 60
    assert found["axes"] == ["m", "steps"]
    assert found["points"] == len(cells)
    assert found["curves"] == min(200, curves["cell"].nunique())
    some = (cells["status"] == "converged") & (cells["m"] >= 64) & (cells["n"] == 8)
    assert found["search"] == f"{some.sum():,} of {len(cells):,} cells"
    assert found["unknown"] == f"{len(cells):,} cells; no column “zz”"
    assert found["sorted"] == ["descending", *[cells["m"].max()] * 20]
    assert found["last"] == cells["m"].min()
    assert found["filtered"] == ["n: 2 of 3", f"{(cells['n'] != 8).sum():,} of {len(cells):,} cells"]
    third = cells.sort_values([*AXES, HOSTILE[0]], kind="stable").iloc[2]
    shown = min(200, curves["cell"].nunique()) + (third["cell"] in set(curves["cell"]))  # and its prediction
    assert found["chosen"] == [f"Cell {third['cell']}", "row-2", "row-2", pytest.approx(shown, abs=1)]
    assert sorted(found["legend"]) == sorted({*HOSTILE[:3], "\\x1b[31mred", "a\\u202eb"})
    assert found["title"] == HOSTILE[0]
    assert (found["foreign"], found["requests"], found["width"]) == (0, [], 390)
    assert found["tools"][:2] == ["Download plot as a PNG", "Zoom"], "nothing that would send data to a server"
    assert "<title>&lt;script&gt;" in text


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_in_chromium_the_report_and_an_empty_page_open_without_a_complaint(tmp_path):
    cells, curves, summary = hostile()
    one = replace(EXPERIMENT, figures={"thresholds": EXPERIMENT.figures["thresholds"]})
    write_report(tmp_path, one, cells, curves, summary, {}, NAME)
    explore.write(tmp_path, EXPERIMENT, cells[:0], curves[:0], summary, AXES)
    text, console = opened(tmp_path / "report.html")
    assert console == []
    assert "<script" not in text
    assert "<svg" in text
    text, console = opened(tmp_path / EXPLORED)
    assert console == []
    assert "No cell is finished yet." in text

"""The report page: complete, inert, the same bytes for the same rows."""

import copy
import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files

import pandas as pd
import pytest
from report import synthetic
from report.synthetic import HOSTILE

from expreg.core.page import page, style
from expreg.core.page.page import write
from expreg.core.stats.summary import summarise
from expreg.errors import StorageError
from expreg.types import Column, Experiment

MANIFEST = {
    "device": {"kind": "cpu", "count": 2},
    "compilations": [{"lanes": 64}],
    "command": ["a", "b"],
    "commit": None,
}
CONFIG = "experiment: threshold\nname: synthetic\n"
VOID = {"meta", "br", "hr", "img", "input", "link"}
NOTHING = pd.DataFrame()


class Reader(HTMLParser):
    """Collect elements, attributes, ids, references and text; check that elements are closed in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.ids, self.references, self.open = Counter(), set(), [], set(), []
        self.text = ""
        self.feed(text)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes |= {key for key, _ in attrs}
        self.ids += [value for key, value in attrs if key == "id"]
        self.references |= {v[1:] for k, v in attrs if k == "href"}
        self.references |= {name for _, v in attrs for name in re.findall(r"url\(#([^)]*)\)", v or "")}
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def run():
    return synthetic.run(n=(8, 16, 32), m=synthetic.WIDTHS[::3], replicates=40, resamples=20)


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    where = tmp_path_factory.mktemp("run")
    (where / "figures").mkdir()
    (where / "figures" / "phase-3.png").write_bytes(b"of an earlier run")
    (where / "figures" / "mine.png").write_bytes(b"of the user")
    assert write(where, synthetic.EXPERIMENT, *run, MANIFEST, CONFIG) == where / "report.html"
    return where


@pytest.fixture(scope="module")
def text(folder):
    return (folder / "report.html").read_text("utf-8")


def html(summary, shown=(), cells=NOTHING, manifest=MANIFEST, config_text=CONFIG):
    return page.html(synthetic.EXPERIMENT, list(shown), cells, summary, manifest, config_text)


def test_all_figures_are_written_in_three_formats_and_nothing_else(folder):
    written = sorted(path.name for path in folder.rglob("*") if path.is_file())
    expected = [f"{name}.{suffix}" for name in synthetic.DRAWN for suffix in ("pdf", "png", "svg")]
    assert written == sorted([*expected, "mine.png", "report.html"])
    starts = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}
    assert all(path.read_bytes().startswith(starts[path.suffix[1:]]) for path in folder.glob("figures/t*"))


def test_the_same_rows_give_the_same_bytes(run, folder, tmp_path):
    write(tmp_path, synthetic.EXPERIMENT, *copy.deepcopy(run), MANIFEST, CONFIG)
    for path in tmp_path.rglob("*.*"):
        assert path.read_bytes() == (folder / path.relative_to(tmp_path)).read_bytes(), path.name


def test_the_page_needs_nothing_from_outside(text):
    assert not re.search(r"https?://|//[a-z]+\.|@import", text)
    assert "default-src 'none'" in text
    read = Reader(text)
    active = {"script", "iframe", "object", "embed", "link", "img", "image", "form", "foreignobject"}
    assert not set(read.tags) & active
    assert not [name for name in read.attributes if name.startswith("on") or name in ("src", "srcset", "xlink:href")]


def test_ids_are_unique_and_references_resolve(text):
    read = Reader(text)
    assert [name for name, count in Counter(read.ids).items() if count > 1] == []
    assert read.references <= set(read.ids)
    assert read.tags["svg"] == read.tags["figure"] == len(synthetic.DRAWN)
    assert read.open == []


def test_verdicts_come_first_worded_and_every_number_of_the_summary_is_shown(run, text):
    _, _, summary = run
    assert text.index('id="verdicts"') < text.index('id="figures"') < text.index('id="tables"')
    for verdict in summary["verdicts"]:
        assert f"{verdict['verdict']}</span>" in text
    read = Reader(text)
    for group in summary["groups"]:
        for criterion in group["criteria"]:
            for kind in ("raw", "corrected"):
                low, high = criterion["exponent"][kind]["low"], criterion["exponent"][kind]["high"]
                assert page.words.interval(low, high) in read.text
    assert "exponent of n in m λ2, or in m" in read.text
    assert "device.kind" in read.text
    assert "compilations.0.lanes" in read.text
    assert CONFIG in read.text


def test_hostile_text_stays_text(run, soak):
    cells, _, summary = copy.deepcopy(run)
    summary["name"], summary["experiment"] = HOSTILE[:2]
    for record in [*summary["groups"], *summary["verdicts"]]:
        record |= {key: HOSTILE[i % 5] for i, key in enumerate(("label", "claim", "reason", "verdict", "criterion"))}
    for criterion in summary["groups"][0]["criteria"]:
        criterion |= {"criterion": HOSTILE[4], "title": HOSTILE[0]}
    summary["counts"]["by_status"] = dict.fromkeys(HOSTILE, 1)
    cells = cells.assign(device=[HOSTILE[i % 5] for i in range(len(cells))])
    figure = page.Shown(name=HOSTILE[0], title=HOSTILE[1], caption=HOSTILE[2], svg=page.Markup(""), problem=HOSTILE[3])
    found = html(summary, [figure], cells, {HOSTILE[0]: list(HOSTILE)}, "\n".join(HOSTILE))
    clean = Reader(html({}, manifest={}))
    read = Reader(found)
    assert set(read.tags) <= set(clean.tags) | set(Reader(html(run[2])).tags) | {"figure"}
    assert not [name for name in read.attributes if name.startswith("on") or name == "src"]
    assert "\x1b" not in found
    assert "\u202e" not in found
    assert r"\u202e" in found
    assert "<img src=x onerror=alert(1)>" in read.text
    places = sum(found.count(str(page.escape(text))) for text in HOSTILE)
    title = "Names with markup, escapes and bidirectional characters wherever a page shows text"
    soak.figure("R13", title, texts=len(HOSTILE), places=places, unescaped=0)


def test_an_empty_run_has_a_page(tmp_path):
    summary = {"name": "x", "experiment": "threshold"}
    text = write(tmp_path, synthetic.EXPERIMENT, NOTHING, NOTHING, summary, {}, "").read_text("utf-8")
    assert "No verdicts" in text
    assert "nothing to draw" in text
    assert list((tmp_path / "figures").iterdir()) == []


def test_a_figure_that_fails_is_named_with_its_reason(run, tmp_path):
    def broken(*_):
        raise ValueError("<b>no ink</b>")

    def unsaved(*_):
        figure, (axis,) = style.canvas(1, 2)
        axis.set_title(r"$\undefined{x}$")
        return [style.Figure("lambda", "Lambda", "caption", figure)]

    experiment = replace(synthetic.EXPERIMENT, figures={"phase": broken, "lambda": unsaved})
    text = write(tmp_path, experiment, *run, MANIFEST, CONFIG).read_text("utf-8")
    assert "could not be drawn: ValueError: &lt;b&gt;no ink&lt;/b&gt;" in text
    assert text.count("could not be drawn") == 2, "one fails while it is drawn, one while it is saved"
    assert list((tmp_path / "figures").iterdir()) == []


def test_an_experiment_that_makes_nothing_of_its_rows_has_a_page_of_its_columns(tmp_path):
    columns = (Column("speed", "float64", "how fast <it> went"), Column("ok", "bool", "whether it ended well"))
    own = Experiment(name="mine", columns=lambda: columns, signature=str, build=str, prepare=str, row=str)
    cells = pd.DataFrame({"status": ["converged"] * 3, "speed": [1.0, 2.0, None], "ok": [True, False, True]})
    found = summarise(own, cells, NOTHING, name="x")
    [table] = found["tables"]
    assert table["rows"][0][:4] == ["speed", "how fast <it> went", 2, 1.5]
    assert table["rows"][1][2:4] == [3, "2 true"]
    text = write(tmp_path, own, cells, NOTHING, found, {}, "").read_text("utf-8")
    assert "how fast &lt;it&gt; went" in text
    assert "3 cells of the experiment mine." in text
    assert "nothing to draw" in text
    assert page.words.verdict_text(own, found) == ""  # it makes no claim


def test_what_cannot_be_written_is_a_storage_error(tmp_path):
    (tmp_path / "figures").write_text("a file in the way")
    with pytest.raises(StorageError, match="E-OUT.*figures: is a file"):
        write(tmp_path, synthetic.EXPERIMENT, NOTHING, NOTHING, {}, {}, "")
    assert [path.name for path in tmp_path.iterdir()] == ["figures"]


def test_symbols_are_raised_and_named():
    assert page.symbols("n^2.5 log(n/delta) <b> e^-1 nn^2") == "n<sup>2.5</sup> log(n/δ) &lt;b&gt; e<sup>-1</sup> nn^2"


def test_labels_of_formulas_lead_to_the_formulas(tmp_path):
    paragraphs = json.loads(files("expreg.core.page").joinpath("formulas.json").read_text("utf-8"))
    cells, curves, summary = copy.deepcopy(synthetic.small())
    summary["description"] = "by (C.14) and (B.11, Z.1), not C.14"
    text = write(tmp_path, synthetic.EXPERIMENT, cells, curves, summary, {}, "# as in (C.14)").read_text("utf-8")
    assert 'by (<a href="#formula-C.14">C.14</a>) and (<a href="#formula-B.11">B.11</a>, Z.1), not C.14' in text
    assert "<pre># as in (C.14)</pre>" in text
    linked, places = (set(re.findall(rf'{kind}="#?formula-([A-H]\.\d+)"', text)) for kind in ("href", "id"))
    assert linked == places <= {label for labels, _ in paragraphs for label in labels}
    before, _, _ = text.partition('id="formulas"')
    words = re.sub(r"<(svg|pre|style)\b.*?</\1>|<[^>]*>", "", before, flags=re.DOTALL)
    cited = {
        label for group in re.findall(r"\([A-H]\.\d[^()]*\)", words) for label in re.findall(r"\b[A-H]\.\d+", group)
    }
    assert {"B.11", "C.14", "D.9"} < cited <= linked


def test_templates_and_scripts_are_package_data():
    for name in ("report.html.jinja", "explore.html.jinja", "explore.js", "charts.js", "formulas.json"):
        assert files("expreg.core.page").joinpath(name).is_file()
    assert files("expreg.kinds.network.figures").joinpath("chain.html.jinja").is_file()


def test_the_report_starts_neither_jax_nor_a_window_system():
    code = "import sys, expreg.core.page; sys.exit(bool({'jax', 'matplotlib.pyplot'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_nothing_is_written_through_a_link_and_nothing_is_left_of_the_dead(tmp_path):
    empty = (synthetic.EXPERIMENT, NOTHING, NOTHING, {}, {}, "")
    elsewhere, inside = tmp_path / "elsewhere", tmp_path / "run"
    elsewhere.mkdir()
    inside.mkdir()
    (inside / "figures").symlink_to(elsewhere)
    with pytest.raises(StorageError, match=r"E-OUT.*figures: is a symlink to .*elsewhere"):
        write(inside, *empty)
    assert not list(elsewhere.iterdir())
    (inside / "figures").unlink()
    (inside / "figures").mkdir()
    for place in (inside, inside / "figures"):
        (place / f".expreg.{'0' * 32}.tmp").write_text("half a figure")
    write(inside, *empty)
    assert not list(inside.rglob("*.tmp"))

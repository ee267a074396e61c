"""README and docs: every command and example runs (shrunk), every YAML block is a config, links and names exist."""

import ast
import inspect
import io
import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tokenize
import tomllib
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml
from shrink import shrunk

import expreg
from expreg import cli, errors, ntk
from expreg.api import json_schema
from expreg.api import load_config as load
from expreg.core.config import plan
from expreg.kinds.network.events import EVENTS
from expreg.kinds.network.summary.groups import criteria as all_criteria
from expreg.outputs import OUTPUTS, schema
from expreg.types import Status

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))
import figures  # noqa: E402
import formulas  # noqa: E402

LISTED = re.findall(r"^[a-z_]+$", (ROOT / "docs/index.md").read_text(), re.MULTILINE)
PAGES = [
    ROOT / path for path in ("README.md", "CHANGELOG.md", "docs/index.md", *(f"docs/{page}.md" for page in LISTED))
]
REGISTRIES = r"pypi\.|pythonhosted|anaconda|conda-forge|npmjs|docker\.io|huggingface|crates\.io"
THIS_MACHINE = r"(?<![\w.])/(work|tmp|root|home|Users|mnt)/"
NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))
LARGEST_IMAGE = 150_000
SMALLEST = {"experiment": "threshold", "name": "smallest", "sweep": {"product": {"n": [4], "m": [16]}}}


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    kind: str
    text: str

    @property
    def commands(self) -> list[str]:
        """The lines that a person types."""
        return [line.removeprefix("$ ") for line in self.text.splitlines() if line.startswith("$ ")]


def blocks(*kinds: str) -> Iterator[Block]:
    for page in PAGES:
        for kind, text in re.findall(r"^```(.+?)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
            if kind.split()[0] in kinds and " file=" not in kind:  # those are run by test_register.py
                yield Block(str(page.relative_to(ROOT)), kind, text)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def source(path: Path) -> str:
    """Return the text of a page, or that of the cells of a notebook."""
    if path.suffix == ".md":
        return path.read_text()
    form = {"markdown": "{}", "code": "```\n{}\n```"}
    cells = json.loads(path.read_text())["cells"]
    return "\n\n".join(form[cell["cell_type"]].format("".join(cell["source"])) for cell in cells)


EXAMPLES = sorted({block.page for block in blocks("python", "{code-cell}")})


# --- what is shown runs ---------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory like a fresh clone, with a data file of the reader's own."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    X = np.random.default_rng(0).normal(size=(6, 3))
    rows = [f"{a},{b},{c},{(-1) ** i}" for i, (a, b, c) in enumerate(X)]
    (tmp_path / "mine.csv").write_text("\n".join(["a,b,c,y", *rows]))
    W, a = np.tile(np.random.default_rng(1).normal(size=(3, 64)), 2), np.repeat([1.0, -1.0], 64)
    np.savez(tmp_path / "net.npz", X=X[:2], y=np.array([0.1, -0.1]), W=W, a=a)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recipe(command: str) -> list[str]:
    """Return the calls of `expreg` that a `make` command makes; fail if it has no such target or extra."""
    _, target, *settings = shlex.split(command)
    words = ["make", "--dry-run", target, *settings]
    found = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for setting in settings:
        assert setting.removeprefix("EXTRAS=") in extras
    return re.findall(r"^\.venv/bin/(expreg .*)$", found.stdout, re.MULTILINE)


def calls() -> dict[str, str]:
    """Return every call of `expreg` that the pages show, and the first page that shows it."""
    found: dict[str, str] = {}
    for block in blocks("console"):
        for command in block.commands:
            for call in recipe(command) if command.startswith("make ") else [command]:
                found.setdefault(call, block.page)
    return found


def test_every_command_runs(place, monkeypatch, command):
    """Figures are drawn for the first only: they take longer than the shrunk runs, and tests/report has them."""
    shown = calls()
    assert len(shown) > 12
    for call, page in shown.items():
        program, *arguments = shlex.split(call)
        assert program == "expreg", f"{page}: {call}"
        smaller = shrunk(ROOT / arguments[1]) if arguments[0] == "run" else []
        code, _, errors = command(*arguments, *smaller)
        assert code == 0, f"{page}: {call}: exit code {code}: {errors}"
        monkeypatch.setattr("expreg.core.page.page.write", lambda *_: None)


def test_messages_are_as_shown(place, command):
    """Numbers may differ: lines of configs move."""
    for block in blocks("text"):
        (words,) = block.commands
        code, _, found = command(*shlex.split(words)[1:])
        assert code == 2
        shown = block.text.partition("\n")[2]
        assert re.sub(r"\d+", "0", found) == re.sub(r"\d+", "0", shown)


@pytest.mark.parametrize("page", EXAMPLES)
def test_python_examples_run(page, place, monkeypatch, command):
    shown = [block for block in blocks("python", "{code-cell}") if block.page == page]
    if page != "docs/quickstart.md":  # one page with figures is enough: they take longer than the runs
        monkeypatch.setattr("expreg.core.page.page.write", lambda *_: None)
    display: Any = types.ModuleType("IPython.display")  # the build has IPython, the tests do not
    display.Image = lambda path, width: page == "docs/quickstart.md" and Path(path).stat()
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    known: dict[str, Any] = {}
    for block in shown:
        if block.text.startswith("!"):
            assert command(*shlex.split(block.text.removeprefix("!"))[1:])[0] == 0
        else:
            exec(compile(block.text, page, "exec"), known)


def test_yaml_blocks_are_configs(place):
    shown = list(blocks("yaml"))
    assert len(shown) >= 4
    for number, block in enumerate(shown):
        path = place / f"{number}.yaml"
        missing = "" if "experiment:" in block.text else "experiment: threshold\nname: example\n"
        path.write_text(missing + block.text)
        assert plan(load(path))["cells"] > 1, block


@pytest.mark.parametrize("text", ["yes", "no", "on", "off", "010", "0x1F", "1_000", "12:30"])
def test_what_is_called_ambiguous_is_refused(text):
    assert f"`{text}`" in (ROOT / "docs/configuration.md").read_text()
    with pytest.raises(errors.InputError, match="ambiguous"):
        load(SMALLEST, [f"description={text}"])


# --- formulas -------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS], ids=name)
def test_every_formula_is_understood(page):
    """The build fails too, as it uses the same function."""
    text = re.sub(r"^```.*?^```$|`[^`\n]+`", "", source(page), flags=re.MULTILINE | re.DOTALL)
    for block, inline in re.findall(r"\$\$(.+?)\$\$|\$([^$]+)\$", text, re.DOTALL):
        assert formulas.mathml(block or inline).startswith("<math")


def test_the_package_explains_the_formulas_as_the_page_does():
    page = (ROOT / "docs" / "mathematics.md").read_text()
    assert figures.FORMULAS.read_text() == formulas.packaged(page)


def test_a_subscript_takes_one_letter():
    found = re.sub(r"</?math.*?>|</?mrow>", "", formulas.mathml("D_ia_i"))
    assert found == "<msub><mi>D</mi><mi>i</mi></msub><msub><mi>a</mi><mi>i</mi></msub>"


@pytest.mark.parametrize(
    "formula", [r"\foo x", r"\frac{1}", "{a", "a}", "a_", "a^^b", "a^b^c", r"\left(a", "x&y", "$x", "#"]
)
def test_a_formula_that_is_not_understood_is_an_error(formula):
    with pytest.raises(ValueError, match="cannot parse the formula"):
        formulas.mathml(formula)


# --- what is linked and named exists --------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS], ids=name)
def test_relative_links_exist_and_no_registry_and_no_place_of_one_machine_is_named(page):
    text = source(page)
    assert not re.search(f"{REGISTRIES}|{THIS_MACHINE}", text)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = page.parent / path if path else page
        assert found.is_file(), target
        assert not anchor or anchor in anchors(found), target


def test_pages_are_in_the_table_of_contents_and_images_small_and_used():
    assert {page for page in PAGES if page.parent.name == "docs"} == set((ROOT / "docs").glob("*.md"))
    text = "".join(page.read_text() for page in PAGES)
    for image in (ROOT / "docs/images").iterdir():
        assert image.stat().st_size <= LARGEST_IMAGE
        assert f"images/{image.name}" in text


def test_commands_exist_and_each_is_documented():
    known = {command.name or command.callback.__name__ for command in cli.app.registered_commands if command.callback}
    code = [text for page in PAGES for text in re.findall(r"`(expreg [^`]+)`", page.read_text())]
    code += [command for block in blocks("console", "text") for command in block.commands if command[:4] != "make"]
    named = {text.split()[1] for text in code}
    listed = re.search(r"Command line: (.*)\.", (ROOT / "CHANGELOG.md").read_text())
    assert listed
    assert named == known == set(re.findall(r"`(\w+)`", listed[1]))


def test_events_columns_statuses_and_exit_codes_are_explained(place, reference):
    cells = expreg.run(SMALLEST, out=place / "smallest").cells
    mathematics, running = ((ROOT / f"docs/{page}.md").read_text() for page in ("mathematics", "running"))
    rows = set(re.findall(r"^\| `(\w+)` \|", mathematics, re.MULTILINE))
    criteria = {criterion.name for criterion in all_criteria()}
    assert rows == {*EVENTS, *(name for name in criteria if name.startswith("movement"))} <= criteria
    assert set(cells) <= set(re.findall(r"`(\w+)`", reference.columns()))
    statuses = {status.name for status in Status} - {"running"}
    assert statuses <= set(re.findall(r"^\| `(\w+)` \|", running, re.MULTILINE))
    codes = {kind.exit_code for _, kind in inspect.getmembers(errors, inspect.isclass) if hasattr(kind, "exit_code")}
    table = re.findall(r"^\| (\d+) \|", (ROOT / "docs/configuration.md").read_text(), re.MULTILINE)
    assert codes <= set(map(int, table))


def test_public_names_are_in_the_reference():
    text = (ROOT / "docs/api.md").read_text()
    modules = {f"expreg.{name}" for name in expreg.__all__ if inspect.ismodule(getattr(expreg, name))}
    functions = {f"expreg.{name}" for name in expreg.__all__} - modules - {"expreg.__version__"}
    assert functions <= set(re.findall(r"auto(?:function|class):: (\S+)", text))
    assert modules <= set(re.findall(r"expreg\.\w+", text))
    docstrings = "".join(path.read_text() for path in (ROOT / "expreg").rglob("*.py"))
    assert not re.search(r"contract \d|design\.md|house\.md", docstrings)


def test_every_label_of_the_mathematics_is_explained():
    text = (ROOT / "docs/mathematics.md").read_text()
    explained = set(re.findall(r"\(([A-H]\.\d+)\)", text))
    for section, first, last in re.findall(r"\(([A-H])\.(\d+)\)–\([A-H]\.(\d+)\)", text):
        explained |= {f"{section}.{number}" for number in range(int(first), int(last) + 1)}
    code = "".join(path.read_text() for path in (ROOT / "expreg").rglob("*.py"))
    used = set(re.findall(r"\b([A-H]\.\d+)\b", code))
    assert used <= explained


# --- English --------------------------------------------------------------------------------------

AVOIDED = r"\b(told|held|said|far away|says of|lets? expect|is recalled)\b"


@pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS], ids=name)
def test_pages_avoid_words_that_read_badly(page):
    assert not re.findall(f".*{AVOIDED}.*", source(page), re.IGNORECASE)


def test_texts_of_the_package_avoid_words_that_read_badly():
    """Messages, captions, docstrings and comments; names of variables are free."""
    found = []
    for path in (ROOT / "expreg").rglob("*.py"):
        source = path.read_text()
        texts = [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
        texts += [
            part.string
            for part in tokenize.generate_tokens(io.StringIO(source).readline)
            if part.type == tokenize.COMMENT
        ]
        found += [(path.name, text) for text in texts if re.search(AVOIDED, str(text), re.IGNORECASE)]
    assert not found


# --- what is made from the package ----------------------------------------------------------------


@pytest.fixture(scope="module")
def reference() -> types.SimpleNamespace:
    return types.SimpleNamespace(**runpy.run_path(str(ROOT / "docs/reference.py")))


def properties(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        for key, inner in schema.items():
            yield from inner if key == "properties" and isinstance(inner, dict) else ()
            yield from properties(inner)
    elif isinstance(schema, list):
        for inner in schema:
            yield from properties(inner)


def test_the_tables_of_keys_are_complete(reference):
    text, schema = reference.keys(), json_schema()
    marks = re.findall("<!-- generated: (.*) -->", "".join(page.read_text() for page in PAGES))
    assert {"columns", "keys", "notation", "outputs"} <= set(marks)
    del schema["properties"]["sweep"]
    of_the_sweep = set(
        properties([schema["$defs"].pop(name) for name in ("Sweep", "Axes", "Search", "Space", "Optuna", "Prune")])
    )
    wanted = set(properties(schema)) - {"sweep"}
    assert wanted - of_the_sweep <= set(re.findall(r"`(\w+)`", text))
    assert "mapping" in text
    assert "None" not in text
    for link in re.findall(r"\(#(key-[\w-]+)\)", text):
        assert f"({link})=" in text
    for line in text.splitlines():
        assert not line.startswith("|") or line.replace("\\|", "").count("|") in (5, 6), line


def test_the_tables_of_documents_are_complete(reference):
    text = reference.outputs()
    assert {key for name in OUTPUTS for key in properties(schema(name))} <= set(re.findall(r"`(\w+)`", text))
    assert {name for line in re.findall("^## (.*)$", text, re.MULTILINE) for name in re.findall(r"\w+", line)} == {
        *OUTPUTS
    }
    assert "any" not in re.findall(r"\w+", "".join(line.split("|")[2] for line in text.splitlines() if "|" in line))


def test_defaults_shown_are_those_of_the_package(reference):
    rows = re.findall(r"^\| `(\w+)` \| .* \| `([^`|]*)` \| [^|]* \|$", reference.keys(), re.MULTILINE)
    shown = dict(reversed(rows))  # of several keys of one name the first, that of the experiments with networks
    config = load(SMALLEST)
    assert yaml.safe_load(shown["tolerance"]) == config.training.tolerance
    assert yaml.safe_load(shown["delta"]) == config.analysis.delta
    assert json.loads(shown["measure"]) == config.measure


# --- numbers of pages -----------------------------------------------------------------------------


@pytest.mark.parametrize("page", [page for page in figures.PAGES if "<!-- figures:" in page.read_text()], ids=name)
def test_the_numbers_of_a_page_are_those_of_the_stored_results(page: Path) -> None:
    text = page.read_text()
    assert figures.rewritten(text) == text, "make figures"
    assert text.count("<!-- figures:") == text.count("<!-- end -->")


@pytest.mark.parametrize("config", figures.RUNS)
def test_stored_results_are_those_of_the_config_as_it_is(config: str) -> None:
    stored = figures.results(config)
    assert stored["config"] == figures.content(config), f"make figures: the config of {config} has changed"
    assert stored["planned"] == plan(load(*figures.asked(config)))["cells"] >= stored["cells"]


def test_every_verdict_of_the_quickstart_is_an_answer() -> None:
    verdicts = figures.results("quickstart")["verdicts"]
    assert {found["criterion"] for found in verdicts} == {"E3", "E4", "E5", "movement", "rate", "steps"}
    assert {found["verdict"] for found in verdicts} == {"consistent"}


def test_every_stored_result_is_shown_or_checked_and_says_where_it_was_timed() -> None:
    stored = {path.stem for path in figures.RESULTS.glob("*.json")}
    timed = {name for name in stored if name.startswith("bench_")}
    assert stored - timed == set(figures.RUNS)
    text = "".join(page.read_text() for page in figures.PAGES)
    for name in timed:
        assert f"<!-- figures: measured {name} -->" in text
        assert re.search(r", \d{4}-\d\d-\d\d", figures.measured(name))


def test_slopes_and_means_of_the_benchmark_are_those_of_its_lines() -> None:
    lines = figures.results("bench_sweep")["lines"]
    ratios = [line["microseconds"]["vmap"] / line["microseconds"]["expreg"] for line in lines]
    mean, least = re.fullmatch(r"(\S+) \(at the least (\S+)\)", figures.faster("bench_sweep", "vmap")).groups()  # type: ignore[union-attr]
    assert float(mean) == pytest.approx(np.exp(np.mean(np.log(ratios))), rel=0.03)
    assert float(least) == pytest.approx(min(ratios), rel=0.05)
    solved = figures.results("bench_regression")
    found = [
        min(peer["seconds"] for peer in one["outcomes"][1:] if peer["seconds"]) / one["outcomes"][0]["seconds"]
        for one in solved["problems"]
    ]
    assert solved["first_on"] == sum(ratio > 1 for ratio in found)
    assert solved["geometric_mean"] == pytest.approx(np.exp(np.mean(np.log(found))), rel=0.03)


def test_the_closed_form_of_equiangular_points_is_that_of_any_points() -> None:
    """sum V / lambda^2 (C.2) from the Gram matrix of points, and its local exponents."""
    for n, coherence in ((4, 0.5), (7, 0.3), (16, 0.7)):
        X = np.linalg.cholesky(np.full((n, n), coherence) + (1 - coherence) * np.eye(n))
        lam = np.linalg.eigvalsh(ntk.infinite(X))[0]
        assert figures.expected_width(n, coherence) == pytest.approx(
            ntk.expected_squared_error(X, 1, init="iid") / lam**2
        )
    row = figures.slopes("0.5").strip().splitlines()[-1].split(" | ")[1:]
    assert [float(cell.strip(" |")) for cell in row] == [1.16, 1.28, 1.43, 1.60, 1.75, 1.86, 1.92, 1.96]


def test_a_block_of_a_page_is_replaced_and_nothing_else() -> None:
    text = "a <!-- figures: slopes 0.5 -->old<!-- end --> b <!-- end -->"
    made = figures.rewritten(text)
    assert made.startswith("a <!-- figures: slopes 0.5 -->\n| coherence")
    assert made.endswith("<!-- end --> b <!-- end -->")
    assert figures.rewritten(made) == made


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_line_begins_with_a_mark_and_goes_on(page):
    """Markdown takes such a line for HTML, and shows the signs of what follows."""
    assert not re.findall(r"^ *<!--[^>]*-->.*\S.*", page.read_text(), re.MULTILINE)

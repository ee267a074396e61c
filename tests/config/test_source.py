"""Where a config comes from: overrides, extends, paths, and the text that is written back."""

from pathlib import Path
from typing import Any

import pytest
from config_samples import SMALL, TEXT, changed, load, problems, refused, written
from hypothesis import given, settings
from hypothesis import strategies as st

from expreg.core.config import config_text
from expreg.core.config.reader import read
from expreg.core.config.source import gather

# --- overrides ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("training.tolerance=1e-4", ("training", "tolerance"), 1e-4),
        ("sweep.product.n=8,16", ("sweep", "product", "n"), [8, 16]),
        ("sweep.product.n=32,", ("sweep", "product", "n"), [32]),
        ("sweep.product.n=[4, 8]", ("sweep", "product", "n"), [4, 8]),
        ("sweep.product.m={geometric: [8, 64, 4]}", ("sweep", "product", "m"), {"geometric": [8, 64, 4]}),
        ("sweep.product.m.geometric=8,64,4", ("sweep", "product", "m"), {"geometric": [8, 64, 4]}),
        ("sweep.product.replicate.count=2", ("sweep", "product", "replicate"), {"count": 2}),
        ("sweep.product.training.step_size.factor=0.5,1", ("sweep", "product", "training.step_size.factor"), [0.5, 1]),
        ("sweep.when=min(n, m) > 1", ("sweep", "when"), "min(n, m) > 1"),
        ("data.d=2*n", ("data", "d"), "2*n"),
        ("name='2024'", ("name",), "2024"),
        ("training.max_steps={flow_time: 1}", ("training", "max_steps"), {"flow_time": 1}),
        ("description=a = b", ("description",), "a = b"),
        ("description='a, b'", ("description",), "a, b"),
        ("description=attempt #3", ("description",), "attempt #3"),
        ("description=#3", ("description",), "#3"),
        ("description='attempt #3'", ("description",), "attempt #3"),
        ("description=note: see C#, a #1", ("description",), ["note: see C#", "a #1"]),
        ("description=two\nlines", ("description",), "two\nlines"),
        ('description="a" , b #2', ("description",), ["a", "b #2"]),
    ],
)
def test_overrides_are_read_like_the_file(override: str, path: tuple[str, ...], value: Any) -> None:
    found: Any = gather(SMALL, [override]).value
    for part in path:
        found = found[part]
    assert found == value


def test_overrides_may_be_a_mapping_and_later_ones_win() -> None:
    assert load(SMALL, {"sweep.product.n": [2, 4]}).source.given["sweep"]["product"]["n"] == [2, 4]
    assert load(SMALL, ["training.tolerance=0.1", "training.tolerance=0.02"]).training.tolerance == 0.02


def test_list_elements_are_reached_by_index() -> None:
    config = changed("sweep", {"product": {"m": [8]}, "concat": [{"product": {"n": [8]}}, {"product": {"n": [16]}}]})
    for override in ("sweep.concat.1.product.n=4", "sweep.concat[1].product.n=4"):
        given = load(config, [override]).source.given
        assert given["sweep"]["concat"] == [{"product": {"n": [8]}}, {"product": {"n": 4}}]


@pytest.mark.parametrize(
    ("override", "code", "key"),
    [
        ("nope", "E-OVERRIDE", "nope"),
        ("name=", "E-OVERRIDE", "name="),
        ("training.tolerence=1", "E-UNKNOWN", "training.tolerence"),
        ("training.tolerance=010", "E-NUM", "training.tolerance"),
        ("training.tolerance=abc", "E-EXPR", "training.tolerance"),
        ("sweep.product.n=8,0", "E-RANGE", "sweep.product.n[1]"),
        ("sweep.product.n=8,010", "E-NUM", "sweep.product.n[1]"),
        ("sweep.product.m=[8, NO]", "E-BOOL", "sweep.product.m[1]"),
        ("sweep.product.n=8,,9", "E-YAML", "sweep.product.n"),
        ("name.first=x", "E-OVERRIDE", "name.first"),
        ("extends=a.yaml", "E-OVERRIDE", "extends"),
        ("description=hello, world", "E-TYPE", "description"),
        ("description='a' #3", "E-OVERRIDE", "description"),
        ("description=[a #3, b]", "E-OVERRIDE", "description"),
        ("description=\udcff", "E-UTF8", "description"),
        ("description=a #\udcff, b", "E-UTF8", "description"),
        ("descr\udcffiption=a", "E-UNKNOWN", "descr\udcffiption"),
        ("+training.tolerance=0.1", "E-UNKNOWN", "+training"),
        ("a.b.c=1", "E-UNKNOWN", "a"),
        ("training.a.b=1", "E-UNKNOWN", "training.a"),
        ("sweep.zip.x.y=1", "E-AXIS", "sweep.zip.x.y"),
    ],
)
def test_bad_overrides_name_the_command_line(override: str, code: str, key: str) -> None:
    [found] = problems(SMALL, [override])
    assert (found.code, found.file, found.line, found.key) == (code, "command line", None, key)


def test_an_override_repairs_what_it_replaces(tmp_path: Path) -> None:
    path = written(tmp_path, TEXT.replace("0.05", "010"))
    assert load(path, ["training.tolerance=0.1"]).training.tolerance == 0.1
    assert refused(path, ["training.tolerance=-1"]) == [("E-RANGE", "training.tolerance")]


# --- extends and paths -------------------------------------------------------------------------------


def test_extends_merges_deeply_and_errors_name_the_file(tmp_path: Path) -> None:
    written(tmp_path, TEXT.replace("factor: 1.0", "factor: -1"), "base.yaml")
    child = written(
        tmp_path, "extends: base.yaml\nname: child\ntraining: {tolerance: -1}\nsweep: {product: {n: [4]}}\n"
    )
    found = problems(child)
    assert [(Path(str(p.file)).name, p.line, p.key) for p in found] == [
        ("base.yaml", 7, "training.step_size.factor"),
        ("f.yaml", 3, "training.tolerance"),
    ]
    config = load(child, ["training.tolerance=0.1", "training.step_size.factor=2"])
    assert (config.name, config.measure) == ("child", ["E0", "E5"])
    assert config.source.given["sweep"]["product"]["n"] == [4]
    assert config.source.given["sweep"]["product"]["replicate"] == {"count": 3}
    assert "extends" not in config_text(config)


def test_circles_of_extends_are_refused(tmp_path: Path) -> None:
    written(tmp_path, "extends: b.yaml\n", "a.yaml")
    written(tmp_path, "extends: a.yaml\n", "b.yaml")
    found = problems(tmp_path / "a.yaml")
    assert (found[0].code, found[0].message) == ("E-EXTENDS", "extends goes in a circle: a.yaml -> b.yaml -> a.yaml")


@pytest.mark.parametrize("text", ["/etc/passwd", "../../../../etc/passwd", "http://x.org/a.yaml", "file:///etc/passwd"])
def test_extends_stays_in_its_directory_or_the_working_directory(tmp_path: Path, monkeypatch: Any, text: str) -> None:
    monkeypatch.chdir(tmp_path)
    found = problems(written(tmp_path, f"name: x\nextends: {text}\n"))
    assert found[0].code == "E-PATH"
    assert "must be a local file under" in found[0].message


def test_a_link_out_of_the_directory_is_refused(tmp_path: Path, monkeypatch: Any) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    written(outside, TEXT, "base.yaml")
    (inside / "link.yaml").symlink_to(outside / "base.yaml")
    monkeypatch.chdir(inside)
    child = written(inside, "extends: link.yaml\n")
    assert refused(child)[0] == ("E-PATH", "extends")


# --- writing -----------------------------------------------------------------------------------------


TOKENS = ["1e-3", "010", "NO", "null", "~", "true", ".nan", "1_0", "a:\tb", "-", "#", "<<", "=", "*a", "\x85", "\u2028"]


@settings(max_examples=60, deadline=None)
@given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30) | st.sampled_from(TOKENS)
)
def test_config_text_reads_back_any_text(text: str) -> None:
    config = load(changed("description", text))
    document = read(config_text(config))
    assert document.problems == []
    assert document.value == config.source.given


def test_config_text_keeps_numbers(tmp_path: Path) -> None:
    config = load(SMALL, {"training.tolerance": 1e-5, "network.scale": 1e22, "seed": 7})
    again = load(written(tmp_path, config_text(config)))
    assert again.model_dump() == config.model_dump()
    assert again.source.given == config.source.given

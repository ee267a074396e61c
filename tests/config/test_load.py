"""Loading a config: the line of every mistake, all of them at once, grids too large, and files of any content."""

import time
from pathlib import Path
from typing import Any

import pytest
from config_samples import SMALL, TEXT, changed, load, problems, refused, sweepable, written
from hypothesis import given, settings
from hypothesis import strategies as st

from expreg.errors import InputError


def complaints(source: Any, overrides: Any = ()) -> list[str]:
    try:
        load(source, overrides)
    except InputError as error:
        return error.lines()
    return []


@pytest.mark.parametrize(
    ("old", "new", "line"),  # nothing old: the new text stands at the end
    [
        (TEXT, "", "E-EMPTY] {f}: config is empty; expected a mapping"),
        (TEXT, "- a\n", "E-TYPE] {f}:1:1: top level is a sequence; expected a mapping"),
        (TEXT, "text\n", "E-TYPE] {f}:1:1: top level is a scalar; expected a mapping"),
        ("", "---\na: 1\n", "E-YAML] {f}:18:1: second document; expected one"),
        ("", "x:\n\ty: 1\n", "E-YAML] {f}:19:1: tab used for indentation"),
        ("tolerance", "tolerence", "E-UNKNOWN] {f}:9:3: training.tolerence: unknown key; did you mean tolerance?"),
        ("name: quick\n", "", "E-MISSING] {f}:1:1: name: required key missing"),
        ("[8, 16]", '["64"]', "E-TYPE] {f}:12:9: sweep.product.n[0]: got '64' (text)"),
        ("[8, 16]", "true", "E-TYPE] {f}:12:8: sweep.product.n: got true (bool), expected an integer in 1..65536"),
        ("[8, 16]", "[8, -8]", "E-RANGE] {f}:12:12: sweep.product.n[1]: got -8, expected an integer in 1..65536"),
        (
            "[8, 16]",
            "[8, 010]",
            "E-NUM] {f}:12:12: sweep.product.n[1]: ambiguous number '010'; write plain decimal digits",
        ),
        ("{count: 3}", "5", "E-TYPE] {f}:14:16: sweep.product.replicate: got 5, expected {count: 5} for that many"),
        (
            "0.05",
            "[0.1, 0.05]",
            "E-TYPE] {f}:9:14: training.tolerance: got a list, expected a finite number >= 0;"
            " to run one after the other: sweep: {product: {training.tolerance: [0.1, 0.05]}}",
        ),
        (
            "scale: 1.0",
            "m: [8, 16]",
            "E-TYPE] {f}:4:46: network.m: got a list, expected an integer in 1..1099511627776; to run one after the"
            " other: sweep: {product: {m: [8, 16]}}",
        ),
        (
            "{name: sgd}",
            "[sgd, adam, adagrad, rmsprop, lion, sgd]",
            "E-TYPE] {f}:6:14: training.optimizer: got a list, expected a mapping; to run one after the other:"
            " sweep: {product: {training.optimizer.name: [sgd, adam, adagrad, rmsprop, ...]}}",
        ),
        ("[8, 16]", "[]", "E-EMPTY] {f}:12:8: sweep.product.n: list is empty; expected at least 1 value"),
        ("[8, 16]", "[8, 8]", "E-DUP] {f}:12:12: sweep.product.n[1]: 8 already at index 0"),
        ("0.05", ".nan", "E-RANGE] {f}:9:14: training.tolerance: got nan, expected a finite number >= 0"),
        ("0.05", "-1", "E-RANGE] {f}:9:14: training.tolerance: got -1, expected a finite number >= 0"),
        ("0.05", "1e-12", "E-RANGE] {f}:9:14: training.tolerance: 1e-12 is below 32*eps of float32"),
        ("factor: 1.0", "factor: 1e-50", "E-RANGE] {f}:7:39: training.step_size.factor: 1e-50 is 0 in float32"),
        ("quick", "NO", "E-BOOL] {f}:2:7: name: ambiguous value 'NO'; use true or false, or quote it"),
        ("", "precision: fp32\n", "E-ENUM] {f}:18:12: precision: got 'fp32', expected f32 or f64; did you mean f32?"),
        ("activation: exp", "activation: tanh", "E-ENUM] {f}:4:23: network.activation: got 'tanh'"),
        ("threshold", "treshold", "E-ENUM] {f}:1:13: experiment: got 'treshold'"),
        ("quick", "../../etc/x", "E-NAME] {f}:2:7: name: '../../etc/x' has '/'"),
        ("d: n", "d: 2*nn", "E-EXPR] {f}:3:25: data.d: 'nn' is not a swept name; did you mean n?"),
        (
            "m >= n",
            "m >= k",
            "E-EXPR] {f}:15:9: sweep.when: 'k' is not swept in this block; known here: m, n, replicate",
        ),
        ("", "problem: {a: 1}\n", "E-UNKNOWN] {f}:18:1: problem: threshold has no problem; remove this key"),
        (
            "engine: local",
            "engine: rey",
            "E-ENUM] {f}:17:21: execution.engine: got 'rey', expected local, ray or slurm; did you mean ray?",
        ),
    ],
)
def test_error_lines(tmp_path: Path, old: str, new: str, line: str) -> None:
    path = written(tmp_path, TEXT.replace(old, new) if old else TEXT + new)
    [found] = problems(path)
    assert str(found).startswith("error[" + line.replace("{f}", str(path)))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_bytes(b"na\xffme: 1\n")
    assert str(problems(broken)[0]) == f"error[E-UTF8] {broken}: byte 0xff at offset 2 is not UTF-8"
    assert refused(written(tmp_path, TEXT + "#" * 300_000)) == [("E-SIZE", None)]
    assert refused(tmp_path / "none.yaml") == refused(tmp_path) == [("E-FILE", None)]


def test_all_independent_errors_are_listed_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = TEXT.replace("exp,", "tanh,").replace("[8, 16]", "[8, 010]").replace("0.05", "2*k").replace("quick", "no")
    found = problems(written(tmp_path, text + "colour: red\nseed: -1\n"))
    keys = ["name", "network.activation", "training.tolerance", "sweep.product.n[1]", "colour", "seed"]
    assert [problem.key for problem in found] == keys
    assert [problem.line for problem in found] == [2, 4, 9, 12, 18, 19]


@pytest.mark.parametrize(
    ("path", "value", "key"),
    [
        ("data.n", "64", "data.n"),
        ("network.init", "cupled", "network.init"),
        ("sweep.product.n", [], "sweep.product.n"),
        ("sweep.product.m", [8, 8], "sweep.product.m[1]"),
        ("sweep.zip", {"seed": [1, 2, 3], "data.d": []}, "sweep.zip.data.d"),
        ("sweep.product.network.init", ["iid", "cupled"], "sweep.product.network.init[1]"),
        ("sweep.product.network.scale", "much", "sweep.product.network.scale"),
        ("sweep.product.training.optimizer.b1", 2, "sweep.product.training.optimizer.b1"),
    ],
)
def test_what_follows_from_a_reported_mistake_is_not_reported(path: str, value: Any, key: str) -> None:
    assert [found for _, found in refused(changed(path, value))] == [key]


def test_at_most_twenty_lines_are_printed() -> None:
    config = {**SMALL, **{f"key{i}": 1 for i in range(50)}}
    with pytest.raises(InputError) as caught:
        load(config)
    assert len(caught.value.lines()) == 21
    assert caught.value.lines()[-1] == "30 more"


def test_a_width_that_nothing_sets_is_named() -> None:
    config = {"experiment": "threshold", "name": "x", "data": {"n": 8}}
    assert [str(problem) for problem in problems(config)] == [
        "error[E-MISSING] network.m: m is neither swept nor given; sweep m or set network.m"
    ]


def test_an_axis_that_sets_nothing_is_named() -> None:
    found = problems(changed("data.n", 8))
    assert str(found[0]) == "error[E-AXIS] sweep.product.n: n is swept, and data.n is given; remove one of them"
    found = problems(changed("sweep.product.rho", [1, 2]))
    assert str(found[0]) == "error[E-AXIS] sweep.product.rho: axis rho sets nothing: no expression names it"


@pytest.mark.parametrize("count", [10**6, 10**9])
def test_huge_grids_are_refused_in_no_time(count: int) -> None:
    config = changed("sweep.product.replicate", {"count": count})
    config["sweep"]["product"]["n"] = {"geometric": [1, 64, 10**6]}
    start = time.process_time()
    assert [str(problem) for problem in problems(config)] == [
        f"error[E-GRID] sweep: {count * 10**6} cells, limit 1000000 (execution.max_cells)"
    ]
    assert time.process_time() - start < 1


def test_a_huge_grid_beside_another_mistake_is_not_made() -> None:
    config = {**changed("sweep.product.n", {"count": 10**15}), "network": {"scale": -1}}
    assert refused(config) == [("E-RANGE", "network.scale")]


def test_the_limit_of_cells_is_a_setting() -> None:
    config = changed("sweep.product.replicate", {"count": 11})
    load(config, ["execution.max_cells=11"])
    assert refused(config, ["execution.max_cells=10"]) == [("E-GRID", "sweep")]


# --- fuzz --------------------------------------------------------------------------------------------


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["n", "m", "exp"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=100, deadline=2000)
@given(
    st.sampled_from([*sweepable("threshold"), *SMALL, "sweep.product.n", "sweep.product", "sweep.zip", "sweep.concat"]),
    VALUES,
)
def test_any_value_anywhere_loads_or_is_refused(path: str, value: Any) -> None:
    assert all(line.isprintable() and len(line) <= 400 for line in complaints(SMALL, {path: value}))


def test_a_name_in_place_of_its_mapping_says_how_to_write_it() -> None:
    for path, name, key in (("training.optimizer", "adam", "name"), ("data.labels", "teacher", "kind")):
        with pytest.raises(InputError, match=f"expected a mapping; write {{{key}: {name}}}"):
            load(changed(path, name))

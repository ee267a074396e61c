"""Cells and their names: what changes an id and what does not, rules per cell, data files, size."""

import copy
import itertools
import json
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from config_samples import load
from hypothesis import given, settings
from hypothesis import strategies as st

from expreg.core.config import cell_id, cells, config_text, first_difference, plan
from expreg.core.config.model import Config
from expreg.errors import InputError

BASE: dict[str, Any] = {
    "experiment": "threshold",
    "name": "x",
    "data": {"kind": "sphere", "d": "n"},
    "training": {"tolerance": 0.001, "step_size": {"factor": 1}},
    "sweep": {"product": {"n": [8, 16], "m": [8, 32, 64], "replicate": {"count": 2}}, "when": "m >= n"},
}
TEXT = """\
experiment: threshold
name: x
data: {kind: sphere, d: n}
training: {tolerance: 1e-3, step_size: {factor: 1}}
sweep:
  product: {n: [8, 16], m: [8, 32, 64], replicate: {count: 2}}
  when: m >= n
"""


def ids(config: Config) -> list[str]:
    return [cell_id(setting) for setting, _ in cells(config)]


def problems(source: Any, overrides: Any = ()) -> list[str]:
    with pytest.raises(InputError) as caught:
        plan(load(source, overrides))
    return caught.value.lines()


def with_sweep(**sweep: Any) -> dict[str, Any]:
    return {"experiment": "threshold", "name": "x", "sweep": sweep}


# --- what a cell is ----------------------------------------------------------------------------------


def test_settings_and_axes_of_a_cell() -> None:
    setting, axes = next(cells(load(BASE)))
    assert setting == {
        "experiment": "threshold",
        "seed": 0,
        "replicate": 0,
        "precision": "f32",
        "data": {"kind": "sphere", "n": 8, "d": 8, "labels": {"kind": "sign"}, "allow_duplicates": False},
        "network": {"m": 8, "activation": "exp", "init": "coupled", "scale": 1.0},
        "training": {
            "optimizer": {"name": "sgd"},
            "step_size": {"rule": "spectral", "factor": 1.0, "value": None, "schedule": None},
            "max_steps": {"flow_time": 2.0, "at_most": 1_000_000},
            "tolerance": 0.001,
            "relative": False,
            "measure_every": 64,
            "divergence": 1e4,
            "curve": {"points": 48, "spacing": "logarithmic"},
        },
        "measure": ["E0", "E1", "E1s", "E1m", "E2", "E3", "E4", "E5", "Ecert"],
    }
    assert axes == {"n": 8, "m": 8, "replicate": 0}
    assert json.loads(json.dumps(setting)) == setting


def test_cells_are_those_of_the_grid_in_its_order() -> None:
    found = [(s["data"]["n"], s["data"]["d"], s["network"]["m"], s["replicate"]) for s, _ in cells(load(BASE))]
    expected = [(n, n, m, r) for n, m, r in itertools.product([8, 16], [8, 32, 64], range(2)) if m >= n]
    assert found == expected
    assert plan(load(BASE))["cells"] == len(expected)


def test_without_a_sweep_there_is_one_cell() -> None:
    config = load({"experiment": "convergence", "name": "x", "data": {"n": 8}, "network": {"m": "4*n"}})
    [(setting, axes)] = cells(config)
    assert (setting["network"]["m"], setting["data"]["d"], axes) == (32, 8, {})


def test_expressions_may_name_axes_sizes_and_the_replicate() -> None:
    source = with_sweep(product={"n": [8, 16], "rho": [0.25, 0.5], "replicate": [3]})
    source["data"] = {"kind": "near_duplicate", "angle": "rho/n", "d": "2*n"}
    source["network"] = {"m": "2*round(d*log(n)/2)", "scale": "1/(1 + replicate)"}
    source["training"] = {"max_steps": {"flow_time": "n/8"}, "optimizer": {"name": "momentum", "momentum": "1 - rho"}}
    setting, axes = next(cells(load(source)))
    assert axes == {"n": 8, "rho": 0.25, "replicate": 3}
    assert (setting["data"]["angle"], setting["data"]["d"], setting["network"]["m"]) == (0.25 / 8, 16, 34)
    assert (setting["network"]["scale"], setting["training"]["max_steps"]["flow_time"]) == (0.25, 1.0)
    assert setting["training"]["optimizer"] == {"name": "momentum", "momentum": 0.75}


def test_sizes_follow_the_axes_of_the_fields_they_come_from() -> None:
    source = {**with_sweep(product={"k": [4, 8]}), "data": {"n": "2*k"}, "network": {"m": "n + 2"}}
    assert [s["network"]["m"] for s, _ in cells(load(source))] == [10, 18]


def test_dotted_axes_set_numbers_names_and_kinds() -> None:
    source = with_sweep(
        product={
            "n": [8],
            "m": [16],
            "training.step_size.factor": [1, 0.5],
            "training.max_steps": 9,
            "network.activation": ["exp", "cosh"],
            "precision": ["f64"],
            "seed": [5],
        },
        concat=[
            {"product": {"data.kind": ["sphere"]}},
            {"product": {"data.kind": ["equiangular"], "data.coherence": [0, 0.5]}},
        ],
    )
    found = list(cells(load(source)))
    assert len(found) == 2 * 2 * 3
    setting, axes = found[-1]
    assert setting["data"]["coherence"] == 0.5
    assert (setting["training"]["step_size"]["factor"], setting["training"]["max_steps"]) == (0.5, 9)
    assert (setting["network"]["activation"], setting["precision"], setting["seed"]) == ("cosh", "f64", 5)
    assert axes["data.kind"] == "equiangular"
    assert "data.coherence" not in found[0][1]
    assert {type(axes["training.step_size.factor"]) for _, axes in found} == {float}


def test_a_swept_d_replaces_the_default_and_digits_know_theirs() -> None:
    swept = with_sweep(product={"n": [8], "m": [8], "d": [4, 32]})
    assert [s["data"]["d"] for s, _ in cells(load(swept))] == [4, 32]
    digits = {**with_sweep(product={"n": [8], "m": [8]}), "data": {"kind": "digits"}}
    data = next(cells(load(digits)))[0]["data"]
    assert (data["d"], data["labels"]) == (64, {"kind": "given"})


def test_cells_given_twice_are_there_once() -> None:
    source = with_sweep(product={"m": [8, 16]}, concat=[{"product": {"n": [4, 8]}}, {"product": {"n": [8, 16]}}])
    assert [s["data"]["n"] for s, _ in cells(load(source))] == [4, 8, 16, 4, 8, 16]
    assert plan(load(source))["cells"] == 6


# --- ids: what changes them and what does not --------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.replace("1e-3", "0.001"),
        lambda t: t.replace("1e-3", "1.0E-3"),
        lambda t: t.replace("factor: 1", "factor: 1.0"),
        lambda t: t.replace("threshold", "'threshold'").replace("kind: sphere", '"kind": "sphere"'),
        lambda t: "# a comment\n" + t.replace("\n", "  # another\n", 1),
        lambda t: t.replace("data: {kind: sphere, d: n}\n", "") + "data:\n  d: n\n  kind: sphere\n",
        lambda t: t.replace("[8, 16]", "[8.0, 16]"),
        lambda t: t.replace("d: n", "d: ' n '"),
        lambda t: t.replace("data: {kind: sphere, d: n}\n", ""),
        lambda t: t + "precision: f32\nseed: 0\nmeasure: [Ecert, E5, E4, E3, E2, E1m, E1s, E1, E0]\n",
        lambda t: t + "execution: {lanes: 3}\nanalysis: {delta: 0.2}\ndescription: other words\n",
        lambda t: t.replace("\n", "\r\n"),
        lambda t: "\ufeff" + t,
    ],
)
def test_writing_the_same_in_another_way_changes_no_id(tmp_path: Path, change: Any) -> None:
    before, after = tmp_path / "a.yaml", tmp_path / "b.yaml"
    before.write_text(TEXT)
    after.write_bytes(change(TEXT).encode())
    assert ids(load(before)) == ids(load(after))
    assert plan(load(before)) == plan(load(after))


def test_order_of_axes_changes_the_order_of_cells_only() -> None:
    other = copy.deepcopy(BASE)
    other["sweep"]["product"] = dict(reversed(list(BASE["sweep"]["product"].items())))
    assert ids(load(other)) != ids(load(BASE))
    assert sorted(ids(load(other))) == sorted(ids(load(BASE)))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=3, unique=True),
    st.lists(st.integers(1, 30), min_size=1, max_size=2, unique=True),
    st.integers(61, 99),
)
def test_adding_a_value_to_an_axis_keeps_all_other_ids(n: list[int], half_m: list[int], more: int) -> None:
    product = {"n": n, "m": [2 * half for half in half_m], "replicate": {"count": 2}}
    one, other = load(with_sweep(product=product)), load(with_sweep(product={**product, "n": [*n, more]}))
    before, after = ids(one), ids(other)
    assert set(before) < set(after)
    assert len(after) == len(before) * (len(n) + 1) // len(n)
    assert plan(one)["hash"] == plan(other)["hash"]


@pytest.mark.parametrize(
    ("override", "difference"),
    [
        ("training.tolerance=0.01", "training.tolerance 0.001 -> 0.01"),
        ("data.kind=orthonormal", "data.kind sphere -> orthonormal"),
        ("measure=[E0]", 'measure ["E0","E1","E1s","E1m","E2","E3","E4","E5","Ecert"] -> ["E0"]'),
        ("training.optimizer={name: adam}", "training.optimizer.b1 absent -> 0.9"),
        ("training.max_steps=7", 'training.max_steps {"at_most":1000000,"flow_time":2.0} -> 7'),
        ("data.d=2*n", "data.d n -> 2*n"),
        ("precision=f64", "precision f32 -> f64"),
        ("seed=1", "seed 0 -> 1"),
    ],
)
def test_another_setting_gives_other_ids_another_hash_and_is_named(override: str, difference: str) -> None:
    one, other = load(BASE), load(BASE, [override])
    assert not set(ids(one)) & set(ids(other))
    before, after = plan(one), plan(other)
    assert before["hash"] != after["hash"]
    assert first_difference(before["identity"], after["identity"]) == difference
    assert first_difference(before["identity"], json.loads(json.dumps(before["identity"]))) is None


def test_config_text_gives_the_same_plan(tmp_path: Path) -> None:
    config = load(BASE, ["training.tolerance=1e-4", "sweep.product.training.step_size.factor=0.5,1", "name='1e-3'"])
    path = tmp_path / "config.yaml"
    path.write_text(config_text(config))
    assert plan(load(path)) == plan(config)
    assert ids(load(path)) == ids(config)


def test_an_id_is_that_of_the_content() -> None:
    found, names = [setting for setting, _ in cells(load(BASE))], ids(load(BASE))
    assert len(set(names)) == len({json.dumps(setting, sort_keys=True) for setting in found}) == len(found)
    assert [cell_id(json.loads(json.dumps(setting))) for setting in found] == names
    assert all(len(name) == 16 and int(name, 16) >= 0 for name in names)


# --- rules per cell ----------------------------------------------------------------------------------


def test_an_odd_width_is_named_with_its_axis_and_its_line(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(TEXT.replace("[8, 32, 64]", "[9, 32, 65, 67, 69]"))
    assert problems(path) == [
        f"error[E-RANGE] {path}:6:28: network.m: got 9, init coupled pairs the neurons: expected an even number "
        "(where m = 9; or m = 65; or m = 67; and 1 more)"
    ]
    load(path, ["network.init=iid"])
    assert plan(load(path, ["network.init=iid"]))["cells"] == 18


F32 = "E-RANGE] overrides: training.tolerance:"


@pytest.mark.parametrize(
    ("overrides", "line", "where"),
    [
        ({"data.d": "n/3"}, "E-TYPE] overrides: data.d: got 2.6666666666666665 (number)", "n = 8; or n = 16"),
        ({"data.d": "1/(n - 8)"}, "E-EXPR] overrides: data.d: '1/(n-8)': division by zero", "n = 8"),
        ({"data.kind": "orthonormal", "data.d": 10}, "E-RANGE] overrides: data.d: got 10, orthonormal", "n = 16"),
        ({"training.tolerance": "1e-5/n"}, f"{F32} 1.25e-06 is below 32*eps of float32", "n = 8; or n = 16"),
        (
            {"data": {"kind": "equiangular", "coherence": -0.1}},
            "E-RANGE] overrides: data.coherence: got -0.1",
            "n = 16",
        ),
        (
            {"sweep.product.precision": ["f64", "f32"], "training.tolerance": 1e-9},
            f"{F32} 1e-09 is below 32*eps of float32",
            "precision = 'f32'",
        ),
        ({"sweep.when": "m < n - 20"}, "E-GRID] sweep: no cell is left: `when` holds nowhere", ""),
        ({"sweep.when": "1/(m - 8) > 0"}, "E-EXPR] overrides: sweep: a `when` has no value: division by zero", ""),
    ],
)
def test_rules_are_checked_in_every_cell(overrides: dict[str, Any], line: str, where: str) -> None:
    found = problems(BASE, overrides)[0]
    assert found.startswith(f"error[{line}")
    assert not where or found.endswith(f" (where {where})")


def test_a_wrong_size_is_reported_where_it_is_wrong_and_nowhere_else() -> None:
    source = with_sweep(product={"k": [3, 4]})
    source |= {"data": {"n": "k/2"}, "network": {"m": "2*n"}}
    assert problems(source) == ["error[E-TYPE] data.n: got 1.5 (number), expected an integer in 1..65536 (where k = 3)"]


def test_a_name_that_one_block_of_a_concat_lacks_is_named() -> None:
    source = with_sweep(product={"n": [8], "m": [8]}, concat=[{"product": {"rho": [0.5]}}, {"product": {"seed": [3]}}])
    source["data"] = {"kind": "equiangular", "coherence": "rho"}
    assert problems(source) == [
        "error[E-EXPR] data.coherence: 'rho': 'rho' has no value in this part of the sweep (where n = 8)"
    ]


# --- data files --------------------------------------------------------------------------------------


def points(path: Path, n: int, d: int, value: float = 1.0) -> None:
    np.savez(path, X=np.full((n, d), value), y=np.zeros(n))


def file_config(directory: Path, name: str = "mine.npz") -> Path:
    path = directory / "f.yaml"
    path.write_text(
        f"experiment: threshold\nname: x\ndata: {{kind: file, path: {name}, normalise: true}}\n"
        "network: {m: 2*n}\nsweep: {product: {replicate: {count: 2}}}\n"
    )
    return path


def test_a_file_gives_n_d_and_its_checksum(tmp_path: Path) -> None:
    points(tmp_path / "mine.npz", 12, 5)
    config = load(file_config(tmp_path))
    (setting, _), _ = cells(config)
    data, identity = setting["data"], plan(config)["identity"]["data"]
    assert (data["n"], data["d"], setting["network"]["m"]) == (12, 5, 24)
    assert data["sha256"] == identity["sha256"] == sha256((tmp_path / "mine.npz").read_bytes()).hexdigest()
    assert data["path"] == str(tmp_path / "mine.npz")
    assert "path" not in identity


def test_ids_depend_on_the_content_of_a_file_and_not_on_its_place(tmp_path: Path) -> None:
    found = []
    for directory, value in (("a", 1.0), ("b", 1.0), ("c", 2.0)):
        (tmp_path / directory).mkdir()
        points(tmp_path / directory / "mine.npz", 4, 4, value)
        found.append(ids(load(file_config(tmp_path / directory))))
    assert found[0] == found[1]
    assert not set(found[0]) & set(found[2])


@pytest.mark.parametrize("way", ["absolute", "relative", "override", "mapping", "dict", "axis"])
def test_a_file_may_lie_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """And the copy of the config in a run directory finds it again, from any working directory."""
    points(tmp_path / "mine.npz", 4, 4)
    for name in ("configs", "elsewhere"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    full = str(tmp_path / "mine.npz")
    given = {"absolute": full, "relative": "../mine.npz"}.get(way, "no.npz")
    path = file_config(tmp_path / "configs", given)
    source = {
        "experiment": "threshold",
        "name": "x",
        "data": {"kind": "file", "path": "../mine.npz"},
        "network": {"m": 8},
    }
    config = {
        "override": lambda: load(path, ["data.path=../mine.npz"]),
        "mapping": lambda: load(path, {"data.path": tmp_path / "mine.npz"}),
        "dict": lambda: load(source),
        "axis": lambda: load(path, ["sweep.product.data.path=../mine.npz,"]),
    }.get(way, lambda: load(path))()
    setting, _ = next(cells(config))
    assert setting["data"]["path"] == full
    (tmp_path / "copy.yaml").write_text(config_text(config))
    monkeypatch.chdir(tmp_path)
    assert plan(load(tmp_path / "copy.yaml")) == plan(config)


@pytest.mark.parametrize("path", ["http://x.org/a.npz", "file:///etc/passwd"])
def test_a_file_is_local(tmp_path: Path, path: str) -> None:
    with pytest.raises(InputError) as caught:
        load(file_config(tmp_path, f"'{path}'"))
    assert [(found.code, found.key) for found in caught.value.problems] == [("E-PATH", "data.path")]


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    path = file_config(tmp_path)
    assert problems(path) == [
        f"error[E-FILE] {path}:3:26: data.path: '{tmp_path / 'mine.npz'}' cannot be read: No such file or directory"
    ]


def test_n_rows_of_a_file_are_drawn_up_to_all_of_them(tmp_path: Path) -> None:
    points(tmp_path / "mine.npz", 6, 4)
    whole = [settings for settings, _ in cells(load(file_config(tmp_path)))]
    drawn = [settings for settings, _ in cells(load(file_config(tmp_path), ["sweep.product.n=3,6"]))]
    assert {settings["data"]["n"] for settings in whole} == {6}
    assert {settings["data"]["n"] for settings in drawn} == {3, 6}
    assert set(map(cell_id, whole)) < set(map(cell_id, drawn))  # all rows are all rows
    [line] = problems(file_config(tmp_path), ["sweep.product.n=3,8"])
    assert line.endswith("data.n: got 8, the file has 6 rows (where n = 8)")


def test_a_swept_path_needs_no_second_one(tmp_path: Path) -> None:
    for name, n in (("a", 4), ("b", 5)):
        points(tmp_path / f"{name}.npz", n, 4)
    whole = "experiment: threshold\nname: x\ndata: {kind: file}\nsweep: {product: {data.path: [%s], m: [8, 16]}}\n"
    path = tmp_path / "x.yaml"
    found = []
    for listed in ("a.npz, b.npz", "b.npz, a.npz"):
        path.write_text(whole % listed)
        found.append(load(path))
    assert [settings["data"]["n"] for settings, _ in cells(found[0])] == [4, 4, 5, 5]
    assert plan(found[0])["hash"] == plan(found[1])["hash"]  # which is first is no part of the plan
    path.write_text(whole.replace("data.path: [%s], ", ""))
    assert "E-MISSING" in problems(path)[0]


# --- size --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", ["replicate", "rho"])
def test_ten_thousand_cells_take_no_time(axis: str) -> None:
    source = with_sweep(product={"n": [8, 16], "m": [8], axis: {"linear": [1, 5000, 5000]}})
    if axis == "rho":
        source["network"] = {"scale": "rho/n"}
    start = time.process_time()
    assert plan(load(source))["cells"] == 10_000
    assert time.process_time() - start < 2  # measured: 0.1 to 0.3


def test_a_grid_of_wrong_cells_is_left_after_a_thousand() -> None:
    axes = {name: {"count": 100} for name in "abc"}
    config = {
        **BASE,
        "sweep": {"product": {**axes, "n": [4], "m": [8]}},
        "training": {"tolerance": "-1-a*b-c"},
    }
    before = time.process_time()
    with pytest.raises(InputError) as caught:
        plan(load(config))
    assert time.process_time() - before < 10  # a million cells take a minute
    [line] = caught.value.lines()
    assert "(where a = 0, b = 0, c = 0; or " in line
    assert line.endswith("; and 997 more in the first 1000 cells; the rest was not checked)")


def test_a_great_many_unknown_axes_take_no_time() -> None:
    axes = {f"data.{k}": 1 for k in range(20_000)}
    before = time.process_time()
    with pytest.raises(InputError) as caught:
        load({**BASE, "sweep": {"product": {"n": [4], "m": [8], **axes}}})
    assert time.process_time() - before < 10
    assert len(caught.value.problems) == 20_000
    assert caught.value.lines()[0].endswith("the config has no value 'data.0' to sweep; did you mean data.n?")

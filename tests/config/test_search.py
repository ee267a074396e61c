"""A search in a config: its cells are those of the grid, and what is wrong with it is one line at its place."""

import pytest

from expreg import api, checks
from expreg.api import load_config as load
from expreg.core.config import cell_id, cells
from expreg.errors import InputError

TEXT = """\
experiment: threshold
name: x
measure: [E3, E5]
sweep:
  search:
    axis: m
    criterion: [E5, movement]
    from: 2
    to: 64
  product:
    n: [4, 8]
    replicate: {count: 3}
"""


def ids(source):
    return {cell_id(settings) for settings, _ in cells(load(source))}


@pytest.fixture
def refused(tmp_path):
    """Return the lines of the errors of a text."""

    def ask(text):
        path = tmp_path / "x.yaml"
        path.write_text(text)
        with pytest.raises(InputError) as caught:
            api.plan(path)
        return [line.replace(str(path), "x.yaml") for line in caught.value.lines()]

    return ask


@pytest.mark.parametrize("points", [None, 5])
def test_a_search_has_the_cells_of_the_grid_of_its_candidates(tmp_path, points):
    path = tmp_path / "x.yaml"
    path.write_text(TEXT if points is None else TEXT.replace("to: 64", f"to: 64\n    points: {points}"))
    grid = {"n": [4, 8], "m": {"geometric": [2, 64, points or 11]}, "replicate": {"count": 3}}
    whole = {"experiment": "threshold", "name": "x", "measure": ["E3", "E5"], "sweep": {"product": grid}}
    assert ids(path) == ids(whole)
    sweep = load(path).source
    assert (sweep.search.axis, sweep.search.criterion, sweep.search.verify) == ("m", ["E5", "movement"], 0.1)
    one, other = checks.sweep(load(path)).plan, checks.sweep(load(whole)).plan
    assert one["hash"] == other["hash"]  # a search goes on where a grid was run, and the other way round
    assert one["search"] == {"axis": "m", "criterion": ["E5", "movement"], "verify": 0.1}
    assert "search" not in other


def test_a_search_asks_for_no_width_beyond_its_ends():
    search = {"axis": "m", "criterion": "E5", "from": 5, "to": 33}
    config = {"experiment": "threshold", "name": "x", "sweep": {"search": search, "product": {"n": [4]}}}
    found = [settings["network"]["m"] for settings, _ in cells(load(config))]
    assert (min(found), max(found)) == (6, 32)


def test_overrides_reach_into_a_search(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(TEXT)
    changed = load(path, ["sweep.search.to=32", "sweep.search.criterion=E3", "sweep.search.verify=0"]).source.search
    assert (changed.to, changed.criterion, changed.verify) == (32, ["E3"], 0)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (
            "axis: m",
            "axis: n",
            "[E-AXIS] x.yaml:6:11: sweep.search.axis: got 'n', expected m: success is defined along no other axis of"
            " threshold",
        ),
        ("axis: m", "axis: training.tolerance", "[E-AXIS] x.yaml:6:11: sweep.search.axis: got 'training.toler"),
        ("axis: m", "axis: 3", "[E-TYPE] x.yaml:6:11: sweep.search.axis: got 3 (integer), expected text"),
        (
            "[E5, movement]",
            "[E5, movment]",
            "[E-ENUM] x.yaml:7:16: sweep.search.criterion: got 'movment', expected one of E3, E5, movement; did you"
            " mean movement?; an event must be listed in measure",
        ),
        ("[E5, movement]", "E4", "[E-ENUM] x.yaml:7:16: sweep.search.criterion: got 'E4', expected one of E3, E5, mov"),
        ("[E5, movement]", "[E5, E5]", "[E-DUP] x.yaml:7:21: sweep.search.criterion[1]: 'E5' already at index 0"),
        ("[E5, movement]", "[]", "[E-EMPTY] x.yaml:7:16: sweep.search.criterion: list is empty; expected at least 1 c"),
        ("to: 64", "to: 64\n    verfy: 1", "[E-UNKNOWN] x.yaml:10:5: sweep.search.verfy: unknown key; did you mean ve"),
        ("    from: 2\n", "", "[E-MISSING] x.yaml:6:5: sweep.search.from: required key missing"),
        ("to: 64", "to: 2", "[E-RANGE] x.yaml:9:9: sweep.search.to: got 2, expected more than from = 2"),
        ("to: 64", "to: 64\n    points: 1", "[E-RANGE] x.yaml:10:13: sweep.search.points: got 1, expected an integ"),
        ("to: 64", "to: 64\n    verify: 2", "[E-RANGE] x.yaml:10:13: sweep.search.verify: got 2, expected a finite"),
        ("to: 64", "to: 1e13", "[E-RANGE] x.yaml:9:9: sweep.search.to: got 10000000000000, expected an integer in"),
        ("n: [4, 8]", "n: [4, 8]\n    m: [4]", "[E-DUP] x.yaml:12:8: sweep.product.m: axis m is already swept at"),
        ("n: [4, 8]", "search: {axis: m}", "[E-GRID] x.yaml:11:13: sweep.product.search: a search stands at the top"),
        ("  search:", "  serach:", "[E-UNKNOWN] x.yaml:5:3: sweep.serach: unknown key; did you mean search?; expected"),
        ("measure: [E3, E5]", "network: {m: 8}\nmeasure: [E3, E5]", "[E-AXIS] x.yaml:7:11: sweep.search.axis: m is"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_at_its_place(refused, old, new, line):
    assert old in TEXT
    found = refused(TEXT.replace(old, new, 1))
    assert found[0].startswith(f"error{line}")
    assert len(found) == (2 if new == "axis: n" else 1)  # n is swept beside it, too


def test_an_experiment_without_success_has_nothing_to_search_for(refused):
    text = "experiment: regression\nname: x\nsweep:\n  search: {axis: n, criterion: E5, from: 8, to: 64}\n"
    assert refused(text) == [
        "error[E-AXIS] x.yaml:4:11: sweep.search: experiment regression defines no success to search for; remove this"
        " key"
    ]


def test_criteria_are_those_that_cells_answer(refused):
    def known(text):
        [line] = refused(text.replace("[E5, movement]", "nothing"))
        return line.partition("one of ")[2].partition("; ")[0].split(", ")

    assert known(TEXT) == ["E3", "E5", "movement"]
    radii = ["movement_linearised", "movement_frobenius", "movement_refined"]
    assert known(TEXT.replace("[E3, E5]", "[E2]")) == ["E2", "movement", *radii]
    start = TEXT.replace("threshold", "concentration").replace("[E3, E5]", "[E1, Ecert]")
    assert known(start) == ["E1", "Ecert", "movement_linearised"]

"""Columns: those of every experiment, the declared ones, axes, curves; in one order, of one type."""

import json
from pathlib import Path

import numpy as np
import pytest

from expreg.core.store.columns import NAMES, TYPES, check_row, in_order, merged, types_of
from expreg.core.store.part import decode, encode, table_of
from expreg.core.store.store import Store
from expreg.core.store.table import read
from expreg.kinds import EXPERIMENTS
from expreg.types import BASE, Column

RECORD = json.loads((Path(__file__).parents[1] / "golden/columns.json").read_text())
OWN = (Column("b", "float64", ""), Column("a", "int64", ""), Column("c_step", "int64", ""), Column("w", "string", ""))
PLAN = {"hash": "ab" * 16, "identity": {"x": 1}, "axes": [], "cells": 9}


def row(k, **more):
    return {"cell": f"{k:016x}", "status": "converged", "attempt": 1} | more


def test_base_columns_have_types_and_meanings():
    assert len(set(NAMES)) == len(BASE)
    assert all(column.type in TYPES and column.meaning for column in BASE)


@pytest.mark.parametrize("name", sorted(RECORD))
def test_an_experiment_declares_the_columns_of_the_record_with_their_types(name):
    experiment = EXPERIMENTS[name]
    declared = {column.name: column.type for column in experiment.columns()}
    assert declared == {column: kind for column, kind in RECORD[name].items() if not column.startswith("curve_")}
    curves = {f"curve_{column.name}" for column in experiment.curves()}
    assert {column for column in RECORD[name] if column.startswith("curve_")} <= curves | {"curve_step"}
    assert not declared.keys() & set(NAMES)


def test_a_part_has_base_declared_axes_and_curves_in_this_order():
    given = {"z", "curve_step", "a", "axis", "w", "b", "cell", "curve_residual"}
    assert in_order(given, OWN) == [*NAMES, "b", "a", "w", "axis", "z", "curve_residual", "curve_step"]


def test_declared_columns_have_their_type_whatever_the_rows_have():
    table = table_of([row(0, a=None, b=1, w=None), row(1, a=None, b=None, x=2)], OWN)
    kinds = {field.name: str(field.type) for field in table.schema}
    assert (kinds["a"], kinds["b"], kinds["w"], kinds["x"]) == ("int64", "double", "string", "int64")
    assert decode(encode([row(0, a=None)], "", OWN)).schema.field("a").type == "int64"


def test_parts_with_other_columns_are_read_in_one_order():
    first, second = in_order({"a", "z", "curve_u"}, OWN), in_order({"b", "c_step", "w", "y", "curve_t"}, OWN)
    found = merged([first, second], {"y", "z"})
    assert found == [*NAMES, "b", "c_step", "w", "a", "y", "z", "curve_t", "curve_u"]
    apart = [in_order({"b", "a", "w"}, OWN), in_order({"b", "c_step", "w"}, OWN)]
    assert merged(apart, ()) == [*NAMES, "b", "c_step", "a", "w"]


def test_a_run_is_read_with_the_order_and_types_of_its_parts(tmp_path):
    with Store.open(tmp_path, PLAN, "x", columns=OWN) as store:
        store.commit([row(0, b=0.5, c_step=None, rate=1)])
        store.commit([row(1, b=0.25, a=3, w="x", rate=2, height=1.5)])
    cells, _, _ = read(tmp_path)
    assert list(cells)[len(NAMES) :] == ["b", "a", "w", "c_step", "height", "rate"]
    assert str(cells["c_step"].dtype) == "Int64"
    assert str(cells["rate"].dtype) == "int64"


@pytest.mark.parametrize(
    ("value", "column"), [(1.5, "a"), (True, "a"), ("1", "b"), (2, "w"), (np.zeros(2), "b"), (1, "unknown")]
)
def test_a_row_must_fit_the_declared_columns(value, column):
    with pytest.raises(ValueError, match=f"column '{column}'"):
        check_row(row(0, **{column: value}), types_of(OWN))


@pytest.mark.parametrize("status", [None, "running", "fine"])
def test_a_row_has_a_status(status):
    with pytest.raises(ValueError, match="expected one of converged"):
        check_row(row(0, status=status), types_of(OWN))


def test_numbers_of_numpy_and_missing_values_fit():
    types = types_of(OWN)
    check_row(
        row(0, a=np.int32(3), b=np.float32(0.5), c_step=None, w="x", curve_step=[0], curve_u=np.zeros(1)), types_of(OWN)
    )
    check_row(row(0, b=2), types)
    with pytest.raises(ValueError, match="unequal length"):
        check_row(row(0, curve_step=[0], curve_u=np.zeros(2)), types)


def test_an_axis_never_replaces_a_column(tmp_path):
    from expreg.core.engine.backend import _completed
    from expreg.types import Experiment

    def none(*_):
        return None

    experiment = Experiment(name="x", columns=lambda: OWN, signature=none, build=none, prepare=none, row=none)
    settings = {"experiment": "x", "seed": 1, "replicate": 2, "precision": "f64"}
    complete = _completed(experiment, {"c": (settings, {"b": 7.0, "rate": 3, "seed": 9})})
    found = complete({"cell": "c", "status": "converged", "b": 0.5})
    assert (found["b"], found["rate"], found["seed"]) == (0.5, 3, 1)
    wrong = complete({"cell": "c", "status": "converged", "b": "text"})
    assert (wrong["status"], wrong["b"]) == ("error", 7.0)
    assert wrong["status_detail"] == "ValueError: column 'b' is str, declared as float64"

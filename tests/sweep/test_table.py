"""Tables of a run: each cell once, exact numbers in every format, inert for spreadsheets, sealed for SQL."""

import csv
import json
import math
import os
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from expreg.core.engine import manifest
from expreg.core.page.compare import compare, conclusions, differences
from expreg.core.store.export import export, query
from expreg.core.store.part import digest, encode, part_name
from expreg.core.store.store import Store, canonical, identity_hash
from expreg.core.store.table import read, read_events, status
from expreg.errors import InputError

PLAN: dict[str, Any] = {"hash": "ab" * 16, "identity": {"training": {"tolerance": 0.05}}, "axes": [], "cells": 9}


def row(k: int, **more: Any) -> dict[str, Any]:
    return {"cell": f"{k:016x}", "status": "converged", "n": 8 * k, "residual_final": k / 7, **more}


def curve(residual: list[float], linearised: list[float] | None) -> dict[str, Any]:
    steps = [10 * k for k in range(len(residual))]
    return {"curve_step": steps, "curve_residual": residual, "curve_linearised": linearised}


def save(directory: Path, *commits: list[dict[str, Any]], plan: dict[str, Any] = PLAN) -> Path:
    with Store.open(directory, plan, "experiment: threshold\n") as store:
        for rows in commits:
            store.commit(rows)
    return directory


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Three cells in two parts, out of order; events true, false and missing; curves too."""
    first = row(3, E5=True, E5_step=None, eta=math.nan, data="=cmd()", **curve([1.0, 0.5], [1.0, 0.25]))
    second = row(1, E5=False, E5_step=4, eta=None, data="sphere", **curve([2.0, math.inf, 3.0], None))
    third = row(2, E5=None, E5_step=None, eta=0.1, data="-1+1", rho=0.5)
    return save(tmp_path / "run", [first, second], [third])


# --- read ------------------------------------------------------------------------------------------


def test_cells_are_sorted_and_typed(run: Path) -> None:
    cells, _, damaged = read(run)
    assert cells["cell"].tolist() == [row(k)["cell"] for k in (1, 2, 3)]
    assert not [name for name in cells.columns if name.startswith("curve_")]
    kinds = {name: str(cells[name].dtype) for name in ("E5", "E5_step", "n", "eta", "data", "rho")}
    assert kinds == dict(E5="boolean", E5_step="Int64", n="int64", eta="float64", data="str", rho="float64")
    assert cells["E5"].tolist() == [False, pd.NA, True]
    assert cells["E5_step"].tolist() == [4, pd.NA, pd.NA]
    assert not damaged


def test_curves_are_long_and_gaps_stay_gaps(run: Path) -> None:
    curves = read(run)[1]
    assert curves.columns.tolist() == ["cell", "step", "residual", "linearised"]
    assert curves["cell"].tolist() == [row(1)["cell"]] * 3 + [row(3)["cell"]] * 2
    assert curves["step"].tolist() == [0, 10, 20, 0, 10]
    assert curves["residual"].tolist() == [2.0, math.inf, 3.0, 1.0, 0.5]
    assert curves["linearised"].isna().tolist() == [True] * 3 + [False] * 2
    assert curves["linearised"].tolist()[3:] == [1.0, 0.25]


def test_a_reader_may_choose_cells_and_leave_out_curves(run: Path) -> None:
    cells, curves, _ = read(run, [row(3)["cell"], "absent"])
    assert cells["cell"].tolist() == [row(3)["cell"]]
    assert set(curves["cell"]) == {row(3)["cell"]}
    without, none, _ = read(run, curves=False)
    pd.testing.assert_frame_equal(without, read(run)[0])
    assert none.empty
    assert none.columns.tolist() == curves.columns.tolist()


def test_rows_outside_the_plan_are_kept_but_not_shown(run: Path, tmp_path: Path) -> None:
    """A sweep that lost values: what it had computed is there if they come back."""
    ids = [row(1)["cell"], row(3)["cell"], row(7)["cell"]]
    save(run, plan={**PLAN, "cells": 3, "ids": ids})
    cells, curves, _ = read(run)
    assert cells["cell"].tolist() == ids[:2]
    assert set(curves["cell"]) == set(ids[:2])
    assert status(run).items() >= {"planned": 3, "done": 2, "by_status": {"converged": 2}}.items()
    assert query(run, "select count(*) as k from cells") == (["k"], [(2,)])
    assert len(pd.read_csv(export(run, tmp_path / "out.csv"))) == 2
    assert compare([run, run])[1].loc["cells"].tolist() == [2, 2]
    save(run)
    assert len(read(run)[0]) == 3


def test_columns_come_in_one_order_whatever_was_written_first(tmp_path: Path) -> None:
    one, other = row(1, eta=0.1, E5=True, zeta=1), row(2, scale=1.0, tolerance=0.1, alpha_axis=2)
    apart, together = save(tmp_path / "apart", [one], [other]), save(tmp_path / "together", [one, other])
    pd.testing.assert_frame_equal(read(apart)[0], read(together)[0])


def test_many_parts_are_joined_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expreg.core.store.table._BATCH", 3)
    rows = [row(k, **({"rho": "x" if k == 9 else k} if k > 4 else {}), **curve([k], None)) for k in range(20)]
    rows += [row(k, status="oom", attempt=2) for k in range(5)]  # never outranks a finished row
    cells, curves, _ = read(save(tmp_path / "run", *([one] for one in rows[:20]), rows[20:]))
    assert cells["n"].tolist() == [8 * k for k in range(20)]
    assert set(cells["status"]) == {"converged"}
    assert cells["rho"].dropna().tolist() == [str(k) if k != 9 else "x" for k in range(5, 20)]
    assert curves["residual"].tolist() == list(range(20))


def test_empty_run_has_the_columns_of_every_run(tmp_path: Path) -> None:
    cells, curves, damaged = read(save(tmp_path / "run"))
    assert {"cell", "status", "steps", "seconds", "attempt"} <= set(cells.columns)
    assert curves.columns.tolist() == ["cell", "step", "residual", "linearised"]
    assert (len(cells), len(curves), damaged) == (0, 0, [])


def test_finished_wins_over_failed_and_later_over_earlier(tmp_path: Path) -> None:
    # Written past the store, as by several processes: the order of the parts' names must not matter.
    run = save(tmp_path / "run")
    states = [("oom", 3), ("converged", 1), ("error", 2)], [("oom", 2), ("timeout", 7), ("error", 5)]
    for k, attempts in enumerate(states):
        for state, attempt in attempts:
            data = encode([row(k, status=state, attempt=attempt)], identity_hash(PLAN))
            (run / "parts" / part_name(data)).write_bytes(data)
    assert read(run)[0][["status", "attempt"]].values.tolist() == [["converged", 1], ["timeout", 7]]
    assert status(run)["by_status"] == {"converged": 1, "timeout": 1}


def test_axis_whose_type_changed_between_commits(tmp_path: Path) -> None:
    rows = [row(1, rho=1, mode=True), row(2, rho=0.5, mode="x"), row(3, rho=None, mode=None), row(4)]
    cells = read(save(tmp_path / "run", *([one] for one in rows)))[0]
    assert cells["rho"].tolist()[:2] == [1.0, 0.5]
    assert cells["mode"].tolist()[:2] == ["true", "x"]
    assert cells[["rho", "mode"]].isna().sum().tolist() == [2, 2]


@pytest.mark.parametrize("call", [read, status, lambda d: query(d, "select 1"), lambda d: compare([d])])
def test_no_run_is_bad_input(tmp_path: Path, call: Any) -> None:
    with pytest.raises(InputError, match="E-RUN.*plan.json"):
        call(tmp_path / "absent")
    assert not list(tmp_path.iterdir())


def write_slowly(directory: str) -> None:
    with Store.open(directory, PLAN, "") as store:
        for k in range(50):
            store.commit([row(2 * k, **curve([1.0] * 50, None)), row(2 * k + 1)])


def test_reader_beside_a_writer_sees_only_whole_commits(tmp_path: Path) -> None:
    run = save(tmp_path / "run")
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2])])
    code = f"import test_table; test_table.write_slowly({str(run)!r})"
    writer = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths})
    counts = [0]
    try:
        while counts[-1] < 100:
            ended = writer.poll() is not None  # looked up before reading: what it wrote must then be there
            cells, curves, damaged = read(run)
            assert not damaged
            assert len(cells) % 2 == 0
            assert len(curves) == 25 * len(cells)
            counts.append(len(cells))
            assert counts[-1] >= counts[-2]
            assert counts[-1] == 100 or not ended
            time.sleep(0.002)
    finally:
        writer.kill()
        writer.wait()
    assert len(set(counts)) > 3  # it was indeed watched while it wrote


# --- query -----------------------------------------------------------------------------------------


def test_query_joins_both_tables_and_knows_null_from_nan(run: Path) -> None:
    sql = "select count(step) as k, sum(n) as s from cells join curves using (cell) group by cell order by cell"
    assert query(run, sql) == (["k", "s"], [(3, 24), (2, 48)])
    assert query(run, "select count(*), count(eta), count(E5), count(*) from cells")[1] == [(3, 2, 2, 3)]
    assert query(run, "select E5 from cells order by cell")[1] == [(False,), (None,), (True,)]
    tables = query(run, "select table_name from information_schema.tables order by 1")
    assert tables[1] == [("cells",), ("curves",)]


def test_query_reaches_no_file_and_cannot_unseal_itself(run: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "secret.parquet")
    local = pd.DataFrame({"a": [1]})  # a Python variable is not a table either
    assert len(local) == 1
    statements = [
        *(f"select * from {source}" for source in (f"read_csv('{secret}')", f"'{secret}'", f"glob('{tmp_path}/*')")),
        f"select * from read_parquet('{tmp_path}/secret.parquet')",
        f"copy cells to '{tmp_path}/out.csv'",
        f"attach '{tmp_path}/out.db'",
        f"export database '{tmp_path}/out'",
        f"set enable_external_access = true; select * from read_csv('{secret}')",
        f"set temp_directory = '{tmp_path}'",
        "reset lock_configuration",
        "select * from read_csv('https://localhost/x.csv')",
        "install httpfs",
        "load httpfs",
        "select * from local",
    ]
    before = sorted(tmp_path.rglob("*"))
    for statement in statements:
        with pytest.raises(InputError, match="E-SQL"):
            query(run, statement)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("sql", ["selec 1", "", "select nothing from cells", "--"])
def test_bad_sql_is_one_line(run: Path, sql: str) -> None:
    with pytest.raises(InputError, match="E-SQL") as caught:
        query(run, sql)
    assert caught.value.exit_code == 2
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("sql", "near"), [("select residual_fnal from cells", "residual_final"), ("from celss", "cells")]
)
def test_bad_sql_names_what_is_near(run: Path, sql: str, near: str) -> None:
    with pytest.raises(InputError, match=f'"{near}"'):
        query(run, sql)


# --- export ----------------------------------------------------------------------------------------


def test_csv_is_inert_and_exact(run: Path, tmp_path: Path) -> None:
    with export(run, tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [one["data"] for one in rows] == ["sphere", "'-1+1", "'=cmd()"]
    assert [float(one["residual_final"]) for one in rows] == [k / 7 for k in (1, 2, 3)]
    assert [one["E5"] for one in rows] == ["False", "", "True"]


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@x", "\t=1", "\r=1", "\r\n=1"])
def test_every_formula_prefix_is_disarmed_in_cells_and_headers(tmp_path: Path, text: str) -> None:
    run = save(tmp_path / "run", [row(1, status_detail=text, **{text: 1})])
    with export(run, tmp_path / "out.CSV").open(newline="") as file:  # and no line ends inside a cell
        (one,) = csv.DictReader(file)
    assert one["status_detail"] == f"'{text}"
    assert f"'{text}" in one
    assert read(run)[0]["status_detail"].tolist() == [text]


def test_parquet_holds_cells_and_curves(run: Path, tmp_path: Path) -> None:
    table = pq.read_table(export(run, tmp_path / "out.parquet"))
    assert table["cell"].to_pylist() == [row(k)["cell"] for k in (1, 2, 3)]
    assert table["curve_residual"].to_pylist() == [[2.0, math.inf, 3.0], None, [1.0, 0.5]]
    assert table["data"].to_pylist() == ["sphere", "-1+1", "=cmd()"]


def test_npz_loads_without_pickle(run: Path, tmp_path: Path) -> None:
    with np.load(export(run, tmp_path / "out.npz"), allow_pickle=False) as file:
        arrays = dict(file)
    assert not [name for name, array in arrays.items() if array.dtype == object]
    assert arrays["cell"].tolist() == [row(k)["cell"] for k in (1, 2, 3)]
    assert arrays["n"].dtype == np.int64
    np.testing.assert_array_equal(arrays["E5"], [0.0, np.nan, 1.0])
    np.testing.assert_array_equal(arrays["eta"], [np.nan, 0.1, np.nan])
    np.testing.assert_array_equal(arrays["seconds"], [np.nan] * 3)
    assert arrays["curve_row"].tolist() == [0, 0, 0, 2, 2]
    np.testing.assert_array_equal(arrays["curve_linearised"], [np.nan] * 3 + [1.0, 0.25])


def test_export_refuses_other_suffixes_and_the_store_itself(run: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(run / "parts")
    (tmp_path / "folder.csv").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for file, text in (
        (tmp_path / "out.xlsx", r"E-SUFFIX.*'\.xlsx', expected one of \.csv, \.parquet, \.npz"),
        (run / "parts" / "x.parquet", "E-PATH.*parts/"),
        (tmp_path / "link" / "x.csv", "E-PATH.*parts/"),
        (tmp_path / "absent" / "x.csv", "E-PATH"),
        (tmp_path / "folder.csv", "E-PATH"),
    ):
        with pytest.raises(InputError, match=text):
            export(run, file)
    assert sorted(tmp_path.rglob("*")) == before


# --- status, events, compare -----------------------------------------------------------------------


def test_status_counts_and_sees_the_owner(tmp_path: Path) -> None:
    with Store.open(tmp_path, PLAN, "") as store:
        name = store.commit([row(1), row(2, status="diverged"), row(3, status="oom")])
        while_open = status(tmp_path)
        store.event("note", text="last")
    (tmp_path / "parts" / "junk.parquet").write_bytes(b"junk")
    after = status(tmp_path)
    assert (while_open["running"], after["running"]) == (True, False)
    assert while_open["last_event"]["part"] == name
    assert (after["planned"], after["done"], after["failed"]) == (9, 2, 1)
    assert after["by_status"] == {"converged": 1, "diverged": 1, "oom": 1}
    assert after["damaged"] == ["junk.parquet: its content does not match its name"]
    assert after["last_event"].items() >= {"kind": "note", "text": "last"}.items()
    json.dumps(after)


def test_events_with_a_changed_byte_are_left_out(tmp_path: Path) -> None:
    with Store.open(tmp_path, PLAN, "") as store:
        store.event("one", value=1)
        store.event("two", value=2)
    path = tmp_path / "events.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"value": 1', b'"value": 7') + b"\n{}\n\xff\xfe\n")
    assert [event["kind"] for event in read_events(tmp_path)] == ["opened", "two"]


def test_compare_says_which_exponents_differ_by_more_than_their_intervals(tmp_path: Path) -> None:
    def run(name: str, **exponents: list[float | None]) -> Path:
        folder = save(tmp_path / name, [row(1)])
        fits = {key: dict(zip(("value", "low", "high"), ends, strict=True)) for key, ends in exponents.items()}
        criteria = [{"criterion": key, "exponent": {"usable": True, "raw": raw}} for key, raw in fits.items()]
        (folder / "summary.json").write_text(json.dumps({"groups": [{"label": name, "criteria": criteria}]}))
        return folder

    a = run("a", E5=[0.5, 0.2, 0.9], movement=[2.0, 1.9, 2.1], E3=[0.5, 0.4, None])
    b = run("b", E5=[0.2, -0.2, 0.5], movement=[1.0, 0.9, 1.1], E3=[0.5, 0.4, 0.6], E4=[0.5, 0.4, 0.6])
    found = differences([a, b], ["a", "b"])
    assert [(one["exponent"], one["differ"]) for one in found] == [("E5", False), ("movement", True)]
    assert [found[0][key] for key in ("value", "low", "high")] == pytest.approx(
        [-0.3, -0.3 - math.sqrt(0.32), -0.3 + math.sqrt(0.18)]
    )
    assert conclusions(found) == [
        "Exponents of n, b minus a: movement -1 [-1.14, -0.859]: differ;"
        " E5 -0.300 [-0.866, 0.124]: not shown to differ."
    ]
    assert conclusions(differences([a, save(tmp_path / "c")], ["a", "c"])) == []


def test_compare_shows_what_differs_side_by_side(tmp_path: Path) -> None:
    other = {**PLAN, "identity": {"training": {"tolerance": 0.1}}}
    a = save(tmp_path / "a", [row(1), row(2, status="oom")])
    b = save(tmp_path / "b", [row(1)], plan=other)
    for place, replicates in ((a, 44), (b, 40)):
        sweep = {"product": {"n": [8, 16], "replicate": {"count": replicates}}}
        (place / "config.yaml").write_text(json.dumps({"sweep": sweep}))
    ends = {"interpolated_low": 50.0, "interpolated_high": 81.5}
    beyond = {"n": 16, "interpolated": None, "beyond": "above", "widest": 512}
    thresholds = [{"n": 8, "interpolated": 64.0, **ends}, beyond]
    usable = {"usable": True, "raw": {"value": 2.0, "low": 1.5, "high": None}}
    criteria = [
        {"criterion": "E5", "thresholds": thresholds, "exponent": usable},
        {"criterion": "E3", "thresholds": [], "exponent": {**usable, "usable": False}},
    ]
    summary = {"settings": {"delta": 0.1}, "groups": [{"label": "sphere", "criteria": criteria}]}
    (b / "summary.json").write_text(json.dumps(summary))
    settings, findings = compare([a, b])
    assert list(settings.loc["training.tolerance"]) == [0.05, 0.1]
    assert list(settings.loc["sweep.product.replicate.count"]) == [44, 40]
    assert len(settings) == 2
    assert list(findings.loc["status oom"]) == [1, None]
    assert list(findings.loc["sphere: E5, m* at n = 8 (90 %)"]) == [None, "64 [50, 82]"]
    assert findings.loc["sphere: E5, m* at n = 16 (90 %)", "b"] == "more than 512"
    assert findings.loc["sphere: E5, exponent of n", "b"] == "2 [1.5, –]"
    assert "sphere: E3, exponent of n" not in findings.index
    same, _ = compare([a, a])
    assert same.empty


THRESHOLDS = {"groups": [{"label": "x", "criteria": [{"criterion": "E5", "thresholds": 7}]}]}


@pytest.mark.parametrize(
    "content", ["7", "[7]", '{"groups": 7}', '{"groups": [7]}', "[" * 200_000, "{", json.dumps(THRESHOLDS)]
)
def test_a_summary_of_another_form_is_bad_input(run: Path, content: str) -> None:
    (run / "summary.json").write_text(content)
    with pytest.raises(InputError, match=r"E-JSON.*summary\.json"):
        compare([run, run])


def test_side_files_of_another_form_cost_nothing(run: Path) -> None:
    for content in ("7", '{"earlier": 7}', "[" * 200_000, '"earlier"', ""):
        (run / "manifest.json").write_text(content)
        assert manifest.read(run) == {}
    body = b'{"kind":7' + b"[" * 9
    (run / "events.jsonl").write_bytes(b'%s,"crc":"%08x"}\n' % (body, zlib.crc32(body)))
    assert status(run)["last_event"] is None
    for plan in ({"identity": 7}, {"identity": {}, "ids": 7}, {}):
        (run / "plan.json").write_text(json.dumps({**plan, "checksum": digest(canonical(plan))}))
        assert status(run).items() >= {"planned": None, "done": 3}.items()

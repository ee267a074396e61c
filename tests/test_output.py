"""What reaches the terminal: exact numbers of every type, escaped names, streams that are full, closed or not UTF-8."""

import json
import math
import os
import shlex
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import expreg.__main__
from expreg import output
from expreg.core.engine.estimate import estimate
from expreg.core.store.store import Store
from expreg.core.store.table import read

PLAN: dict[str, Any] = {"hash": "ab" * 16, "identity": {"training": {"tolerance": 0.05}}, "axes": [], "cells": 9}
SMALL = [8.03e-13, 1.24e-9, 9.79e-15, 2.63e-17, 5e-324, 1.7976931348623157e308, 0.1, 1 / 3, -0.0, 65536.0]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("output") / "run"
    rows = [{"cell": f"{k:016x}", "status": "converged", "residual_final": v} for k, v in enumerate(SMALL)]
    with Store.open(directory, PLAN, "experiment: threshold\n") as store:
        store.commit(rows)
    return directory


def real(*words: str, **streams: Any) -> tuple[int, bytes, str]:
    """Run the command in a process of its own, whose standard output is what the test is about."""
    environment = os.environ | streams.pop("env", {})
    streams = {"stdout": subprocess.PIPE, **streams}
    done = subprocess.run([sys.executable, "-m", "expreg", *words], stderr=subprocess.PIPE, env=environment, **streams)
    return done.returncode, done.stdout or b"", done.stderr.decode()


def shell(line: str, **words: object) -> tuple[int, str, str]:
    """Run a line of the shell, which alone can close a stream or ignore a signal for what it starts."""
    quoted = {name: shlex.quote(str(word)) for name, word in {"python": sys.executable, **words}.items()}
    done = subprocess.run(["sh", "-c", line.format(**quoted)], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


# --- numbers ---------------------------------------------------------------------------------------


def test_json_has_the_stored_numbers(run: Path, command: Any) -> None:
    code, out, _ = command("query", str(run), "SELECT cell, residual_final FROM cells ORDER BY cell", "--json")
    assert code == 0
    assert [row["residual_final"] for row in json.loads(out)] == SMALL
    assert json.loads(out) == read(run)[0][["cell", "residual_final"]].to_dict("records")


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_survives(value: float) -> None:
    assert json.loads(output.document({"x": value})) == {"x": value}
    assert math.copysign(1, json.loads(output.document([value]))[0]) == math.copysign(1, value)


HUGE = 170141183460469231731687303715884105727
VALUES: dict[str, Any] = {
    "3e-12": 3e-12,
    "1.50::DECIMAL(38,20)": 1.5,
    "12345678901234567890123::DECIMAL(38,0)": 12345678901234567890123,
    f"{HUGE}::HUGEINT": HUGE,
    "9007199254740993": 9007199254740993,
    "SELECT sum(residual_final::HUGEINT) FROM cells WHERE residual_final BETWEEN 1 AND 1e9": 65536,
    "0.1::FLOAT": float(np.float32(0.1)),
    "'nan'::DOUBLE": None,
    "'-inf'::DOUBLE": None,
    "NULL": None,
    "true": True,
    "'x\\xAA'::BLOB": "x\\xAA",
    "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::UUID": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
    "DATE '2020-01-02'": "2020-01-02",
    "'infinity'::DATE": "infinity",
    "'290000-01-01'::DATE": "290000-01-01",
    "TIMESTAMP '2020-01-02 03:04:05.123456'": "2020-01-02 03:04:05.123456",
    "'2020-01-02 03:04:05.123456789'::TIMESTAMP_NS": "2020-01-02 03:04:05.123456789",
    "TIME '12:00:01'": "12:00:01",
    "INTERVAL 1 MONTH": "1 month",
    "INTERVAL 90 MINUTE": "01:30:00",
    "'101'::BIT": "101",
    "'b'::ENUM('a', 'b')": "b",
    "'{\"a\": 1}'::JSON": '{"a": 1}',
    "[1.5, NULL, 'nan'::DOUBLE]": [1.5, None, None],
    "[[DATE '2020-01-02'], []]": [["2020-01-02"], []],
    "{'a b': 1, 'when': [{'d': DATE '2020-01-02', 'x': 8.03e-13}]}": {
        "a b": 1,
        "when": [{"d": "2020-01-02", "x": 8.03e-13}],
    },
    "[1, 2]::INT[2]": [1, 2],
    "[DATE '2020-01-02']::DATE[1]": ["2020-01-02"],
    "MAP {'k': 1}": {"k": 1},
    "MAP {1.5: DATE '2020-01-02'}": {"1.5": "2020-01-02"},
    "union_value(a := 1)": "1",
    "'\u202eé'": "\u202eé",
}


def test_every_type_of_duckdb_is_json_and_text(run: Path, command: Any) -> None:
    sql = "SELECT " + ", ".join(f"({value}) AS v{k}" for k, value in enumerate(VALUES))
    code, out, err = command("query", str(run), sql, "--json")
    assert (code, err) == (0, "10 of 9 planned cells, 0 damaged parts\n")
    [row] = json.loads(out, parse_constant=pytest.fail)
    for (value, expected), found in zip(VALUES.items(), row.values(), strict=True):
        assert (found, type(found)) == (expected, type(expected)), value
    assert len(command("query", str(run), sql)[1].splitlines()) == 2


def test_equal_names_get_numbers(run: Path, command: Any) -> None:
    _, out, _ = command("query", str(run), "SELECT 1 n, 2 n, 3 n_1, 4 n, DATE '2020-01-02' AS n", "--json")
    assert out == '[{"n":1,"n_2":2,"n_1":3,"n_3":4,"n_4":"2020-01-02"}]\n'


def test_the_order_of_rows_stays_where_values_become_text(run: Path, command: Any) -> None:
    sql = "SELECT range AS k, DATE '2020-01-01' AS d FROM range(5000) ORDER BY hash(range)"
    keys = [row["k"] for row in json.loads(command("query", str(run), sql, "--json")[1])]
    plain = json.loads(command("query", str(run), sql.replace(", DATE '2020-01-01' AS d", ""), "--json")[1])
    assert keys == [row["k"] for row in plain]
    assert keys != sorted(keys)


def test_text_has_six_digits_and_all_of_whole_numbers(run: Path, command: Any) -> None:
    sql = "SELECT 1.2345678e-5 a, 8.03e-13 b, 1234567.0::DOUBLE c, 123456789012 d, 1/3 e, NULL f, 'nan'::DOUBLE g"
    shown = "1.23457e-05 8.03e-13 1234567 123456789012 0.333333 NULL nan"
    assert command("query", str(run), sql)[1].splitlines()[1].split() == shown.split()


def test_what_fails_while_it_runs_is_one_line(run: Path, command: Any) -> None:
    for sql in ("SELECT 'x'::INT", "SELECT error('no')", "DROP TABLE cells; DROP TABLE cells", "SELECT 'a\udcff'"):
        code, out, err = command("query", str(run), sql, "--json")
        assert (code, out, err.count("\n")) == (2, "", 1), (sql, out, err)


# --- streams ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("encoding", "shown"), [("latin-1", b"\xe9 - <= \\u202e"), ("ascii", b"\\xe9 - <= \\u202e")])
def test_signs_that_an_encoding_lacks_are_replaced(encoding: str, shown: bytes) -> None:
    code = "from expreg import output; output.guard(); output.say('é – ≤ \\u202e')"
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    assert done.stdout == shown + b"\n"


def test_a_full_or_closed_output_is_no_bug() -> None:
    full = "error[E-DISK] standard output: No space left on device\n"
    with open("/dev/full", "wb") as stream:
        assert real("--version", stdout=stream) == (4, b"", full)
        assert real("--help", stdout=stream) == (4, b"", full)
    receive, send = os.pipe()
    os.close(receive)
    assert real("--version", stdout=send) == (0, b"", "")
    os.close(send)
    assert shell("exec {python} -m expreg --version >&-") == (0, "", "")


def test_files_do_not_get_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    code = f"from expreg import output; output.guard(); print(open({str(tmp_path / 'x')!r}, 'w').fileno())"
    assert int(shell("exec {python} -c {code} <&-", code=code)[1]) > 2


# --- names -----------------------------------------------------------------------------------------


def test_no_name_reaches_the_terminal_as_it_is(
    tmp_path: Path, run: Path, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: list[dict[str, Any]] = []

    def first(*of: Any) -> dict[str, Any]:  # each estimate takes a while
        known[:] = known or [estimate(*of)]
        return known[0]

    monkeypatch.setattr("expreg.core.engine.estimate.estimate", first)
    evil = "\x1b[31mred\u202egnp\n\r\x9b"
    (tmp_path / evil).symlink_to(run)
    config = {
        "experiment": "threshold",
        "name": "x",
        "data": {"kind": "file", "path": "x"},
        "sweep": {"product": {"data.path": [f"{evil}.npz"], "m": [8]}},
    }
    np.savez(tmp_path / f"{evil}.npz", X=np.eye(4), y=np.array([1.0, -1.0, 1.0, -1.0]))
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    named = tmp_path / evil
    for words in (
        ("status", str(named)),
        ("query", str(named), f"SELECT 1 AS \"{evil}\", '{evil}' AS b"),
        ("query", f"{named}x", "SELECT 1"),
        ("export", str(named), str(tmp_path / f"{evil}.csv")),
        ("plan", str(tmp_path / "config.yaml"), "--cells"),
        ("plan", f"{named}.yaml"),
        ("plan", str(tmp_path / "config.yaml"), f"{evil}=1", f"name={evil}"),
    ):
        _, out, err = command(*words)
        assert "red" in out + err, words
        assert all(c.isprintable() or c == "\n" for c in out + err), words
        assert "red\\u202egnp\\n\\r\\x9b" in out + err, words


# --- before and around the command -----------------------------------------------------------------

INTERRUPTED_IMPORT = """
import os, signal, sys, time
class Finder:
    def find_spec(name, *_):
        if name == "expreg.cli":
            os.kill(os.getpid(), signal.{})
            time.sleep(30)
sys.meta_path.insert(0, Finder)
from expreg.__main__ import main
main()
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"])
def test_a_signal_while_modules_are_imported_is_an_exit(name: str) -> None:
    code = INTERRUPTED_IMPORT.format(name)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (75, "", f"{name}: interrupted\n")


def test_a_signal_that_the_shell_ignores_stays_ignored() -> None:
    code = INTERRUPTED_IMPORT.format("SIGHUP").replace("time.sleep(30)", "sys.exit(9)")
    assert shell("trap '' HUP; exec {python} -c {code}", code=code) == (9, "", "")


def test_windows_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expreg.__main__, "os", SimpleNamespace(name="nt"))
    with pytest.raises(SystemExit, match=r"needs Linux or macOS: .*flock"):
        expreg.__main__.main()


def test_only_warnings_that_are_meant_for_people_are_printed(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def noisy(*_: Any, **__: Any) -> dict[str, Any]:
        warnings.simplefilter("always")
        np.log(np.zeros(1))
        warnings.warn("mind the gap", stacklevel=1)
        return {}

    monkeypatch.setattr("expreg.api.doctor", noisy)
    assert command("doctor", "--json") == (0, "{}\n", "warning: mind the gap\n")

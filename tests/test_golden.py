"""Ids, rows and curves stay what they were when the golden record was made (`tests/golden/record.py`)."""

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("golden_record", Path(__file__).parent / "golden" / "record.py")
record = importlib.util.module_from_spec(spec)
spec.loader.exec_module(record)

CLOSE = {"f32": 1e-3, "f64": 1e-6}
"""Relative; on another processor or with other versions, where sums are rounded otherwise."""
ROUNDING = {"path_size_newton", "path_cosine_newton"}
"""Columns that rounding decides in float32: the last Newton steps of in_context, 5 % apart on two processors."""


def golden(name):
    return json.loads((record.HERE / f"{name}.json").read_text())


@pytest.mark.parametrize("name", sorted(golden("ids")))
def test_the_cells_of_a_shipped_config_keep_their_ids(name):
    assert record.ids(record.CONFIGS / name) == golden("ids")[name]


def test_every_shipped_config_is_in_the_record():
    assert sorted(golden("ids")) == sorted(path.name for path in record.CONFIGS.glob("*.yaml"))


@pytest.mark.parametrize("precision", ["f32", "f64"])
@pytest.mark.parametrize("name", sorted(record.RUNS))
def test_rows_and_curves_are_those_of_the_record(name, precision):
    known = golden(name)
    # in a process of its own: flags of XLA count only until JAX starts, and bits follow them
    command = [sys.executable, record.HERE / "record.py", "show", name, precision]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    same = known["made_on"] == found["made_on"]
    for table in ("cells", "curves"):
        wanted = known[precision][table]
        if precision == "f32" and not same:
            wanted = {column: values for column, values in wanted.items() if column not in ROUNDING}
        assert wanted.keys() <= found[table].keys()
        different = {
            column: next(
                pair for pair in zip(values, found[table][column], strict=True) if not equal(*pair, same, precision)
            )
            for column, values in wanted.items()
            if not all(equal(*pair, same, precision) for pair in zip(values, found[table][column], strict=True))
        }
        assert not different


def equal(wanted, value, same, precision):
    """Compare bit for bit on the machine of the record; elsewhere numbers may differ by rounding."""
    if wanted == value or same or not (is_float(wanted) and is_float(value)):
        return wanted == value
    return math.isclose(float.fromhex(wanted), float.fromhex(value), rel_tol=CLOSE[precision], abs_tol=CLOSE[precision])


def is_float(text):
    return isinstance(text, str) and (text.lstrip("-").startswith("0x") or text in ("nan", "inf", "-inf"))

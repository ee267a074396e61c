"""Copies of a run in trackers, read back with the tracker's own reader, offline."""

import json
import re
import struct
import sys
import time
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

import expreg
from expreg import sinks
from expreg.errors import InputError

CONFIG = {
    "experiment": "convergence",
    "name": "small",
    "data": {"kind": "orthonormal", "n": 4},
    "training": {"max_steps": 60, "tolerance": 0.1},
    "measure": ["E5"],
    "sweep": {"product": {"m": [8, 32], "replicate": {"count": 3}}},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return expreg.run(CONFIG, out=tmp_path_factory.mktemp("runs") / "small")


def medians(run, m):
    """Return the median residual by step of the runs at a width that reach it."""
    cells = run.cells.loc[run.cells["m"] == m, "cell"]
    curves = run.curves[run.curves["cell"].isin(cells)]
    return {int(step): float(np.median(own["residual"])) for step, own in curves.groupby("step")}


def test_tensorboard_reads_the_median_curves(run, tmp_path, command):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    code, out, err = command("push", str(run.directory), f"tensorboard:{tmp_path}/boards")
    assert (code, err) == (0, "")
    assert f"tensorboard --logdir {tmp_path}/boards" in out
    folders = sorted((tmp_path / "boards" / "small").iterdir())
    assert [folder.name for folder in folders] == ["m=32", "m=8"]
    for folder, m in zip(folders, (32, 8), strict=True):
        events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
        events.Reload()
        found = {e.step: float(np.asarray(e.tensor_proto.float_val)[0]) for e in events.Tensors("residual")}
        assert found == pytest.approx(medians(run, m), rel=1e-6)


def test_what_is_pushed_again_is_a_copy_of_its_own(run, tmp_path):
    for name in ("small", "small.1"):
        assert sinks.push(run.directory, f"tensorboard:{tmp_path}").startswith(f"{tmp_path / name};")
    for folder in ("small/m=8", "small.1/m=8"):
        assert len(list((tmp_path / folder).iterdir())) == 1


def test_settings_that_were_swept_are_no_settings_of_the_copy(run):
    copy = sinks.copied(run)
    assert copy.settings["training.max_steps"] == 60
    assert not [name for name in copy.settings if name.rpartition(".")[2] == "m"]


def records(log):
    """Yield the records of a W&B file: a LevelDB log behind 7 bytes, in blocks of 32 KiB."""
    from wandb.proto import wandb_internal_pb2

    place, whole = 7, b""
    while place + 7 <= len(log):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
        size, kind = struct.unpack("<HB", log[place + 4 : place + 7])
        whole += log[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # the whole of a record, or its last piece
            yield wandb_internal_pb2.Record.FromString(whole)
            whole = b""


def test_wandb_keeps_the_run_offline(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    sinks.push(run.directory, "wandb:widths")
    [record] = tmp_path.glob("wandb/offline-run-*/*.wandb")
    found, config = {}, {}
    for _ in range(100):  # wandb has a process of its own, which writes the end
        if (messages := list(records(record.read_bytes()))) and messages[-1].HasField("exit"):
            break
        time.sleep(0.2)
    for message in messages:
        config |= {item.key: json.loads(item.value_json) for item in message.run.config.update}
        items = {item.key or "/".join(item.nested_key): item.value_json for item in message.history.item}
        if "residual/m=32" in items:
            found[int(json.loads(items["step"]))] = float(json.loads(items["residual/m=32"]))
    assert found == pytest.approx(medians(run, 32))
    assert config["training.max_steps"] == 60


def test_trackio_keeps_the_run_offline(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "trackio"]:
        monkeypatch.delitem(sys.modules, name)
    assert sinks.push(run.directory, "trackio:widths") == "trackio show --project widths"
    from trackio.sqlite_storage import SQLiteStorage

    rows = SQLiteStorage.get_logs("widths", "small")
    found = {row["step"]: row["residual/m=8"] for row in rows if "residual/m=8" in row}
    assert SQLiteStorage.get_run_config("widths", "small")["training.max_steps"] == 60
    assert "Trackio" not in capsys.readouterr().out
    assert found == pytest.approx(medians(run, 8))


class Recorder:
    """Stands for MLflow: the functions that we call, with its arguments, keeping what they are given."""

    def __init__(self):
        self.metrics, self.params, self.files = {}, {}, []
        self.info = SimpleNamespace(run_id="1")

    def set_experiment(self, experiment_name):
        pass

    @contextmanager
    def start_run(self, run_name):
        yield self

    def log_params(self, params):
        self.params |= params

    def log_metrics(self, metrics):
        self.metrics |= metrics

    def log_metric(self, key, value, step):
        self.metrics.setdefault(key, {})[step] = value

    def log_artifact(self, local_path):
        self.files.append(local_path.rpartition("/")[2])


def test_mlflow_gets_names_that_it_takes(run, monkeypatch):
    recorder = Recorder()
    monkeypatch.setitem(sys.modules, "mlflow", recorder)
    assert sinks.push(run.directory, "mlflow") == "1"
    assert recorder.metrics["residual/m_8"] == pytest.approx(medians(run, 8))
    assert recorder.metrics["cells/converged"] == (run.cells["status"] == "converged").sum() > 0
    assert {"measure_0_", "training.max_steps"} <= recorder.params.keys()
    assert all(re.fullmatch(r"[\w\-./ ]+", name) for name in (*recorder.metrics, *recorder.params))
    assert recorder.files == ["report.html", "summary.json", "config.yaml"]


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("tensorbord:x", "got 'tensorbord:x', expected tensorboard:DIR, wandb, trackio or mlflow"),
        ("tensorboard", "expected tensorboard:DIR"),
        ("mlflow", r"needs mlflow, which is not installed: pip install 'expreg\[mlflow\]'"),
    ],
)
def test_a_tracker_that_is_not_there_is_one_line(run, monkeypatch, to, message):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(InputError, match=message):
        sinks.push(run.directory, to)

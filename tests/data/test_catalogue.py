"""One way in for every kind of data and labels; the whole catalogue is walked."""

import json
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from expreg import data
from expreg.api import json_schema, load_config
from expreg.core.config import cells
from expreg.errors import InputError

POINTS, LABELS = jax.random.split(jax.random.key(11))
POINT_CASES = {
    "sphere": {"n": 6, "d": 6},
    "orthonormal": {"n": 6, "d": 6},
    "equiangular": {"n": 6, "coherence": 0.3},
    "near_duplicate": {"n": 6, "d": 6, "angle": 0.1},
    "digits": {"n": 6, "classes": [1, 7], "centre": True},
    "file": {"normalise": True},
}
LABEL_CASES = {"sign": {}, "teacher": {"m": 4, "scale": 1.5}, "given": {}}


@pytest.fixture
def options(request, tmp_path):
    """Return the `data` settings of one kind."""
    chosen = {"kind": request.param, **POINT_CASES[request.param]}
    if request.param == "file":
        rng = np.random.default_rng(0)
        chosen["path"] = str(tmp_path / "mine.npz")
        np.savez(chosen["path"], X=rng.normal(size=(6, 6)), y=rng.uniform(-1, 1, size=6))
    return chosen


every_kind = pytest.mark.parametrize("options", data.DATA, indirect=True)


def test_every_entry_of_the_catalogue_has_a_case():
    assert set(POINT_CASES) == set(data.DATA)
    assert set(LABEL_CASES) == set(data.LABELS)


@every_kind
@pytest.mark.parametrize("labels", data.LABELS)
def test_every_pair_of_points_and_labels_makes_a_valid_data_set(options, labels):
    options["labels"] = {"kind": labels, **LABEL_CASES[labels]}
    if labels == "given" and options["kind"] not in ("digits", "file"):
        with pytest.raises(InputError, match="bring no labels"):
            data.make(options, POINTS, LABELS)
        return
    X, y = data.make(options, POINTS, LABELS)
    assert type(X) is type(y) is np.ndarray
    assert X.dtype == y.dtype == np.float64
    assert len(X) == 6
    assert np.max(np.abs(y)) <= 1
    assert data.validate(X, y, activation="cosh") == []


@every_kind
def test_labels_have_a_default(options):
    _, y = data.make(options, POINTS, LABELS)
    options["labels"] = {"kind": "given" if options["kind"] in ("digits", "file") else "sign"}
    np.testing.assert_array_equal(y, data.make(options, POINTS, LABELS)[1])


@every_kind
def test_points_depend_on_their_key_only_and_labels_on_theirs(options):
    options["labels"] = {"kind": "sign"}
    X, y = data.make(options, POINTS, LABELS)
    others = [data.make(options, POINTS, jax.random.key(seed)) for seed in range(8)]
    assert all(np.array_equal(X, other) for other, _ in others)
    assert any(not np.array_equal(y, other) for _, other in others)
    if options["kind"] != "file":
        assert not np.allclose(X, data.make(options, LABELS, LABELS)[0])


@every_kind
def test_the_data_is_the_same_whatever_the_precision_of_the_run(options):
    options["labels"] = {"kind": "teacher"}
    wide = data.make(options, POINTS, LABELS)
    with jax.enable_x64(False):
        assert jnp.ones(1).dtype == jnp.float32
        narrow = data.make(options, POINTS, LABELS)
    for ours, theirs in zip(wide, narrow, strict=True):
        np.testing.assert_array_equal(ours, theirs)


SWEPT = {"sphere": None, "equiangular": "coherence", "near_duplicate": "angle"}


@pytest.mark.parametrize("kind", SWEPT)
def test_other_keys_and_numbers_compile_nothing(kind):
    options, keys = {"kind": kind, **POINT_CASES[kind]}, list(jax.random.split(POINTS, 4))
    events, drawn = [], set()
    data.make(options, POINTS, LABELS)

    def listen(event, *_, **__):
        events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for step, key in enumerate(keys):
            changed = {SWEPT[kind]: 0.01 * (step + 1)} if SWEPT[kind] else {}
            drawn.add(data.make({**options, **changed}, key, key)[0].tobytes())
        assert len(drawn) == 4
        assert not any("compile" in event for event in events)
        data.make({**options, "n": 10, "d": 10}, POINTS, LABELS)
        assert any("compile" in event for event in events)  # the listener does hear a compilation
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"kind": "orthonormal", "n": 4, "d": 3}, "error[E-RANGE] data.d: got 3, orthonormal data need d >= n = 4"),
        ({"kind": "equiangular", "n": 5, "coherence": 1.0}, "error[E-RANGE] data.coherence: got 1.0"),
        ({"kind": "equiangular", "n": 5, "coherence": -0.25}, "error[E-RANGE] data.coherence: got -0.25, expected"),
        ({"kind": "near_duplicate", "n": 5, "d": 3, "angle": 0.1}, "error[E-RANGE] data.n: got 5, near_duplicate"),
        ({"kind": "near_duplicate", "n": 4, "d": 1, "angle": 0.1}, "error[E-RANGE] data.d: got 1, an angle"),
        ({"kind": "near_duplicate", "n": 4, "d": 3, "angle": -0.1}, "error[E-RANGE] data.angle: got -0.1"),
        ({"kind": "digits", "n": 4, "classes": [3, 3]}, "error[E-DUP] data.classes[1]: 3 already"),
        ({"kind": "sphere", "n": 0, "d": 3}, "error[E-RANGE] data.n: got 0, expected an integer in 1..65536"),
        ({"kind": "sphre", "n": 2, "d": 3}, "error[E-ENUM] data.kind: got 'sphre'"),
    ],
)
def test_the_rules_of_a_config_are_those_of_make(options, line):
    with pytest.raises(InputError) as caught:
        data.make(options, POINTS, LABELS)
    assert str(caught.value).startswith(line)


def test_a_kind_of_data_is_one_record():
    class Line(data.DATA["sphere"].schema):
        kind: Literal["line"] = "line"

    data.DATA["line"] = data.DataKind("line", Line, lambda options, key: (np.eye(options["n"], options["d"]), None))
    try:
        assert list(data.kinds.check_record(data.DATA["line"])) == []
        config = {"experiment": "threshold", "name": "x", "data": {"kind": "line", "n": 3}, "network": {"m": 4}}
        [(settings, _)] = cells(load_config(config))
        X, _ = data.make(settings["data"], POINTS, LABELS)
        np.testing.assert_array_equal(X, np.eye(3))
        assert "line" in json.dumps(json_schema())
    finally:
        del data.DATA["line"]

"""`expreg certify`: what it prints for configs and for the user's own arrays, and what it refuses."""

import json
from collections import Counter
from functools import partial

import numpy as np
import pytest
from starts import start

import expreg
from expreg import api, checks
from expreg.kinds import EXPERIMENTS

CONFIG = {
    "experiment": "concentration",
    "name": "test",
    "data": {"kind": "orthonormal", "n": 4},
    "sweep": {"product": {"m": [16, 4096], "replicate": {"count": 3}}},
}


@pytest.fixture
def call(monkeypatch, command, tmp_path):
    """Certify in a directory with a config and a network; return exit code, output, errors."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test.yaml").write_text(json.dumps(CONFIG))
    X, y, W, a = start(0, m=4096)
    np.savez(tmp_path / "net.npz", X=X, y=y, W=W, a=a)
    return partial(command, "certify")


def test_every_cell_of_a_config_has_its_certificate(call):
    code, out, _ = call("test.yaml", "--json")
    found = json.loads(out)
    assert code == 0
    assert {(one["axes"]["m"], one["holds"]) for one in found} == {(16, False), (4096, True)}
    assert [one["steps"] is None for one in found] == [not one["holds"] for one in found]
    run_inputs = EXPERIMENTS["concentration"].inputs
    settings = next(s for c, (s, _) in checks.sweep(api.load_config(CONFIG)).cells.items() if c == found[-1]["cell"])
    certificate = expreg.certify(**run_inputs(settings))
    assert found[-1]["eta"] == pytest.approx(certificate.eta)
    assert found[-1]["steps"] == certificate.steps(0.05)


def test_the_table_counts_certified_replicates(call):
    code, out, err = call("test.yaml")
    assert code == 0
    counts = [line.split()[:4] for line in out.splitlines()[1:3]]
    assert counts == [["m=16", "0", "of", "3"], ["m=4096", "3", "of", "3"]]
    assert "6/6 cells done (3 not certified, 3 certified)" in err
    assert max(map(len, out.splitlines())) <= 100
    everything = json.loads(call("test.yaml", "--json")[1])
    for line, m in zip(out.splitlines()[1:3], (16, 4096), strict=True):
        shown, condition, step, decrease = line.split()[4:8]
        cells = [one for one in everything if one["axes"]["m"] == m]
        closest = sorted(min((value, name) for name, value in one["margins"].items()) for one in cells)
        assert float(shown) == pytest.approx(closest[1][0], rel=0.01)
        assert condition == Counter(name for _, name in closest).most_common(1)[0][0]
        wanted = sorted(one["decrease"] for one in cells)[1]
        assert (step == decrease == "–") if m == 16 else float(decrease) == pytest.approx(wanted, rel=0.01)


def test_the_users_own_network_in_full_and_the_basic_certificate_asks_for_more(call):
    words = ("--arrays", "net.npz", "--eps", "0.01")
    found, basic = (json.loads(call(*words, "--json", *more)[1]) for more in ((), ("--basic",)))
    code, out, _ = call(*words)
    assert (code, found["holds"], found["refined"], basic["refined"]) == (0, True, True, False)
    assert str(found["steps"]) in out
    assert found["rate"] ** found["steps"] * found["residual"] ** 2 <= 0.01**2
    assert found["rate"] ** (found["steps"] - 1) * found["residual"] ** 2 > 0.01**2
    assert basic["eta"] < found["eta"]


def test_a_narrow_network_hears_which_condition_fails_and_by_what_factor(call):
    words = ("test.yaml", "sweep.product.m=16", "sweep.product.replicate.count=1")
    (found,) = json.loads(call(*words, "--json")[1])
    code, out, _ = call(*words)
    assert (code, found["holds"]) == (0, False)
    assert "does not hold" in out


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ((), "--arrays"),
        (("test.yaml", "--arrays", "net.npz"), "--arrays"),
        (("test.yaml", "--eps", "0"), "--eps: got 0"),
        (("--arrays", "gone.npz"), "gone.npz"),
        (("--arrays", "no_a.npz"), "no array a"),
        (("--arrays", "net.npz", "--activation", "relu"), "activation: got 'relu'"),
        (("test.yaml", "experiment=regression"), "regression"),
    ],
)
def test_bad_input_ends_with_code_2_and_one_line(call, tmp_path, words, named):
    X, y, W, _ = start(0)
    np.savez(tmp_path / "no_a.npz", X=X, y=y, W=W)
    code, out, err = call(*words)
    assert code == 2
    assert out == ""
    assert named in err
    assert all(line.startswith("error[E-") for line in err.splitlines())

"""The theory and the power that a plan tells, against the functions themselves on data with a known spectrum."""

import math

import numpy as np
import pytest

from expreg import api, checks, theory
from expreg.api import load_config as load
from expreg.core.config import cells
from expreg.errors import InputError
from expreg.kinds.network import outlook

BASE = {
    "experiment": "threshold",
    "name": "outlook",
    "data": {"kind": "orthonormal"},
    "sweep": {"product": {"n": [4, 8], "m": [16, 64], "replicate": {"count": 3}}},
}


def settings(**overrides):
    return [one for one, _ in cells(load(BASE, overrides))]


def rows(delta=0.1, **overrides):
    return outlook.theory_table(settings(**overrides), delta)["rows"]


def test_a_row_per_n_is_the_theory_at_the_users_own_data():
    found = rows(delta=0.2)
    assert [row["n"] for row in found] == [4, 8]
    row, lam = found[1], math.e**2
    width = theory.width_spectral(8, 0.2, lam, 1.0, math.sqrt(8))
    assert row["lambda"] == pytest.approx(lam)
    assert row["width_spectral"] == pytest.approx(width, rel=1e-6)
    assert row["width_frobenius"] == pytest.approx(theory.width_frobenius(8, 0.2, lam), rel=1e-6)
    assert row["width_abstract"] == pytest.approx(theory.width(8, 0.2, lam), rel=1e-6)
    # B, R, eta and T belong to the spectral width: they solve its equations
    assert row["weight_bound"] == pytest.approx(math.sqrt(2 * math.log(8 * width / 0.2)), rel=1e-6)
    assert row["radius"] == pytest.approx(
        math.log1p(theory.ROOT_DROP * math.e / math.exp(row["weight_bound"])), rel=1e-6
    )
    rate = width * row["step_size"] * lam
    assert row["iterations"] == pytest.approx(4 / rate * math.log(math.sqrt(8) / 0.05), rel=1e-6)


def test_the_output_scale_moves_the_labels_and_a_relative_tolerance_the_steps():
    plain, [scaled, _] = rows()[0], rows(**{"network.scale": 0.25})
    assert scaled["width_spectral"] == pytest.approx(
        theory.width_spectral(4, 0.1, plain["lambda"], 1.0, 4 * plain["label_norm"]), rel=1e-6
    )
    relative = rows(**{"training.relative": True})[0]
    assert relative["iterations"] / plain["iterations"] == pytest.approx(math.log(20) / math.log(40), rel=1e-6)


def test_regimes_are_named_by_what_sets_them_apart():
    found = rows(
        **{
            "sweep.product": {
                "n": [4],
                "m": [16],
                "data.kind": ["equiangular", "orthonormal"],
                "network.scale": [1, 0.5],
            }
        }
    )
    assert [row["data"] for row in found] == [
        f"{kind}, scale = {scale}" for kind in ("equiangular, coherence = 0.5", "orthonormal") for scale in ("1", "0.5")
    ]


def test_many_and_large_n_are_left_out_and_named():
    found = outlook.theory_table(settings(**{"sweep.product.n": [2, 3, 4, 5, 6, 7, 8, 9, 1024]}), 0.1)
    assert [row["n"] for row in found["rows"]] == [2, 3, 4, 5, 7, 8, 9]
    assert found["left_out"][0].startswith("n = 1024: the spectrum")
    assert found["left_out"][1].startswith("At most 8 values")


@pytest.mark.parametrize(
    "overrides",
    [
        {"network.activation": "relu"},
        {"data.kind": "sphere", "data.d": 1, "data.allow_duplicates": True},  # 4 points on two places
    ],
)
def test_without_a_theorem_there_are_no_numbers(overrides):
    for row in rows(**overrides):
        assert np.isfinite(row["lambda"])
        assert row["width_spectral"] is row["radius"] is row["iterations"] is None


def test_power_counts_the_replicates_of_the_sweep():
    analysis = {"delta": 0.1, "confidence": 0.95, "half_width": 0.1}
    fine = settings(**{"sweep.product.m": [16, 18, 20]})
    found = outlook.resolution(fine, analysis)
    assert (found["planned"], found["for_quantile"], found["n"]) == (3, 36, [4, 8])
    wide = outlook.resolution(fine, analysis | {"half_width": 0.2})
    assert wide["for_half_width"] < found["for_half_width"]
    assert outlook.resolution(settings(**{"sweep.product.m": 16}), analysis) is None
    assert outlook.replicates(settings(**{"sweep.product.when": "replicate < n - 3"})) == 1
    assert outlook.replicates(settings(**{"sweep.product.seed": [0, 1]})) == 6


@pytest.mark.parametrize(
    ("delta", "confidence", "count", "needed"),
    [(0.1, 0.95, 28, "29"), (0.1, 0.95, 29, None), (0.01, 0.95, 298, "299"), (0.5, 0.95, 4, "5"), (0.5, 0.8, 3, None)],
)
def test_a_quantile_of_too_few_replicates_is_refused_with_the_number_needed(delta, confidence, count, needed):
    cells = settings(**{"sweep.product": {"n": [4], "m": [16], "replicate": {"count": count}}})
    said = outlook.too_few(cells, {"delta": delta, "confidence": confidence})
    assert (said is None) == (needed is None)
    assert needed is None or f"quantile needs {needed} replicates" in said


def test_only_a_delta_that_the_config_names_asks_for_a_quantile():
    assert checks.sweep(api.load_config(BASE)).cells
    with pytest.raises(InputError, match=r"analysis.delta: the 0.9 quantile needs 29 .* the sweep has 3"):
        api.plan(BASE, {"analysis.delta": 0.1})
    assert checks.sweep(api.load_config(BASE, {"analysis.delta": 0.5, "analysis.confidence": 0.8})).cells


@pytest.mark.parametrize(
    ("tolerance", "relative", "fine"), [(0.1, False, True), (0.11, False, False), (0.5, True, True)]
)
def test_an_absolute_tolerance_that_the_theorem_does_not_speak_of_is_refused(tolerance, relative, fine):
    asked = {"training.tolerance": tolerance, "training.relative": relative}
    if fine:
        assert settings(**asked)
        return
    with pytest.raises(InputError, match="<= 0.1: the theorem covers no larger eps"):
        settings(**asked)


def test_points_that_must_coincide_are_refused_unless_duplicates_are_allowed():
    line = {"data.kind": "sphere", "data.d": 1}
    with pytest.raises(InputError, match="some are equal, so lambda is 0; expected d >= 2, or set allow_duplicates"):
        settings(**line)
    assert settings(**line, **{"data.allow_duplicates": True})
    assert settings(**line, **{"sweep.product.n": [2]})


def test_the_lines_fit_a_terminal():
    many = settings(**{"data.kind": "sphere", "data.d": 3, "sweep.product.n": [4, 64]})
    told = {"theory": outlook.theory_table(many, 0.1)}
    lines = outlook.lines(
        told | {"power": outlook.resolution(many, {"delta": 0.1, "confidence": 0.95, "half_width": 0.1})}
    )
    assert max(map(len, lines)) <= 100
    assert lines[1].split()[:5] == ["n", "d", "lambda", "||X||", "spectral"]
    assert [line.split()[0] for line in lines[2:5]] == ["sphere", "4", "64"]
    assert outlook.lines({"theory": {"delta": 0.1, "rows": [], "left_out": []}, "power": None}) == []

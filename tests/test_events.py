"""Events and activations as records: a user's own need one entry in a list, and what is unknown is null."""

from dataclasses import replace

import numpy as np
import pytest
from oracles import PHI
from runs import make, oracle, run
from test_experiment import resolved, row_of

from expreg import activation
from expreg.activation import ACTIVATIONS, Activation
from expreg.kinds import EXPERIMENTS
from expreg.kinds.network import check, events, start, training
from expreg.kinds.network.events import EVENTS, Event
from expreg.types import Column

NULL = (
    *("lambda_cts", "lambda_max_cts", "frobenius_error", "frobenius_expected", "spectral_error", "steps_linearised"),
    *("radius", "radius_frobenius", "refined_movement", "eta_certified", "movement_linearised", "lambda_min_path"),
    *(name + part for name in ("E1", "E1s", "E1m", "E2", "E3", "E4", "Ecert") for part in ("", "_step", "_margin")),
)


@pytest.fixture
def tanh(monkeypatch):
    """An activation of which only the function and its derivative are known."""
    own = Activation("tanh", lambda z: _xp(z).tanh(z), lambda z: 1 / _xp(z).cosh(z) ** 2)
    monkeypatch.setitem(ACTIVATIONS, "tanh", own)


def _xp(z):
    return z.__array_namespace__()


def cell(**change):
    """Return the settings of a cell with the activation tanh, which no config names before it is registered."""
    settings = resolved(training__max_steps=300, training__tolerance=0.05, **change)
    return settings | {"network": settings["network"] | {"activation": "tanh", "m": 64}}


# --- a user's own event


def test_an_event_is_one_record(monkeypatch):
    """The residual falls at every step: judged along the path, counted, in the row and among the columns."""

    def rises(look):
        return look.residual, look.residual > look.previous

    own = Event(
        name="monotone", title="the residual never rises", claim=None, along_path=True, needs=frozenset({"training"}),
        margin=lambda facts: float(facts.record["largest"]), update=rises, fold="maximum", keeps="largest",
    )  # fmt: skip
    monkeypatch.setitem(EVENTS, "monotone", own)
    for factor, falls in ((0.075, True), (1.0, False)):
        signature, inputs = make(more=("monotone",), step_factor=factor, max_steps=3)
        norms, _ = oracle(signature, inputs)
        rising = np.flatnonzero(np.diff(norms) > 0) + 1
        assert (len(rising) == 0) == falls
        record = run(signature, inputs)
        assert record["monotone_step"] == (-1 if falls else rising[0])
        np.testing.assert_allclose(record["largest"], norms.max(), rtol=1e-9)
    names = [column.name for column in EXPERIMENTS["threshold"].columns()]
    assert names[-3:] == ["monotone", "monotone_step", "monotone_margin"]
    settings = resolved() | {"measure": ["E5", "monotone"]}
    row = row_of(settings)
    assert (row["monotone"], row["monotone_step"]) == (True, None)
    assert row["monotone_margin"] == pytest.approx(row["residual_initial"])
    assert "monotone" not in [column.name for column in EXPERIMENTS["concentration"].columns()]


def test_an_event_may_bring_a_column_and_look_at_measurements_only(monkeypatch):
    column = Column("farthest", "float64", "movement when it was last measured")
    own = Event(
        name="near", title="no weight moves further than 1e-9", needs=frozenset({"training"}), when="measure",
        margin=lambda facts: 1e-9 / float(facts.record["farthest"]), keeps="farthest", column=column,
        update=lambda look: (look.movement, look.movement > 1e-9), fold="maximum",
    )  # fmt: skip
    monkeypatch.setitem(EVENTS, "near", own)
    row = row_of(resolved() | {"measure": ["near"]})
    assert row["near"] is False
    assert row["near_step"] == min(resolved()["training"]["measure_every"], row["steps"])
    assert row["farthest"] == row["max_movement"]
    assert row["lambda_min_path"] is None
    assert row_of(resolved() | {"measure": ["E0"]})["farthest"] is None


def test_a_wrong_event_is_described_in_one_line_each():
    assert [line for event in EVENTS.values() for line in events.check(event)] == []
    parts = {"name": "own", "title": "", "margin": lambda facts: 1.0}
    column = Column("other", "float64", "")
    for change, line in (
        ({"needs": frozenset({"luck"})}, "event 'own': needs 'luck', expected some of training, theory"),
        ({"when": "never"}, "when is 'never', expected 'step' or 'measure'"),
        ({"fold": "mean"}, "fold is 'mean', expected 'minimum' or 'maximum'"),
        ({"update": lambda look: look.residual}, "update raised TypeError"),
        ({"update": lambda look: (look.residual, look.initial_residual > 0)}, r"shapes ((), (2,)), expected"),
        ({"update": lambda look: (look.residual, True), "keeps": "mine", "column": column}, "column is 'other'"),
    ):
        (found,) = events.check(Event(**parts, **change))
        assert line in found


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_the_activations_pass_the_check_that_a_users_own_must_pass(name):
    assert activation.check(ACTIVATIONS[name]) == []


def test_a_wrong_activation_is_described_in_one_line_each():
    assert activation.check(Activation("own", np.tanh, lambda z: 1 / np.cosh(z) ** 2)) == []
    square = Activation("own", lambda z: z**2, lambda z: 2 * z)
    for change, line in (
        ({"derivative": lambda z: z}, "activation 'own': derivative(z) is -1.3 at z = -1.3, expected -2.6"),
        ({"value": np.sum}, "value(z) has shape (), expected that of its arguments, (2, 3)"),
        ({"derivative": lambda z: 2 * z / 0}, "derivative(z) is not finite"),
        ({"expectation": lambda K, q_i, q_j: 1.0}, "expectation has shape ()"),
        ({"increment": lambda base, dl: (dl, base[0])}, "increment[0] is 0.1"),
        (
            {"stable": lambda z: (z**2, 2 * z, np.zeros(()))},
            "phi'' is 2 at z = -1.3, expected 1.69, phi: give `second`",
        ),
    ):
        with np.errstate(divide="ignore"):
            found = activation.check(replace(square, **change))
        assert any(line in one for one in found), found
    given = replace(square, stable=lambda z: (z**2, 2 * z, np.zeros(())), second=lambda z, s: 2 + 0 * z)
    assert activation.check(given) == []


# --- an activation without theory


@pytest.mark.parametrize("precision", ["f32", "f64"])
def test_an_activation_without_theory_trains_and_what_needs_theory_is_null(tanh, precision):
    settings = cell(precision=precision)
    row = row_of(settings)
    assert {name: row[name] for name in NULL if row[name] is not None} == {}
    assert row["curve_linearised"] is None
    assert row["status"] == "converged"
    assert row["E0"] is True
    assert row["E5"] is True
    assert row["eta_scaled"] == pytest.approx(
        settings["training"]["step_size"]["factor"] / row["lambda_max_0"], rel=1e-6
    )
    arrays = start.inputs(settings | {"precision": "f64"})
    D = 1 / np.cosh(arrays["X"] @ arrays["W"]) ** 2
    spectrum = np.linalg.eigvalsh((arrays["X"] @ arrays["X"].T) * (D @ D.T) / 64)
    np.testing.assert_allclose([row["lambda_0"], row["lambda_max_0"]], spectrum[[0, -1]], rtol=1e-4)


def test_its_descent_is_that_of_the_slow_loop(tanh, monkeypatch):
    monkeypatch.setitem(PHI, "tanh", (np.tanh, lambda z: 1 / np.cosh(z) ** 2))
    signature, inputs = make(activation="tanh")
    norms, _ = oracle(signature._replace(events=()), inputs)
    found = run(signature._replace(events=()), inputs)
    np.testing.assert_allclose(found["curve_residual"], norms, rtol=0, atol=1e-10 * norms[0])


def test_its_start_can_be_looked_at_too(tanh):
    experiment, settings = EXPERIMENTS["concentration"], cell()
    settings = {key: value for key, value in settings.items() if key != "training"}
    settings |= {"experiment": "concentration", "measure": ["E1", "E1s", "E1m", "Ecert"]}
    program = experiment.build(experiment.signature(settings))
    record = {name: np.asarray(value) for name, value in program.init(experiment.prepare(settings)).items()}
    row = experiment.row(settings, record)
    assert row["status"] == "converged"
    assert row["lambda_0"] > 0
    assert all(row[name] is None for name in ("E1", "E1s_margin", "E1m_step", "Ecert", "lambda_cts", "spectral_error"))


def test_what_needs_its_theory_is_refused_with_one_line_each(tanh):
    settings = cell()
    assert check.check([settings]) == []
    assert training.cost(settings).steps >= 300  # the whole budget: nothing predicts an end
    change = {"step_size": settings["training"]["step_size"] | {"rule": "theory"}}
    change |= {"max_steps": {"flow_time": 2.0, "at_most": 100}}
    found = check.check([settings | {"training": settings["training"] | change}] * 3)
    assert [problem.key for problem in found] == ["training.step_size.rule", "training.max_steps"]
    assert "got 'theory', expected spectral or fixed: the infinite-width kernel of tanh is not known" in str(found[0])
    assert "expected a number of steps" in str(found[1])
    assert check.check([resolved(training__step_size__rule="theory")]) == []


# --- a tolerance of 0


def unending(**change):
    settings = resolved(training__max_steps=40, **change)
    return settings | {"training": settings["training"] | {"tolerance": 0}}


@pytest.mark.parametrize("precision", ["f32", "f64"])
def test_without_a_tolerance_a_run_takes_its_whole_budget(precision):
    settings = unending(precision=precision)
    row = row_of(settings)
    assert (row["status"], row["steps"], row["tolerance"]) == ("max_steps", 40, 0)
    assert row["E5"] is row["E5_step"] is row["E5_margin"] is None
    assert row["steps_linearised"] is None
    assert len(row["curve_linearised"]) == len(row["curve_step"])
    assert row["E4"] is not None
    assert training.cost(settings).steps == 40 + settings["training"]["measure_every"]


def test_not_even_a_residual_of_exactly_0_ends_it_but_divergence_does():
    signature, inputs = make(y=np.zeros(5), tolerance=0.0, max_steps=20)
    record = run(signature, inputs)
    assert (int(record["status"]), int(record["steps"])) == (2, 20)
    assert record["residual_final"] == 0
    assert record["E4_step"] == -1  # at 0 there is nothing left to fall
    signature, inputs = make(step_factor=1.0, divergence=3.0, tolerance=0.0)
    assert int(run(signature, inputs)["status"]) == 3
    flowing = unending()
    budget = {"max_steps": {"flow_time": 2.0, "at_most": 60}}
    assert row_of(flowing | {"training": flowing["training"] | budget})["max_steps"] == 60


# --- memory


def test_the_least_memory_of_a_cell_is_known_without_its_spectrum(monkeypatch):
    monkeypatch.setattr(start, "problem", None)
    settings = resolved(network__m=1024)
    (name, host, place), (_, lane, other) = EXPERIMENTS["threshold"].least_bytes(settings)
    assert (name, place, other) == ("cell n=4", "host", "device")
    assert (host, lane) == (32 * 16, 12 * 4 * 1024)
    assert EXPERIMENTS["threshold"].size(settings) == "cell m=1024 n=4"

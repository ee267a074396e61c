"""Records of solvers and sketches are probed once, when they are registered."""

import pytest

import expreg
from expreg.errors import InputError
from expreg.solver import SKETCHES, SOLVERS
from expreg.solver.probe import check

pytestmark = pytest.mark.usefixtures("quickly_compiled")
NEWTON, UNIFORM = SOLVERS["newton"], SKETCHES["uniform"]


OWN = [*(SOLVERS[name] for name in ("gd", "newton", "pcg")), *SKETCHES.values()]
"""Those that are left out differ from one of these by a number only, or in the optimizer."""


@pytest.mark.parametrize("record", OWN, ids=lambda record: record.name)
def test_what_the_package_brings_passes_its_own_probe(record):
    assert list(check(record)) == []


def changed(change):
    """Newton, with its state after a step changed."""

    def traced(*arguments):
        steps = NEWTON.traced(*arguments)
        return steps._replace(step=lambda state: change(state, steps.step(state)))

    return NEWTON._replace(traced=traced)


def applied(change):
    """The uniform sketch, with what it makes of A and weights changed."""

    def make(key, rows, size):
        apply = UNIFORM.make(key, rows, size)
        return lambda A, weights=None: change(apply, A, weights)

    return UNIFORM._replace(make=make)


WRONG = {
    "expected a smaller loss after 3 steps": changed(lambda before, after: before._replace(step=after.step)),
    "one step later": changed(lambda before, after: after._replace(step=before.step)),
    "dz = A step": NEWTON._replace(host=lambda A, rng: lambda *at: NEWTON.host(A, rng)(*at)._replace(dz=A[:, 0])),
    r"of shape \(size, d\) = \(512, 2\), got \(2, 512\)": applied(lambda apply, A, w: apply(A, w).T),
    r"apply\(A, w\) to be apply\(diag\(w\) A\)": applied(lambda apply, A, w: apply(A)),
    r"E\[S\^T S\] = I": applied(lambda apply, A, w: 2 * apply(A, w)),
    "its probe raised ZeroDivisionError": applied(lambda apply, A, w: 1 / 0),
}


@pytest.mark.parametrize("expected", WRONG)
def test_a_wrong_record_is_refused_in_one_line(expected):
    with pytest.raises(InputError, match=expected) as refusal:
        expreg.register(WRONG[expected]._replace(name="mine"))
    assert "\n" not in str(refusal.value)
    assert "mine" not in {**SOLVERS, **SKETCHES}

"""Expressions agree with Python on what is allowed, and refuse everything else."""

import contextlib
import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expreg.core.config.expression import MAX_LENGTH, ExpressionError, is_name, parse

VALUES = {"n": 12, "m": 7, "rho": 0.25}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("n", 12),
        ("2*n", 24),
        (" n - -m ", 19),
        ("n/8", 1.5),
        ("n//8", 1),
        ("2**10", 1024),
        ("2**-1", 0.5),
        ("min(n, m, 3)", 3),
        ("max(n, m)", 12),
        ("round(n*rho + 0.4)", 3),
        ("log(n)", math.log(12)),
        ("sqrt(n + 4)", 4.0),
        ("(n + m)*2", 38),
        ("1e-3*n", 0.012),
        ("(-1)**99999999999", -1),
    ],
)
def test_value(text: str, value: float) -> None:
    assert parse(text)(VALUES) == value


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("n >= m", True),
        ("m < n <= 12", True),
        ("m < n < 12", False),
        ("n == 12 and not m == 8", True),
        ("n != 12 or rho > 1", False),
        ("n > 2*m or rho < 0.5 and m == 7", True),
    ],
)
def test_condition(text: str, holds: bool) -> None:
    assert parse(text, condition=True)(VALUES) is holds


def test_names_include_dotted_paths() -> None:
    expression = parse("2*n + training.step_size.factor - max(rho, 1)")
    assert expression.names == {"n", "rho", "training.step_size.factor"}
    assert expression({"n": 1, "rho": 0, "training.step_size.factor": 0.5}) == 1.5


STATEMENTS = ["__import__('os').system('id')", "n.__class__()", "().__class__", "lambda: 1", "x := 1", "n if m else 1"]
VALUES_OF_PYTHON = ["[1][0]", "n[0]", "{1}", "f'{n}'", "'text'", "1j", "True", "None", "n, m"]
OPERATORS = ["~n", "n % 2", "n & 1", "n @ m", "n >= m", "not n", "n +", ""]
CALLS = ["abs(n)", "max(*n)", "max(n, key=m)", "max(n)", "log(n, 2)", "max", "max.n"]
NUMBERS = ["0x10", "1_000", "010", "1or 2"]
CHARACTERS = ["\uff4e", "n\u202e", "n\nm", "(" * 150 + "1" + ")" * 30, "1+" * MAX_LENGTH + "1"]


@pytest.mark.parametrize("text", [*STATEMENTS, *VALUES_OF_PYTHON, *OPERATORS, *CALLS, *NUMBERS, *CHARACTERS])
def test_everything_else_is_refused(text: str) -> None:
    with pytest.raises(ExpressionError):
        parse(text)


@pytest.mark.parametrize("text", ["n", "n + 1", "min(n, m) ", "n >= 1 and m", "1 < (n > m)"])
def test_arithmetic_is_no_condition(text: str) -> None:
    with pytest.raises(ExpressionError):
        parse(text, condition=True)


@pytest.mark.parametrize(
    "text",
    ["1/(n - 12)", "log(n - 12)", "sqrt(-n)", "(-n)**0.5", "0**-1", "round(1e300*1e300)", "2.0**1e9"],
)
def test_no_value_is_an_error_in_words(text: str) -> None:
    expression = parse(text)
    with pytest.raises(ExpressionError):
        expression(VALUES)


@pytest.mark.parametrize("text", ["9**9**9**9", "2**2**2**2**2**2", "(10**70)**(10**70)", "10**99999999"])
def test_powers_cannot_grow_without_bound(text: str) -> None:
    start = time.process_time()
    with pytest.raises(ExpressionError, match="too large"):
        parse(text)(VALUES)
    assert time.process_time() - start < 1


def test_a_text_value_is_an_error_in_words() -> None:
    with pytest.raises(ExpressionError, match="not a number"):
        parse("2 + rho")({"rho": "exp"})


@pytest.mark.parametrize(
    ("text", "expected"), [("rho", True), ("a.b_1", True), ("2", False), ("max", False), ("", False)]
)
def test_is_name(text: str, expected: bool) -> None:
    assert is_name(text) is expected


TREES = st.recursive(
    st.sampled_from(["n", "m", "rho", "2", "0.5", "3"]),
    lambda inner: (
        st.builds("({} {} {})".format, inner, st.sampled_from(["+", "-", "*"]), inner)
        | st.builds("max({}, {})".format, inner, inner)
    ),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(TREES)
def test_agrees_with_python(text: str) -> None:
    # An independent route: Python's own evaluation of a text that was made from known pieces.
    expected = eval(text, {"__builtins__": {}, "max": max}, dict(VALUES))
    assert parse(text)(VALUES) == expected


@settings(max_examples=200, deadline=1000)
@given(st.text(alphabet="nm019.+-*/()<>=!, _eandort", max_size=40), st.booleans())
def test_any_text_is_compiled_or_refused(text: str, condition: bool) -> None:
    with contextlib.suppress(ExpressionError, KeyError):
        parse(text, condition=condition)(VALUES | {"e": 1})

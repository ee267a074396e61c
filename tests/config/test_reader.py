"""The strict YAML subset: what is read, what is refused, where things stand, and that nothing else can happen."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expreg.core.config.reader import MAX_BYTES, MAX_DEPTH, Document, read, show_path


def codes(source: bytes | str) -> list[str]:
    return [problem.code for problem in read(source).problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("0.001", 0.001),
        ("1.0E-3", 0.001),
        (".5", 0.5),
        ("-12", -12),
        ("+7", 7),
        ("0", 0),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("", None),
        ("n", "n"),
        ("y", "y"),
        ("2*n", "2*n"),
        ("'NO'", "NO"),
        ("'010'", "010"),
        ('"1e-3"', "1e-3"),
        ("1.2.3", "1.2.3"),
        ("2001-01-01", "2001-01-01"),
        ("-.inf", float("-inf")),
        ("[1, {a: 2}, x]", [1, {"a": 2}, "x"]),
        ("|\n  two\n  lines\n", "two\nlines\n"),
    ],
)
def test_plain_values_follow_yaml_1_2(text: str, value: object) -> None:
    document = read(f"key: {text}\n")
    assert document.problems == []
    assert document.value == {"key": value}
    assert type(document.value["key"]) is type(value)


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("", "E-EMPTY"),
        ("# only a comment\n", "E-EMPTY"),
        ("a: 1\n---\nb: 2\n", "E-YAML"),
        ("a:\n\tb: 1\n", "E-YAML"),
        ("a: [1\n", "E-YAML"),
        ("a: 'x\n", "E-YAML"),
        ("a: \0\n", "E-YAML"),
        ("%YAML 1.1\n---\na: 1\n", "E-YAML"),
        (b"a: \xff\n", "E-UTF8"),
        ("a: \ud800\n", "E-UTF8"),
        ("a: " + "x" * MAX_BYTES, "E-SIZE"),
        ("a: *b\n", "E-ALIAS"),
        ("a: &b 1\n", "E-ALIAS"),
        ("<<: {a: 1}\n", "E-ALIAS"),
        ("a: !!python/object/apply:os.system ['touch /tmp/canary']\n", "E-TAG"),
        ("a: !!binary aGk=\n", "E-TAG"),
        ("a: !!set {b: null}\n", "E-TAG"),
        ("a: !own 1\n", "E-TAG"),
        ("!!str a: 1\n", "E-TAG"),
        ("a: 1\na: 2\n", "E-DUP"),
        ("'a': 1\na: 2\n", "E-DUP"),
        *((f"a: {text}\n", "E-NUM") for text in ("010", "0x10", "0o17", "0b1", "1_000", "1:30", "-010", "1_0.5")),
        (f"a: {'9' * 5000}\n", "E-NUM"),
        *((f"a: {text}\n", "E-BOOL") for text in ("NO", "yes", "On", "off")),
        ("on: 1\n", "E-BOOL"),
        ("1: a\n", "E-TYPE"),
        ("? [a, b]\n: 1\n", "E-TYPE"),
        ("[" * (MAX_DEPTH + 1), "E-DEPTH"),
        ("- " * 1000, "E-DEPTH"),
    ],
)
def test_everything_outside_the_subset_is_refused(source: bytes | str, code: str) -> None:
    assert codes(source) == [code]


def test_a_byte_order_mark_and_depth_up_to_the_limit_are_read() -> None:
    document = read(b"\xef\xbb\xbfa: 1\n")
    assert (document.value, document.problems) == ({"a": 1}, [])
    assert codes("[" * MAX_DEPTH + "]" * MAX_DEPTH) == []


def test_billion_laughs_are_refused_at_the_first_aliases() -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 60)]
    document = read("\n".join(lines))
    assert {problem.code for problem in document.problems} == {"E-ALIAS"}
    assert document.problems[1].message == "YAML anchor &a1 is not allowed; write the value out"


def test_all_problems_are_listed_at_once_with_their_places() -> None:
    document = read("a: 1\nb: {c: 010, d: NO}\na: [!x 1, *y]\n", file="f.yaml")
    found = [(problem.code, problem.line, problem.column, problem.key) for problem in document.problems]
    assert found == [
        ("E-NUM", 2, 8, "b.c"),
        ("E-BOOL", 2, 16, "b.d"),
        ("E-DUP", 3, 1, "a"),
        ("E-TAG", 3, 5, "a[0]"),
        ("E-ALIAS", 3, 11, "a[1]"),
    ]
    assert str(document.problems[2]) == "error[E-DUP] f.yaml:3:1: a: duplicate key; first given at line 1"
    assert str(document.problems[0]).endswith("ambiguous number '010'; write plain decimal digits")


def test_marks_point_at_keys_and_values() -> None:
    document = read("a: 1\nsweep:\n  product:\n    m: [8, 16]\n", file="f.yaml")
    path = ("sweep", "product", "m")
    assert [mark[1:] for mark in document.marks[path]] == [(4, 5), (4, 8)]
    assert document.marks[(*path, 1)].value[1:] == (4, 12)
    assert show_path((*path, 1)) == "sweep.product.m[1]"


OPEN = ["[" * 100_000, "{" * 100_000, "- " * 120_000, "? " * 120_000]
LONG = ["a: " + "1_" * 100_000 + "x", "a: " + "9" * 200_000, "a: " + "1:" * 100_000, "a: &" + "x" * 200_000 + " 1"]


@pytest.mark.parametrize("text", [*OPEN, *LONG, "a: [" + "1," * 120_000 + "]", "k: 1\n" * 50_000])
def test_hostile_sizes_take_bounded_time(text: str) -> None:
    start = time.process_time()
    read(text)
    assert time.process_time() - start < 5  # processor time: 1.2 s alone on a core


def check_is_plain(value: object) -> None:
    assert value is None or type(value) in (str, int, float, bool, list, dict)
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        check_is_plain(child)


@settings(max_examples=150, deadline=2000)
@given(st.binary(max_size=200) | st.text(max_size=200))
def test_any_bytes_give_plain_values_or_problems(source: bytes | str) -> None:
    document = read(source)
    assert isinstance(document, Document)
    check_is_plain(document.value)
    assert all(str(problem).isprintable() for problem in document.problems)

"""Compile arithmetic in swept names to closures: nothing of the text is ever executed as Python.

The text is parsed by `ast`, every node is looked up in a table of what is allowed, and anything else is refused.
"""

import ast
import itertools
import math
import operator
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

Number = int | float
_Closure = Callable[[Mapping[str, Any]], Any]

MAX_LENGTH = 200
MAX_BITS = 256  # of an integer power: large enough for any size, small enough to cost nothing

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_ALLOWED = re.compile(r"[A-Za-z0-9_ .,()+\-*/<>=!]*")
# Digits that other readers take for base 16, 8, 2 or for groups.
_AMBIGUOUS = re.compile(r"(?<![A-Za-z_])[0-9][0-9.]*(_|(?<=0)[xXoObB])")


class ExpressionError(ValueError):
    """The text is not an expression, or it has no value at the given point."""


@dataclass(frozen=True)
class Expression:
    """A compiled expression: call it with the values of its `names`."""

    text: str
    names: frozenset[str]
    closure: _Closure

    def __call__(self, values: Mapping[str, Any]) -> Any:
        """Return the value; raise `ExpressionError` where there is none (division by zero, log of 0, overflow)."""
        try:
            return self.closure(values)
        except ZeroDivisionError:
            raise ExpressionError("division by zero") from None
        except OverflowError:
            raise ExpressionError("the value overflows") from None
        except TypeError:
            raise ExpressionError("a name in it is not a number") from None
        except KeyError as error:
            raise ExpressionError(f"{error} has no value") from None


@lru_cache(maxsize=4096)
def parse(text: str, *, condition: bool = False) -> Expression:
    """Compile `text`, arithmetic or (`condition=True`) a comparison; raise `ExpressionError` otherwise.

    + - * / // ** ( ) min max round log (natural) sqrt; in conditions also < <= > >= == != and or not.
    """
    if len(text) > MAX_LENGTH:
        raise ExpressionError(f"{len(text)} characters long; at most {MAX_LENGTH} are read")
    if not _ALLOWED.fullmatch(text):
        strange = next(c for c in text if not _ALLOWED.fullmatch(c))
        raise ExpressionError(f"{strange!a} cannot stand in an expression")
    if _AMBIGUOUS.search(text):
        raise ExpressionError("ambiguous number; write plain decimal digits")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            body = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, Warning, MemoryError, RecursionError):
        raise ExpressionError("not an arithmetic expression") from None
    names: set[str] = set()
    closure = _condition(body, names) if condition else _number(body, names)
    return Expression("".join(text.split()), frozenset(names), closure)


def is_name(text: str) -> bool:
    """Say whether `text` can stand in an expression as a name: an identifier or a dotted path of them."""
    try:
        return parse(text).names == {text}
    except ExpressionError:
        return False


def _power(base: Number, exponent: Number) -> Number:
    if isinstance(base, int) and isinstance(exponent, int):
        if abs(exponent) * base.bit_length() > MAX_BITS and abs(base) > 1:
            raise ExpressionError("the power is too large")
        if abs(exponent) > MAX_BITS:  # base is -1, 0 or 1: only the parity counts
            exponent = int(math.copysign(2 + exponent % 2, exponent))
    value: Number | complex = base**exponent
    if isinstance(value, complex):
        raise ExpressionError("a fractional power of a negative number")
    return value


_OPERATORS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: _power,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_ONE: dict[str, Callable[..., Any]] = {"round": round, "log": math.log, "sqrt": math.sqrt}
_MANY: dict[str, Callable[..., Any]] = {"min": min, "max": max}


def _number(node: ast.expr, names: set[str]) -> _Closure:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return lambda _: value
        case ast.Name() | ast.Attribute() if _NAME.fullmatch(name := ast.unparse(node)):
            if name.partition(".")[0] in _ONE | _MANY:
                raise ExpressionError(f"'{name}' is a function")
            names.add(name)
            return operator.itemgetter(name)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            operation, one, two = _OPERATORS[type(op)], _number(left, names), _number(right, names)
            return lambda values: operation(one(values), two(values))
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _OPERATORS:
            one_sided, inner = _OPERATORS[type(op)], _number(operand, names)
            return lambda values: one_sided(inner(values))
        case ast.Call(func=ast.Name(id=function), args=arguments, keywords=[]):
            return _call(function, [_number(argument, names) for argument in arguments])
        case ast.Compare() | ast.BoolOp() | ast.UnaryOp(op=ast.Not()):
            raise ExpressionError("a condition stands where a number is expected")
    raise ExpressionError(f"'{ast.unparse(node)}' cannot stand in an expression")


def _call(function: str, arguments: list[_Closure]) -> _Closure:
    if function not in _ONE | _MANY:
        raise ExpressionError(f"unknown function '{function}'; known: min max round log sqrt")
    if function in _ONE and len(arguments) != 1:
        raise ExpressionError(f"{function} takes one argument")
    if function in _MANY and len(arguments) < 2:
        raise ExpressionError(f"{function} takes two arguments or more")
    operation = (_ONE | _MANY)[function]

    def call(values: Mapping[str, Any]) -> Any:
        numbers = [argument(values) for argument in arguments]
        try:
            return operation(*numbers)
        except (ValueError, OverflowError):
            raise ExpressionError(f"{function} of {numbers[0]}") from None

    return call


def _condition(node: ast.expr, names: set[str]) -> _Closure:
    match node:
        case ast.BoolOp(op=op, values=operands):
            parts = [_condition(operand, names) for operand in operands]
            every = all if isinstance(op, ast.And) else any
            return lambda values: every(part(values) for part in parts)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            inner = _condition(operand, names)
            return lambda values: not inner(values)
        case ast.Compare(left=left, ops=ops, comparators=rest) if all(type(op) in _OPERATORS for op in ops):
            holds = [_OPERATORS[type(op)] for op in ops]
            sides = [_number(side, names) for side in (left, *rest)]

            def chain(values: Mapping[str, Any]) -> bool:
                numbers = [side(values) for side in sides]
                return all(hold(*pair) for hold, pair in zip(holds, itertools.pairwise(numbers), strict=True))

            return chain
    raise ExpressionError(f"'{ast.unparse(node)}' is not a condition; expected a comparison like m >= n")

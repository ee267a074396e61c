"""Rules for single values of a config: what is accepted, what is said otherwise, and the JSON Schema of it.

A rule stands in the annotation of a pydantic field. It raises `PydanticCustomError` with our own code as type.
"""

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from expreg.core.config.expression import ExpressionError, parse
from expreg.core.config.reader import TYPE_NAMES, ScalarError, scalar

MAX_SHOWN = 60
MAX_INTEGER = 10**18
TAG = "kind:"  # marks the branch of a union in the locations of pydantic's errors

_NOT_FINITE = {"nan", "inf", "+inf", "-inf", "infinity", "-infinity"}


def fault(code: str, message: str, index: int | None = None) -> PydanticCustomError:
    """Return the exception that carries one problem; `index` points into a list."""
    # The message goes in as context: as a template its braces would be filled in.
    return PydanticCustomError(code, "{message}", {"message": message, "index": index})


def show(value: Any) -> str:
    """Return a value as it would stand in the file, cut to a readable length."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case dict():
            return "a mapping"
        case list():
            return "a list"
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"


def got(value: Any) -> str:
    """Return `got 'x' (text)` for messages."""
    kind = TYPE_NAMES.get(type(value))
    return f"got {show(value)}" if kind in (None, "null", "list", "mapping") else f"got {show(value)} ({kind})"


def did_you_mean(word: Any, options: Iterable[str]) -> str:
    """Return `; did you mean x?` for the nearest option, or nothing."""
    close = difflib.get_close_matches(str(word)[:MAX_SHOWN], list(options), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def alternatives(options: Iterable[str]) -> str:
    """Return `a, b or c`."""
    *most, last = options
    return f"{', '.join(most)} or {last}" if most else last


class Block(BaseModel):
    """A mapping of the config: unknown keys are errors, nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Rule:
    """Let pydantic call `check` and `describe`."""

    def check(self, value: Any) -> Any:
        """Return the value in its canonical type; raise the fault otherwise."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """Return the JSON Schema of the rule."""
        raise NotImplementedError

    def __get_pydantic_core_schema__(self, _source: Any, _handler: Any) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(self, _schema: Any, _handler: Any) -> dict[str, Any]:
        return self.describe()


@dataclass(frozen=True)
class Number(Rule):
    """A finite number between bounds, or the text of an expression in swept names.

    `least` and `most` are included, `above` and `below` are not; `words` are texts with a meaning of their own.
    """

    integer: bool = False
    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    expression: bool = True
    words: tuple[str, ...] = ()

    def check(self, value: Any) -> int | float | str:
        """Return the number in its canonical type, or the expression without blanks."""
        if isinstance(value, str):
            return value if value in self.words else self._text(value)
        return self.number(value)

    def number(self, value: Any) -> int | float:
        """Return the number in its canonical type: 16.0 is 16 where integers are due, 1 is 1.0 where reals are."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise fault("E-TYPE", f"{got(value)}, expected {self.expected()}")
        if abs(value) > MAX_INTEGER if isinstance(value, int) else not math.isfinite(value):
            raise fault("E-RANGE", f"got {show(value)}, expected {self.expected()}")
        if self.integer and value != int(value):
            raise fault("E-TYPE", f"got {value!r} (number), expected {self.expected()}")
        if not self._within(value):
            raise fault("E-RANGE", f"got {value!r}, expected {self.expected()}")
        return int(value) if self.integer else float(value) + 0.0  # + 0.0 turns -0.0 into 0.0

    def expected(self) -> str:
        """Return the rule in words."""
        kind = "an integer" if self.integer else "a finite number"
        words = f"{alternatives(self.words)} or " if self.words else ""
        if self.least is not None and self.most is not None and self.integer:
            return f"{words}{kind} in {self.least}..{self.most}"
        bounds = {">=": self.least, ">": self.above, "<=": self.most, "<": self.below}
        text = " and ".join(f"{sign} {bound:g}" for sign, bound in bounds.items() if bound is not None)
        return f"{words}{kind} {text}".rstrip()

    def describe(self) -> dict[str, Any]:
        """Return the JSON Schema of the rule."""
        keys = {
            "minimum": self.least,
            "exclusiveMinimum": self.above,
            "maximum": self.most,
            "exclusiveMaximum": self.below,
        }
        number: dict[str, Any] = {"type": "integer" if self.integer else "number"}
        number |= {key: bound for key, bound in keys.items() if bound is not None}
        options = [number]
        if self.words:
            options.append({"enum": list(self.words)})
        if self.expression:
            options.append({"type": "string", "description": "an expression in swept names, like 2*n"})
        return number if len(options) == 1 else {"anyOf": options}

    def _within(self, value: float) -> bool:
        return (
            (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )

    def _text(self, text: str) -> str:
        if text.strip().lower() in _NOT_FINITE:
            raise fault("E-RANGE", f"got {show(text)}, expected {self.expected()}")
        try:
            number = scalar(text)
        except ScalarError as error:
            raise fault(error.code, error.message) from None
        if isinstance(number, (int, float)) and not isinstance(number, bool):
            raise fault("E-TYPE", f"{got(text)}, expected {self.expected()}; did you mean {text}?")
        if not self.expression:
            raise fault("E-TYPE", f"{got(text)}, expected {self.expected()}{did_you_mean(text, self.words)}")
        try:
            parse(text)
        except ExpressionError as error:
            raise fault("E-EXPR", f"{got(text)}, expected {self.expected()} or an expression: {error}") from None
        return "".join(text.split())


@dataclass(frozen=True)
class Choice(Rule):
    """One of a few names; `later` are names that exist but not in this version."""

    options: tuple[str, ...]
    later: tuple[str, ...] = ()

    def check(self, value: Any) -> str:
        """Return the name."""
        if isinstance(value, str) and value in self.options:
            return value
        if isinstance(value, str) and value in self.later:
            options = alternatives(self.options)
            raise fault("E-ENUM", f"got '{value}', which is not available in this version; expected {options}")
        code = "E-ENUM" if isinstance(value, str) else "E-TYPE"
        shown = f"got {show(value)}" if isinstance(value, str) else got(value)
        hint = did_you_mean(value, self.options)
        raise fault(code, f"{shown}, expected {alternatives(self.options)}{hint}")

    def describe(self) -> dict[str, Any]:
        """Return the JSON Schema of the rule."""
        return {"enum": list(self.options)}


@dataclass(frozen=True)
class Flag(Rule):
    """True or false."""

    def check(self, value: Any) -> bool:
        """Return the truth value."""
        if isinstance(value, bool):
            return value
        raise fault("E-TYPE", f"{got(value)}, expected true or false")

    def describe(self) -> dict[str, Any]:
        """Return the JSON Schema of the rule."""
        return {"type": "boolean"}


@dataclass(frozen=True)
class Text(Rule):
    """Any text up to a length."""

    least: int = 0
    most: int = 4096

    def check(self, value: Any) -> str:
        """Return the text."""
        if not isinstance(value, str):
            raise fault("E-TYPE", f"{got(value)}, expected text")
        if not self.least <= len(value) <= self.most or "\0" in value:
            message = f"got {len(value)} characters, expected {self.least} to {self.most} without NUL"
            raise fault("E-RANGE", message)
        return value

    def describe(self) -> dict[str, Any]:
        """Return the JSON Schema of the rule."""
        return {"type": "string", "minLength": self.least, "maxLength": self.most}


@dataclass(frozen=True)
class OneOf:
    """One of several mappings, chosen by the name under `key`; the first is meant where the name is absent."""

    key: str
    models: tuple[type[Block], ...]

    def choices(self) -> dict[str, type[Block]]:
        """Return the models by name."""
        return {model.model_fields[self.key].default: model for model in self.models}

    def __get_pydantic_core_schema__(self, _source: Any, handler: Callable[[Any], CoreSchema]) -> CoreSchema:
        choices = {f"{TAG}{name}": handler(model) for name, model in self.choices().items()}
        return core_schema.tagged_union_schema(choices, self._tag)

    def _tag(self, value: Any) -> str | None:
        if isinstance(value, BaseModel):
            return f"{TAG}{getattr(value, self.key)}"
        default = next(iter(self.choices()))
        return f"{TAG}{value.get(self.key, default)}" if isinstance(value, Mapping) else None


@dataclass(frozen=True)
class Either:
    """A number, or a mapping in its place."""

    number: Number
    model: type[Block]

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], CoreSchema]) -> CoreSchema:
        number = core_schema.no_info_plain_validator_function(self.number.check)
        choices = {f"{TAG}number": number, f"{TAG}mapping": handler(self.model)}
        return core_schema.tagged_union_schema(choices, self._tag)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Callable[[Any], Any]) -> dict[str, Any]:
        return {"anyOf": [self.number.describe(), handler(schema["choices"][f"{TAG}mapping"])]}

    def _tag(self, value: Any) -> str:
        return f"{TAG}mapping" if isinstance(value, (Mapping, BaseModel)) else f"{TAG}number"

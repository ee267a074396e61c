"""What a single value of a config may be: the rule that checks it, the words of a refusal, and its JSON Schema.

A rule stands in the annotation of a pydantic field. It checks a config as it is written (no context: an expression is
kept as text) and the settings of one cell (`context["names"]` gives the names, and a number comes out).
"""

import difflib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, model_validator
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from expreg.core.config.expression import Expression, ExpressionError, parse
from expreg.core.config.reader import TYPE_NAMES, Path, ScalarError, scalar

MAX_SHOWN = 60
MAX_INTEGER = 10**18
FLOAT = {"f32": "float32", "f64": "float64"}
EPSILON = {"f32": 2.0**-23, "f64": 2.0**-52}
SMALLEST = {"f32": 2.0**-126, "f64": 2.0**-1022}  # of the normal numbers: accelerators flush the others to 0
LARGEST = {"f32": 2.0**128 * (1 - 2.0**-24), "f64": math.inf}

_NOT_FINITE = {"nan", "inf", "+inf", "-inf", "infinity", "-infinity"}
_BOUNDS = {"minimum": "least", "exclusiveMinimum": "above", "maximum": "most", "exclusiveMaximum": "below"}


class Fault(NamedTuple):
    """A problem at a path of the config."""

    path: Path
    code: str
    message: str

    def below(self, path: Path) -> "Fault":
        """Return the same problem below `path`."""
        return self._replace(path=(*path, *self.path))


def fault(code: str, message: str, *path: str | int, absolute: bool = False) -> PydanticCustomError:
    """Return the exception that carries one problem, at `path` below the value or, if `absolute`, in the config."""
    return faults([Fault(path, code, message)], absolute=absolute)


def faults(found: list[Fault], *, absolute: bool = False) -> PydanticCustomError:
    """Return the exception that carries several problems of one block."""
    return PydanticCustomError("expreg", "wrong", {"faults": found, "absolute": absolute})


def carried(error: PydanticCustomError) -> Fault:
    """Return the first problem that such an exception carries."""
    found: Fault = (error.context or {})["faults"][0]
    return found


def is_number(value: Any) -> bool:
    """Say whether a value is a number; a truth value is not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def show(value: Any) -> str:
    """Return a value as it would stand in the file, cut to a readable length."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, (dict, list)):
        return "a mapping" if isinstance(value, dict) else "a list" if value else "an empty list"
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


def key(default: Any, meaning: str) -> Any:
    """Return the field of a block with its default, `...` where it is required, and one sentence for editors."""
    return Field(default, description=meaning)


def below_precision(tolerance: float, precision: str) -> str:
    """Return in words that a tolerance is below what a precision can reach."""
    advice = "; use precision f64" if precision == "f32" else ""
    return f"{tolerance:g} is below 32*eps of {FLOAT[precision]} ({32 * EPSILON[precision]:.1e}){advice}"


class Block(BaseModel):
    """A mapping of the config: unknown keys are errors, nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    files: ClassVar[tuple[str, ...]] = ()
    """The keys that name a file of the user; its content counts, not its place."""

    @classmethod
    def implied(cls, given: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG003
        """Return the sizes that follow from what is given and are no keys themselves, like d of bundled data."""
        return {}

    def rules(self, precision: str) -> Iterator[Fault]:  # noqa: ARG002
        """Yield what is wrong between the values of this block in one cell."""
        return iter(())

    @model_validator(mode="after")
    def _follow_rules(self, info: ValidationInfo) -> Self:
        context = info.context or {}
        if "names" in context and (found := list(self.rules(context["precision"]))):
            raise faults(found)
        return self


@dataclass(frozen=True)
class Rule:
    """What a value may be, by the `_check` and `_describe` of a kind of rule; with `null`, no value is a value too."""

    null: bool = False

    def check(self, value: Any, context: Any = None) -> Any:
        """Return the value in its canonical type; raise the fault otherwise."""
        return None if value is None and self.null else self._check(value, context)

    def describe(self, handler: Any) -> dict[str, Any]:
        """Return the JSON Schema of the rule."""
        found = self._describe(handler)
        return {"anyOf": [*found.get("anyOf", [found]), {"type": "null"}]} if self.null else found

    def axis(self, value: Any) -> Fault | None:
        """Return why an axis cannot set this value, None if it can."""
        try:
            self.check(value)
        except PydanticCustomError as error:
            return carried(error)
        return None

    def _check(self, value: Any, context: Any) -> Any:
        raise NotImplementedError

    def _describe(self, handler: Any) -> dict[str, Any]:
        raise NotImplementedError

    def __get_pydantic_core_schema__(self, _source: Any, _handler: Any) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(lambda value, info: self.check(value, info.context))

    def __get_pydantic_json_schema__(self, _schema: Any, handler: Any) -> dict[str, Any]:
        return self.describe(handler)


class Target(NamedTuple):
    """What an axis sets: the field at `path`, or (None) a name of expressions only; and the rules of its values.

    `whole` says whether they are whole numbers, None where they may be.
    """

    path: Path | None
    rules: tuple[Rule, ...]
    whole: bool | None


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

    def _check(self, value: Any, context: Any) -> int | float | str:
        context = context or {}
        if isinstance(value, str):
            if value in self.words:
                return value
            found = self._expression(value)
            if "known" in context:
                _note(found, self.words, **context)
            if "names" not in context:
                return found.text
            try:
                value = found(context["names"])
            except ExpressionError as error:
                raise fault("E-EXPR", f"'{found.text}': {error}") from None
        number, precision = self.number(value), context.get("precision")
        if precision is None or isinstance(number, int) or number == 0:
            return number
        if not SMALLEST[precision] <= abs(number) <= LARGEST[precision]:
            word = "0" if abs(number) < 1 else "infinite"
            raise fault("E-RANGE", f"{number!r} is {word} in {FLOAT[precision]}")
        return number

    def axis(self, value: Any) -> Fault | None:
        """Return why an axis cannot set this value, None if it can: expressions are for the fields."""
        found = super().axis(value)
        if found is None and isinstance(value, str) and value not in self.words:
            return Fault((), "E-TYPE", f"{got(value)}, expected {self.expected()}; axis values are plain")
        return found

    def number(self, value: Any) -> int | float:
        """Return the number in its canonical type: 16.0 is 16 where integers are due, 1 is 1.0 where reals are."""
        if not is_number(value):
            raise fault("E-TYPE", f"{got(value)}, expected {self.expected()}")
        if abs(value) > MAX_INTEGER if isinstance(value, int) else not math.isfinite(value):
            raise fault("E-RANGE", f"got {show(value)}, expected {self.expected()}")
        if self.integer and value != int(value):
            raise fault("E-TYPE", f"got {value!r} (number), expected {self.expected()}")
        low = (self.least is not None and value < self.least) or (self.above is not None and value <= self.above)
        if low or (self.most is not None and value > self.most) or (self.below is not None and value >= self.below):
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

    def _describe(self, _handler: Any) -> dict[str, Any]:
        bounds = {key: getattr(self, name) for key, name in _BOUNDS.items() if getattr(self, name) is not None}
        options: list[dict[str, Any]] = [{"type": "integer" if self.integer else "number", **bounds}]
        if self.words:
            options.append({"enum": list(self.words)})
        if self.expression:
            options.append({"type": "string", "description": "an expression in swept names, like 2*n"})
        return options[0] if len(options) == 1 else {"anyOf": options}

    def _expression(self, text: str) -> Expression:
        if text.strip().lower() in _NOT_FINITE:
            raise fault("E-RANGE", f"got {show(text)}, expected {self.expected()}")
        try:
            number = scalar(text)
        except ScalarError as error:
            raise fault(error.code, error.message) from None
        if is_number(number):
            raise fault("E-TYPE", f"{got(text)}, expected {self.expected()}; did you mean {text}?")
        if not self.expression:
            raise fault("E-TYPE", f"{got(text)}, expected {self.expected()}{did_you_mean(text, self.words)}")
        try:
            return parse(text)
        except ExpressionError as error:
            raise fault("E-EXPR", f"{got(text)}, expected {self.expected()} or an expression: {error}") from None


def _note(found: Expression, words: tuple[str, ...], known: set[str], used: set[str]) -> None:
    """Note the names that an expression uses, and refuse those that nothing sets; it may be a misspelt word."""
    for name in sorted(found.names - known):
        hint = did_you_mean(name, {*known, *words}) or f"; known here: {', '.join(sorted(known))}"
        raise fault("E-EXPR", f"'{name}' is not a swept name{hint}")
    used.update(found.names)


@dataclass(frozen=True)
class Choice(Rule):
    """One of a few names, or of those that a function returns; `why` returns what is special about another name."""

    options: tuple[str, ...] | Callable[[], Iterable[str]] = ()
    why: Callable[[Any], str] = lambda _: ""

    def _check(self, value: Any, _context: Any) -> str:
        options = self.names()
        if isinstance(value, str) and value in options:
            return value
        code, shown = ("E-ENUM", f"got {show(value)}") if isinstance(value, str) else ("E-TYPE", got(value))
        raise fault(code, f"{shown}{self.why(value)}, expected {alternatives(options)}{did_you_mean(value, options)}")

    def names(self) -> tuple[str, ...]:
        """Return the names."""
        return tuple(self.options() if callable(self.options) else self.options)

    def _describe(self, _handler: Any) -> dict[str, Any]:
        return {"enum": list(self.names())}


@dataclass(frozen=True)
class Options(Rule):
    """Options of another program, by its own names, which that program checks."""

    def _check(self, value: Any, _context: Any) -> dict[str, Any]:
        if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
            return dict(value)
        raise fault("E-TYPE", f"{got(value)}, expected a mapping of names to values")

    def _describe(self, _handler: Any) -> dict[str, Any]:
        return {"type": "object"}


@dataclass(frozen=True)
class Flag(Rule):
    """True or false."""

    def _check(self, value: Any, _context: Any) -> bool:
        if isinstance(value, bool):
            return value
        raise fault("E-TYPE", f"{got(value)}, expected true or false")

    def _describe(self, _handler: Any) -> dict[str, Any]:
        return {"type": "boolean"}


@dataclass(frozen=True)
class Text(Rule):
    """Any text up to a length."""

    least: int = 0
    most: int = 4096

    def _check(self, value: Any, _context: Any) -> str:
        if not isinstance(value, str):
            hint = '; a text with commas needs quotes of its own: "a, b"' if isinstance(value, list) else ""
            raise fault("E-TYPE", f"{got(value)}, expected text{hint}")
        if not self.least <= len(value) <= self.most or "\0" in value:
            raise fault("E-RANGE", f"got {len(value)} characters, expected {self.least} to {self.most} without NUL")
        return value

    def _describe(self, _handler: Any) -> dict[str, Any]:
        return {"type": "string", "minLength": self.least, "maxLength": self.most}


@dataclass(frozen=True)
class FilePath(Text):
    """A local file of the user; the loader makes it absolute, from the place of the file in which it stands."""

    least: int = 1
    most: int = 1024

    def _check(self, value: Any, context: Any) -> str:
        text = super()._check(value, context)
        if "://" in text or text.startswith("file:"):
            raise fault("E-PATH", f"got {show(text)}, expected a local file")
        return text


@dataclass(frozen=True)
class OneOf(Rule):
    """One of several mappings, chosen by the name under `key`; the first is meant where the name is absent."""

    key: str = "kind"
    models: tuple[type[Block], ...] | Callable[[], Iterable[type[Block]]] = ()

    def choices(self) -> dict[str, type[Block]]:
        """Return the models by name."""
        models = self.models() if callable(self.models) else self.models
        return {model.model_fields[self.key].default: model for model in models}

    def choose(self, value: Any) -> type[Block]:
        """Return the model of a mapping."""
        if not isinstance(value, Mapping):
            hint = f"; write {{{self.key}: {value}}}" if isinstance(value, str) and value in self.choices() else ""
            raise fault("E-TYPE", f"{got(value)}, expected a mapping{hint}")
        choices = self.choices()
        name = value.get(self.key, next(iter(choices)))
        try:
            return choices[Choice(options=tuple(choices)).check(name)]
        except PydanticCustomError as error:
            raise faults([carried(error).below((self.key,))]) from None

    def _check(self, value: Any, context: Any) -> Block:
        # pydantic puts the places of its errors behind that of the field
        return self.choose(value).model_validate(value, context=context)

    def _describe(self, handler: Any) -> dict[str, Any]:
        # every form but the first needs its name
        first, *others = [handler(model.__pydantic_core_schema__) for model in self.choices().values()]
        return {"anyOf": [first, *({"allOf": [other], "required": [self.key]} for other in others)]}


@dataclass(frozen=True)
class Either(Rule):
    """A number, or a mapping in its place."""

    number: Number = Number()
    model: type[Block] = Block

    def _check(self, value: Any, context: Any) -> Any:
        if isinstance(value, Mapping):
            return self.model.model_validate(value, context=context)
        return self.number.check(value, context)

    def _describe(self, handler: Any) -> dict[str, Any]:
        number = self.number.describe(handler)
        return {"anyOf": [*number.get("anyOf", [number]), handler(self.model.__pydantic_core_schema__)]}


# Numbers as many blocks have them.
Natural = Annotated[int, Number(integer=True, least=1, most=2**24)]
Steps = Annotated[int, Number(integer=True, least=1, most=10**9)]
Positive = Annotated[float, Number(above=0)]
NotNegative = Annotated[float, Number(least=0)]
Boolean = Annotated[bool, Flag()]

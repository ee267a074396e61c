"""The kinds of data and of labels: each a record of its keys, the rules between their values, and how it is made.

To add one: a block, a function, a line in `DATA` or `LABELS`, all here; or `expreg.register(DataKind(...))`.
Imports no JAX until something is drawn.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import AfterValidator, model_serializer
from pydantic_core import PydanticCustomError

from expreg.core.config.fields import (
    Block,
    Boolean,
    Fault,
    FilePath,
    Natural,
    Number,
    OneOf,
    Positive,
    Text,
    carried,
    fault,
    key,
)
from expreg.core.config.model import check
from expreg.core.config.reader import show_path
from expreg.data.arrays import Options
from expreg.errors import InputError, Problem

Points = tuple[Any, Any]  # X (n, d) and the labels that come with it (n,) or None

MAX_SAMPLES = 2**16  # an n x n Gram matrix of doubles is then 32 GiB
# How many images of 0, 1, ..., 9 scikit-learn bundles.
DIGITS_AVAILABLE = (178, 182, 177, 183, 181, 182, 181, 179, 174, 180)

Samples = Annotated[int, Number(integer=True, least=1, most=MAX_SAMPLES)]
Label = Annotated[str, Text(least=1, most=256)]


class DataKind(NamedTuple):
    """One kind of data: its keys with their rules, and `make(settings, key)`: X (n, d) and y (n,) or None.

    `traced`: whether `make` is all JAX, so that many data sets can be drawn at once (`jax.vmap`).
    """

    name: str
    schema: type[Block]
    make: Callable[[Options, Any], Points]
    traced: bool = False


class LabelKind(NamedTuple):
    """One kind of labels: its keys with their rules, and `make(settings, key, X, y)`, y what came with the data.

    `traced`: whether `make` is all JAX, as for data.
    """

    name: str
    schema: type[Block]
    make: Callable[[Options, Any, Any, Any], Any]
    traced: bool = False


@cache
def _compiled(name: str, *static: int) -> Callable[..., Any]:
    """Return a generator, compiled once per (n, d): a sweep draws thousands of data sets of the same shape."""
    import jax

    from expreg.data import generators

    return jax.jit(getattr(generators, name), static_argnums=static)


def _drawn(name: str, *static: str, traced: tuple[str, ...] = ()) -> Callable[[Options, Any], Points]:
    """Return the `make` of a generator whose arguments are these keys, of which the static ones come first."""

    def make(options: Options, key: Any) -> Points:
        draw = _compiled(name, *range(1, 1 + len(static)))
        return draw(key, *(options[argument] for argument in static + traced)), None

    return make


# --- labels ---------------------------------------------------------------------------------------


class SignLabels(Block):
    """Independent random signs."""

    kind: Literal["sign"] = "sign"


def _sign(_: Options, key: Any, X: Any, __: Any) -> Any:
    return _compiled("sign", 1)(key, X.shape[0])


class TeacherLabels(Block):
    """The outputs of a narrow exponential network, divided by the largest."""

    kind: Literal["teacher"] = "teacher"
    m: Natural = key(4, "width of the teacher")
    scale: Positive = key(1.0, "factor of the teacher's pre-activations: larger is less linear")


def _teacher(options: Options, key: Any, X: Any, _: Any) -> Any:
    return _compiled("teacher", 2)(key, X, options["m"], options["scale"])


class GivenLabels(Block):
    """The labels that come with the data."""

    kind: Literal["given"] = "given"


def _given(_: Options, __: Any, ___: Any, y: Any) -> Any:
    if y is None:
        message = "the data has no labels; expected kind sign or teacher, or a file with y"
        raise InputError(Problem("E-DATA", message, key="data.labels"))
    return y


LABELS: dict[str, LabelKind] = {
    kind.name: kind
    for kind in (
        LabelKind("sign", SignLabels, _sign, traced=True),
        LabelKind("teacher", TeacherLabels, _teacher, traced=True),
        LabelKind("given", GivenLabels, _given),
    )
}


Labels = Annotated[Any, OneOf(models=lambda: [kind.schema for kind in LABELS.values()])]


# --- data -----------------------------------------------------------------------------------------


class _Data(Block):
    labels: Labels = key({}, "where y comes from")
    allow_duplicates: Boolean = key(False, "accept points whose Gram matrix is singular")

    def rules(self, precision: str) -> Iterator[Fault]:  # noqa: ARG002
        fields = type(self).model_fields
        if self.labels.kind == "given" and not fields["labels"].default:
            message = f"got 'given', but {fields['kind'].default} data bring no labels; expected sign or teacher"
            yield Fault(("labels", "kind"), "E-ENUM", message)


class Drawn(_Data):
    """Points drawn at random: n of them, in d dimensions."""

    n: Samples = key("n", "number of samples")
    d: Natural = key("n", "dimension of a sample")


class Sphere(Drawn):
    """Independent uniform points on the unit sphere."""

    kind: Literal["sphere"] = "sphere"

    def rules(self, precision: str) -> Iterator[Fault]:
        """On a line there are two points only."""
        yield from super().rules(precision)
        if self.d == 1 and self.n > 2 and not self.allow_duplicates:
            message = f"got 1: of n = {self.n} points on a line of length 1 some are equal, so lambda is 0"
            yield Fault(("d",), "E-RANGE", f"{message}; expected d >= 2, or set allow_duplicates: true to study it")


class Orthonormal(Drawn):
    """Orthonormal rows; needs d >= n."""

    kind: Literal["orthonormal"] = "orthonormal"

    def rules(self, precision: str) -> Iterator[Fault]:
        """There are at most d orthonormal rows."""
        yield from super().rules(precision)
        if self.d < self.n:
            yield Fault(("d",), "E-RANGE", f"got {self.d}, orthonormal data need d >= n = {self.n}")


class Equiangular(Drawn):
    """Unit vectors with one inner product between all pairs; d = n."""

    kind: Literal["equiangular"] = "equiangular"
    coherence: Annotated[float, Number(above=-1, below=1)] = key(
        0.5, "inner product of two different samples, in (-1/(n-1), 1)"
    )

    def rules(self, precision: str) -> Iterator[Fault]:
        """At -1/(n-1) the points are linearly dependent, below there are none."""
        yield from super().rules(precision)
        if self.d != self.n:
            yield Fault(("d",), "E-RANGE", f"got {self.d}, equiangular data have d = n = {self.n}")
        if self.n > 1 and self.coherence <= (least := -1 / (self.n - 1)):
            message = f"got {self.coherence}, expected a number > -1/(n-1) = {least:.6g} and < 1"
            yield Fault(("coherence",), "E-RANGE", message)


class NearDuplicate(Drawn):
    """n/2 pairs of points at a small angle."""

    kind: Literal["near_duplicate"] = "near_duplicate"
    angle: Annotated[float, Number(above=0, below=3.141592653589793)] = key(
        0.1, "angle between the points of a pair, in radians"
    )

    def rules(self, precision: str) -> Iterator[Fault]:
        """Points come in pairs, and a pair needs an angle."""
        yield from super().rules(precision)
        if self.n % 2:
            message = f"got {self.n}, near_duplicate data come in pairs: expected an even number"
            yield Fault(("n",), "E-RANGE", message)
        if self.d == 1:
            yield Fault(("d",), "E-RANGE", "got 1, an angle needs d >= 2")


def _two_classes(value: list[int]) -> list[int]:
    if len(value) != 2:
        raise fault("E-RANGE", f"got {len(value)} classes, expected two different digits")
    if value[0] == value[1]:
        raise fault("E-DUP", f"{value[1]} already at index 0", 1)
    return value


class Digits(_Data):
    """Two classes of the handwritten digits bundled with scikit-learn, rows normalised, d = 64."""

    kind: Literal["digits"] = "digits"
    n: Samples = key("n", "number of samples")
    classes: Annotated[
        list[Annotated[int, Number(integer=True, least=0, most=9, expression=False)]],
        AfterValidator(_two_classes),
    ] = key([3, 8], "the digit labelled +1 and the digit labelled -1")
    centre: Boolean = key(False, "subtract the mean image before the rows are normalised")
    labels: Labels = key({"kind": "given"}, "where y comes from")

    @classmethod
    def implied(cls, given: Options) -> dict[str, Any]:  # noqa: ARG003
        """Return the dimension of the images."""
        return {"d": 64}

    def rules(self, precision: str) -> Iterator[Fault]:
        """No more images of a class than there are; the first has one more where n is odd."""
        yield from super().rules(precision)
        first, second = (DIGITS_AVAILABLE[digit] for digit in self.classes)
        if self.n > (most := min(2 * first, 2 * second + 1)):
            message = f"got {self.n}, expected at most {most}: the classes have {first} and {second} images"
            yield Fault(("n",), "E-RANGE", message)


def _digits(options: Options, key: Any) -> Points:
    from expreg.data.generators import digits

    return digits(key, options["n"], classes=options["classes"], centre=options["centre"])


class File(_Data):
    """Arrays X (n, d) and y (n,) of a .npy, .npz, .csv or .parquet file: all rows, or n drawn for each replicate."""

    files: ClassVar[tuple[str, ...]] = ("path",)

    kind: Literal["file"] = "file"
    path: Annotated[str, FilePath()] = key(..., "any local file, relative to the file in which it stands")
    target: Annotated[str | None, Text(least=1, most=256, null=True)] = key(None, "column of y in a table")
    features: list[Label] | None = key(None, "columns of X in a table, all others if absent")
    header: Boolean = key(True, "whether a .csv begins with a row of names; if not, columns are named 1, 2, ...")
    normalise: Boolean = key(False, "divide every row by its norm")
    n: Annotated[int | None, Number(integer=True, least=1, most=MAX_SAMPLES, null=True)] = key(
        None, "rows to draw for each replicate, each at most once; all rows if absent"
    )
    labels: Labels = key({"kind": "given"}, "where y comes from")

    @model_serializer(mode="wrap")
    def _without_absent(self, serialise: Any) -> dict[str, Any]:
        """Leave out an n that follows from the file, and what was always so: names of cells depend on the rest."""
        found: dict[str, Any] = serialise(self)
        return {name: value for name, value in found.items() if (name, value) not in (("n", None), ("header", True))}

    def rules(self, precision: str) -> Iterator[Fault]:
        """Draw at most the rows that there are."""
        from expreg.data.files import data_shape

        yield from super().rules(precision)
        if self.n is not None and self.n > (rows := data_shape(self.path, self.model_dump())[0]):
            yield Fault(("n",), "E-RANGE", f"got {self.n}, the file has {rows} rows")

    @classmethod
    def implied(cls, given: Options) -> dict[str, Any]:
        """Return the shape of the points in the file."""
        from expreg.data.files import data_shape

        n, d = data_shape(given["path"], given)
        return {"n": n, "d": d}


def _file(options: Options, key: Any) -> Points:
    from expreg.data.files import read_file
    from expreg.data.generators import chosen

    X, y = read_file(options)
    if options.get("n") in (None, len(X)):
        return X, y
    rows = chosen(key, options["n"], len(X))
    return X[rows], None if y is None else y[rows]


DATA: dict[str, DataKind] = {
    kind.name: kind
    for kind in (
        DataKind("sphere", Sphere, _drawn("sphere", "n", "d"), traced=True),
        DataKind("orthonormal", Orthonormal, _drawn("orthonormal", "n", "d"), traced=True),
        DataKind("equiangular", Equiangular, _drawn("equiangular", "n", traced=("coherence",)), traced=True),
        DataKind("near_duplicate", NearDuplicate, _drawn("near_duplicate", "n", "d", traced=("angle",)), traced=True),
        DataKind("digits", Digits, _digits),
        DataKind("file", File, _file),
    )
}


# --- a data set -----------------------------------------------------------------------------------


def make(options: Options, key_points: Any, key_labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the data set (X, y) of the `data` settings, (n, d) and (n,), float64 on the host.

    A pure function of settings and keys, the same on every machine: drawn on the CPU in float64 whatever the
    precision of the run. The two keys must be independent of each other and of those of the network (A.14).
    Labels default to `given` for digits and files, to `sign` otherwise. Raises InputError for settings that
    contradict each other; call `validate` for what may be wrong with the arrays.
    """
    (found,) = draw(options, [key_points], [key_labels])
    return found


def draw(options: Options, keys_points: Any, keys_labels: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return one data set for each pair of keys, as `make` does; at once where their kinds are all JAX.

    The numbers of a data set may differ in the last bit with the number of keys.
    """
    import jax
    import jax.numpy as jnp

    from expreg.core.engine.devices import host

    settings = _checked(options)
    kind, labels = DATA[settings["kind"]], LABELS[settings["labels"]["kind"]]

    def one(points: Any, signs: Any) -> Points:
        X, y = kind.make(settings, points)
        return X, labels.make(settings["labels"], signs, X, y)

    with jax.enable_x64(True), jax.default_device(host()):
        stacks = [k if isinstance(k, jax.Array) else jnp.stack(k) for k in (keys_points, keys_labels)]
        keys = jax.device_put(stacks, host())
        all_at_once = kind.traced and labels.traced
        found = map(np.asarray, jax.vmap(one)(*keys)) if all_at_once else zip(*map(one, *keys), strict=True)
        return [(np.asarray(X, np.float64), np.asarray(y, np.float64)) for X, y in zip(*found, strict=True)]


def together(options: Options) -> bool:
    """Return whether many data sets of these settings are drawn at once."""
    return DATA[options["kind"]].traced and LABELS[options["labels"]["kind"]].traced


def _checked(options: Options) -> dict[str, Any]:
    """Return `data` settings with their defaults; raise InputError with everything that is wrong with them."""
    try:
        schema = OneOf(models=lambda: [kind.schema for kind in DATA.values()]).choose(options)
        given = {key: value for key, value in options.items() if key in schema.model_fields}
        found, faults = check(schema, given, {"names": options, "precision": "f64"}, ("data",))
    except PydanticCustomError as error:
        faults = [carried(error).below(("data",))]
    if faults:
        raise InputError([Problem(found.code, found.message, key=show_path(found.path)) for found in faults])
    return {**options, **found.model_dump()}


def check_record(record: DataKind | LabelKind) -> Iterator[str]:
    """Yield what is wrong with a record: a schema without its name, or arrays of another shape than announced."""
    field = record.schema.model_fields.get("kind")
    if field is None or field.default != record.name:
        yield f"{record.name!r}: expected a schema whose key `kind` has the default {record.name!r}"
        return
    if isinstance(record, LabelKind) or record.schema.files:
        return
    import jax

    names = {"n": 4, "d": 4}
    found, faults = check(record.schema, {"kind": record.name}, {"names": names, "precision": "f64"})
    if faults:
        return  # it needs keys that have no default
    X, y = record.make({**names, **found.model_dump()}, jax.random.key(0))
    if np.ndim(X) != 2 or (y is not None and np.shape(y) != np.shape(X)[:1]):
        shapes = f"{np.shape(X)} and {np.shape(y)}"
        yield f"{record.name!r}: make returned shapes {shapes}, expected (n, d) and (n,), or None for no labels"

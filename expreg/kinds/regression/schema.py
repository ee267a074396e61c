"""The config of `regression`: a problem drawn, packaged or of the user's own files, and its solver (E.2-E.44)."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np

from expreg import basin, residual
from expreg.core.config.fields import (
    EPSILON,
    FLOAT,
    Block,
    Choice,
    Fault,
    FilePath,
    Natural,
    NotNegative,
    Number,
    OneOf,
    Positive,
    Steps,
    below_precision,
    key,
)
from expreg.core.config.model import Config, Curve
from expreg.data.heads import HEADS, Head, OwnHead
from expreg.solver.records import SKETCHES, names, with_sketch

MAX_ROWS = 2**30
LARGEST_RADIUS = {"f32": 6.5, "f64": 18.0}


class _Problem(Block):
    loss: Annotated[str, Choice(options=lambda: residual.LOSSES)] = key(
        "softmax",
        "exponential: 1/2||u-b||^2; rescaled: 1/2||u-<u,1>b||^2; softmax: 1/2||u/<u,1>-b||^2; "
        "projective: 1/2||u-<u,1>b||^2/||u||^2",
    )
    activation: Annotated[str, Choice(options=residual.activations)] = key("exp", "u = phi(A x), entrywise")
    weight: Annotated[float | str, Number(least=0)] = key(0.0, "w of the regulariser 1/2||w A x||^2")
    start: Annotated[str, Choice(options=("random", "near", "zero"))] = key(
        "random", "x0: normal, beside the planted x, or 0"
    )
    distance: Positive = key(0.1, "standard deviation of A x0 (start random), ||A(x0-x)||/||Ax|| (start near)")

    def rules(self, precision: str) -> Iterator[Fault]:  # noqa: ARG002
        """No start at a stationary point."""
        why = {"cosh": "x = 0 is stationary for cosh (E.39)", "sinh": "x = 0 solves the problem of sinh (E.38)"}
        if self.start == "zero" and self.activation in why:
            yield Fault(("start",), "E-RANGE", f"got 'zero', but {why[self.activation]}; use random")


class _Drawn(_Problem):
    n: Annotated[int, Number(integer=True, least=1, most=MAX_ROWS)] = key("n", "number of rows of A")
    d: Natural = key("d", "number of columns of A")
    noise: NotNegative = key(0.0, "relative noise of b; b still sums to 1 where u/<u,1> does")


class Gaussian(_Drawn):
    """Normal A, and b = u(A x)/<u(A x),1> of a planted x (exponential: b = u(A x)), with noise."""

    kind: Literal["gaussian"] = "gaussian"
    density: Annotated[float, Number(above=0, most=1)] = key(1.0, "share of entries of each row of A that are not 0")
    condition: Annotated[float, Number(least=1)] = key(1.0, "largest over smallest scale of the columns, geometric")
    coherence: Annotated[float, Number(least=0, most=1)] = key(0.0, "share of columns that one row of leverage 1 fixes")
    scale: Positive = key(1.0, "standard deviation of A x at the planted x")


class Bounded(_Drawn):
    """The setting of the theorem: normal A, ||A|| = R, b of an x with ||x|| = R, a start beside the minimiser x*."""

    kind: Literal["bounded"] = "bounded"
    radius: Positive = key(1.0, "R = ||A|| = ||x||, x planted")
    weight: Annotated[float | str, Number(least=0, words=tuple(basin.RULES))] = key(
        0.1, "w of the regulariser 1/2||w A x||^2; convex: the Hessian is at least I; closeness: 0.9 (B+W^2) <= W^2"
    )
    start: Annotated[str, Choice(options=("near",))] = key("near", "x0: beside the minimiser")
    distance: Positive = key(0.1, "||x0 - x*||")
    accuracy: Positive = key(1e-9, "eps: the run ends where ||x - x*|| <= eps, whatever the gradient")
    draw: Annotated[int, Number(integer=True, least=0, most=2**31 - 1)] = key(0, "number of the draw of the sketches")

    def rules(self, precision: str) -> Iterator[Fault]:
        """Ask for an accuracy within reach, logits whose squares are finite, and weights that exist."""
        yield from super().rules(precision)
        if self.n < self.d:
            yield Fault(("n",), "E-RANGE", f"got {self.n} rows for d = {self.d} columns: the minimiser is not unique")
        least, largest = 32 * EPSILON[precision] * self.radius, LARGEST_RADIUS[precision]
        if not least <= self.accuracy < self.distance:
            message = f"got {self.accuracy:g}, expected at least {least:.1e} in {precision} and less than the distance"
            yield Fault(("accuracy",), "E-RANGE", message)
        if self.radius > largest:
            message = f"got R = {self.radius:g}: e^(2 R^2) overflows {FLOAT[precision]}, expected at most {largest:g}"
            yield Fault(("radius",), "E-RANGE", message)
        elif self.weight in basin.RULES:
            try:
                basin.RULES[str(self.weight)](np.eye(2), np.full(2, 0.5), 1.0, self.loss, self.activation)
            except ValueError as error:
                yield Fault(("weight",), "E-RANGE", f"got '{self.weight}', but {error}; use a number")


class Attention(Head, _Problem):
    """A: scaled keys of an attention head of a language model, b: the attention row of one of its queries."""

    kind: Literal["attention"] = "attention"

    def rules(self, precision: str) -> Iterator[Fault]:
        """Only some heads are bundled."""
        yield from super().rules(precision)
        if (self.layer, self.head) not in HEADS:
            message = f"got layer {self.layer}, head {self.head}; bundled are {', '.join(map(str, HEADS))}"
            yield Fault(("head",), "E-ENUM", message)


class AttentionFile(OwnHead, _Problem):
    """As attention, with a head of the user's own model."""

    kind: Literal["heads"] = "heads"

    def rules(self, precision: str) -> Iterator[Fault]:
        """Ask for what the file has, and for a start that is not stationary."""
        yield from OwnHead.rules(self, precision)
        yield from _Problem.rules(self, precision)


class MatrixFile(_Problem):
    """A and b of the user's own files; n and d, without empty columns of a sparse A, come from the first."""

    files: ClassVar[tuple[str, ...]] = ("path", "target_path")

    kind: Literal["file"] = "file"
    path: Annotated[str, FilePath()] = key(..., "A: .npy .npz .csv .parquet .mtx .svm, relative to this file")
    target_path: Annotated[str | None, FilePath(null=True)] = key(None, "b, where it does not stand in the file of A")

    @classmethod
    def implied(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the shape of the matrix in the file."""
        from expreg.data.problems import given as read

        n, d = read(given)[0].shape
        return {"n": int(n), "d": int(d)}

    def rules(self, precision: str) -> Iterator[Fault]:
        """Nothing is planted in a file."""
        yield from super().rules(precision)
        if self.start == "near":
            message = "got 'near', but a file has no planted x; use random or zero"
            yield Fault(("start",), "E-RANGE", message)


class Solver(Block):
    """How a regression problem is solved, and when the solver stops."""

    name: Annotated[str, Choice(options=names)] = key("auto", "auto chooses by loss, size and sparsity")
    sketch: Annotated[str, Choice(options=lambda: ["none", *SKETCHES])] = key(
        "none", "none: exact Hessians; else how their rows are sampled or combined"
    )
    sketch_size: Annotated[int | str, Number(integer=True, least=1, most=MAX_ROWS, words=("auto",))] = key(
        "auto", "rows of the sketch; auto follows from d (F.6)"
    )
    max_steps: Steps = key(200, "the budget")
    tolerance: Annotated[float | str, Number(above=0, words=("auto",))] = key(
        "auto", "bound of the stopping rule (F.14); auto: 1e-10 in f64, 1e-5 in f32"
    )
    curve: Curve = key({}, "at which steps the curve is stored")

    def rules(self, precision: str) -> Iterator[Fault]:
        """Ask for a tolerance that the precision can reach, and a sketch that is used."""
        if not isinstance(self.tolerance, str) and self.tolerance < 32 * EPSILON[precision]:
            yield Fault(("tolerance",), "E-RANGE", below_precision(self.tolerance, precision))
        if self.sketch != "none" and self.name not in with_sketch():
            message = f"got '{self.sketch}', but {self.name} has none; use {', '.join(with_sketch())}"
            yield Fault(("sketch",), "E-RANGE", message)
        if self.sketch == "none" and self.sketch_size != "auto":
            yield Fault(("sketch_size",), "E-RANGE", f"got {self.sketch_size}, but solver.sketch is none")


class RegressionConfig(Config):
    """The experiment that solves regression problems."""

    blocks: ClassVar[tuple[str, ...]] = ("problem", "solver")
    sizes: ClassVar[Mapping[str, tuple[str, str]]] = {"n": ("problem", "n"), "d": ("problem", "d")}

    problem: Annotated[Any, OneOf(models=(Gaussian, Attention, AttentionFile, MatrixFile, Bounded))] = key(
        {}, "A, b and the loss"
    )
    solver: Solver = key({}, "how it is solved, and when the solver stops")

"""The blocks `problem` and `solver` as pydantic models: regression on drawn, packaged or own matrices (E.2-E.44)."""

from typing import Annotated, Literal

from pydantic import Field

from expreg.core.config.fields import Block, Choice, Number, OneOf, Text
from expreg.core.config.schema import Curve, Natural, NotNegative, Positive, Steps

LOSSES = ("exponential", "softmax", "rescaled", "projective")
EXPONENTIALS = ("exp", "cosh", "sinh")
SOLVERS = ("auto", "newton", "gauss_newton", "gd", "lbfgs", "pcg")
SKETCHES = ("none", "leverage", "countsketch", "gaussian", "uniform")
ATTENTION_TOKENS = 276
ATTENTION_FEATURES = 32
# The bundled heads as (layer, head).
HEADS = ((0, 0), (0, 2), (0, 5), (2, 2), (2, 8), (2, 11), (5, 5), (5, 8))
MAX_ROWS = 2**30

Rows = Annotated[int | str, Number(integer=True, least=1, most=MAX_ROWS)]
Index = Annotated[int | str, Number(integer=True, least=0, most=11)]
Token = Annotated[int | str, Number(integer=True, least=0, most=ATTENTION_TOKENS - 1)]
FilePath = Annotated[str, Text(least=1, most=1024)]


class _Problem(Block):
    loss: Annotated[str, Choice(LOSSES)] = Field(
        default="softmax",
        description="exponential: 1/2||u-b||^2; rescaled: 1/2||u-<u,1>b||^2; softmax: 1/2||u/<u,1>-b||^2; "
        "projective: 1/2||u-<u,1>b||^2/||u||^2",
    )
    activation: Annotated[str, Choice(EXPONENTIALS)] = Field(default="exp", description="u = phi(A x), entrywise")
    weight: NotNegative = Field(default=0.0, description="w of the regulariser 1/2||w A x||^2")
    start: Annotated[str, Choice(("random", "near", "zero"))] = Field(
        default="random", description="x0: normal, beside the planted x, or 0"
    )
    distance: Positive = Field(
        default=0.1, description="standard deviation of A x0 (start random), ||A(x0-x)||/||Ax|| (start near)"
    )


class Gaussian(_Problem):
    """Normal A, and b = u(A x)/<u(A x),1> of a planted x (exponential: b = u(A x)), with noise."""

    kind: Literal["gaussian"] = "gaussian"
    n: Rows = Field(default="n", description="number of rows of A")
    d: Natural = Field(default="d", description="number of columns of A")
    density: Annotated[float | str, Number(above=0, most=1)] = Field(
        default=1.0, description="share of entries of A that are not 0, the same in every row"
    )
    condition: Annotated[float | str, Number(least=1)] = Field(
        default=1.0, description="largest over smallest scale of the columns of A, geometric between them"
    )
    coherence: Annotated[float | str, Number(least=0, most=1)] = Field(
        default=0.0, description="share of the columns that a single row determines: its leverage is 1"
    )
    scale: Positive = Field(default=1.0, description="standard deviation of A x at the planted x")
    noise: NotNegative = Field(default=0.0, description="relative noise of b; b still sums to 1 where u/<u,1> does")


class Attention(_Problem):
    """A: scaled keys of an attention head of a language model, b: the attention row of one of its queries."""

    kind: Literal["attention"] = "attention"
    layer: Index = Field(default=0, description="layer of the head, one of the eight that are bundled")
    head: Index = Field(default=0, description="head in its layer")
    token: Token = Field(default=0, description="position of the query")


class MatrixFile(_Problem):
    """A and b of the user's own files; n and d come from the first."""

    kind: Literal["file"] = "file"
    path: FilePath = Field(description="A: .npy .npz .csv .parquet .mtx .svm, relative to the file in which it stands")
    target_path: FilePath | None = Field(default=None, description="b, where it does not stand in the file of A")


RegressionProblem = Annotated[Block, OneOf("kind", (Gaussian, Attention, MatrixFile))]


class Solver(Block):
    """How a regression problem is solved, and when the solver stops."""

    name: Annotated[str, Choice(SOLVERS)] = Field(default="auto", description="auto chooses by loss, size and sparsity")
    sketch: Annotated[str, Choice(SKETCHES)] = Field(
        default="none", description="none: exact Hessians; else how their rows are sampled or combined"
    )
    sketch_size: Annotated[int | str, Number(integer=True, least=1, most=MAX_ROWS, words=("auto",))] = Field(
        default="auto", description="rows of the sketch; auto follows from d (F.6)"
    )
    max_steps: Steps = Field(default=200, description="the budget")
    tolerance: Annotated[float | str, Number(above=0, words=("auto",))] = Field(
        default="auto", description="bound of the stopping rule (F.14); auto: 1e-10 in f64, 1e-5 in f32"
    )
    curve: Curve = Field(default_factory=Curve, description="at which steps the curve is stored")


MOVES = ("gd", "newton", "data")
MAX_SIZES = 10_000

Context = Annotated[int | str, Number(integer=True, least=2, most=MAX_ROWS)]


class _Task(Block):
    activation: Annotated[str, Choice(EXPONENTIALS)] = Field(default="exp", description="u = phi(A x), entrywise")
    loss: Annotated[str, Choice(("rescaled", "softmax"))] = Field(
        default="rescaled", description="the loss on which a step of gd or newton descends"
    )
    noise: NotNegative = Field(default=0.1, description="standard deviation of log b around the planted target")
    move: Annotated[str, Choice(MOVES)] = Field(
        default="gd", description="what moves: x by gradient descent, x by Newton, or A by a normal matrix"
    )
    largest: Positive = Field(
        default=1.0,
        description="largest size of the move: times the safe step of gd, the full step of newton, ||A|| for data",
    )
    smallest: Annotated[float | str, Number(above=0, most=1)] = Field(
        default=1e-3, description="smallest size of the move, as a share of the largest"
    )
    sizes: Annotated[int | str, Number(integer=True, least=2, most=MAX_SIZES)] = Field(
        default=16, description="sizes of the move between the two, geometric; all are measured and stored"
    )
    tokens: Annotated[int | str, Number(integer=True, least=0, most=2**16)] = Field(
        default=0, description="tokens by which the context grows, one at a time; the curve is then over tokens"
    )


class DrawnContext(_Task):
    """Normal keys with ||A|| = ||x|| = radius, and the target of another x of that norm."""

    kind: Literal["gaussian"] = "gaussian"
    n: Context = Field(default="n", description="number of rows of A, the length of the context")
    d: Natural = Field(default="d", description="number of columns of A")
    radius: Positive = Field(default=1.0, description="the norm of A and of x")


class HeadContext(_Task):
    """The first n keys of an attention head of a language model and one of its queries."""

    kind: Literal["attention"] = "attention"
    n: Context = Field(default="n", description="length of the context at the start")
    layer: Index = Field(default=0, description="layer of the head, one of the eight that are bundled")
    head: Index = Field(default=0, description="head in its layer")
    token: Token = Field(default=0, description="position of the query")


InContextProblem = Annotated[Block, OneOf("kind", (DrawnContext, HeadContext))]

"""The config of `in_context`: a regression problem whose parameter or context moves (G.1-G.12)."""

import math
import os
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from expreg import residual
from expreg.core.config.fields import FLOAT, Block, Choice, Fault, Natural, NotNegative, Number, OneOf, Positive, key
from expreg.core.config.model import Config
from expreg.data.heads import HEADS, TOKENS, Head, OwnHead
from expreg.shift import LARGEST_LOGIT

Context = Annotated[int, Number(integer=True, least=2, most=2**30)]


class _Task(Block):
    activation: Annotated[str, Choice(options=residual.activations)] = key("exp", "u = phi(A x), entrywise")
    loss: Annotated[str, Choice(options=("rescaled", "softmax"))] = key(
        "rescaled", "what a step of gd or newton lowers"
    )
    noise: NotNegative = key(0.1, "standard deviation of log b around the planted target")
    move: Annotated[str, Choice(options=("gd", "newton", "data"))] = key(
        "gd", "what moves: x by gradient descent, x by Newton, or A by a normal matrix"
    )
    largest: Positive = key(1.0, "largest move: times the safe step of gd, the full step of newton, ||A|| for data")
    smallest: Annotated[float, Number(above=0, most=1)] = key(1e-3, "smallest move, as a share of the largest")
    sizes: Annotated[int, Number(integer=True, least=2, most=10_000)] = key(
        16, "sizes of the move between the two, geometric; all are measured and stored"
    )
    tokens: Annotated[int, Number(integer=True, least=0, most=2**16)] = key(
        0, "tokens by which the context grows, one at a time; the curve is then over tokens"
    )

    def rules(self, precision: str) -> Iterator[Fault]:  # noqa: ARG002
        """Refuse what sinh cannot do."""
        if self.activation == "sinh" and self.loss == "softmax":
            message = "got 'softmax', but with sinh it has no safe step (E.45); use rescaled"
            yield Fault(("loss",), "E-RANGE", message)
        if self.activation == "sinh" and self.tokens:
            message = f"got {self.tokens}, but alpha of sinh cancels in a part of a context; use 0"
            yield Fault(("tokens",), "E-RANGE", message)


class DrawnContext(_Task):
    """Normal keys with ||A|| = ||x|| = radius, and the target of another x of that norm."""

    kind: Literal["gaussian"] = "gaussian"
    n: Context = key("n", "number of rows of A, the length of the context")
    d: Natural = key("d", "number of columns of A")
    radius: Positive = key(1.0, "the norm of A and of x")

    def rules(self, precision: str) -> Iterator[Fault]:
        """Exponentials that do not overflow."""
        yield from super().rules(precision)
        if self.radius > (largest := math.sqrt(LARGEST_LOGIT[precision] / 2)):
            advice = "; use precision f64" if precision == "f32" else ""
            message = f"got R = {self.radius:g}: e^(2 R^2) overflows {FLOAT[precision]}, expected at most {largest:.4g}"
            yield Fault(("radius",), "E-RANGE", f"{message}{advice}")


class HeadContext(Head, _Task):
    """The first n keys of an attention head of a language model and one of its queries."""

    kind: Literal["attention"] = "attention"
    n: Context = key("n", "length of the context at the start")

    def rules(self, precision: str) -> Iterator[Fault]:
        """Bundled heads, and no more tokens than the text has."""
        yield from super().rules(precision)
        if (self.layer, self.head) not in HEADS:
            known = ", ".join(f"{layer}/{head}" for layer, head in HEADS)
            message = f"got layer {self.layer}, head {self.head}, expected one of {known}"
            yield Fault(("head",), "E-RANGE", message)
        if self.n + self.tokens > TOKENS:
            message = f"got {self.tokens} more than n = {self.n}, the text has {TOKENS} tokens"
            yield Fault(("tokens",), "E-RANGE", message)


class FileContext(OwnHead, _Task):
    """As attention, with a head of the user's own model."""

    kind: Literal["heads"] = "heads"
    n: Context = key("n", "length of the context at the start")

    def rules(self, precision: str) -> Iterator[Fault]:
        """Ask for what the file has, and for no more keys."""
        yield from _Task.rules(self, precision)
        yield from OwnHead.rules(self, precision)
        keys = OwnHead.implied({"path": self.path})["n"] if os.path.isfile(self.path) else math.inf
        if self.n + self.tokens > keys:
            message = f"got {self.tokens} more than n = {self.n}, the file has {keys} keys"
            yield Fault(("tokens",), "E-RANGE", message)


class InContextConfig(Config):
    """The experiment that compares a step of the weights with a shift of the labels."""

    blocks: ClassVar[tuple[str, ...]] = ("problem",)
    sizes: ClassVar[Mapping[str, tuple[str, str]]] = {"n": ("problem", "n"), "d": ("problem", "d")}

    problem: Annotated[Any, OneOf(models=(DrawnContext, HeadContext, FileContext))] = key({}, "A, b, x and what moves")

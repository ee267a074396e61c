"""The config of experiments with networks: every key, its rule, its default and one sentence for editors."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, create_model

from expreg.activation import ACTIVATIONS
from expreg.core.config.fields import (
    EPSILON,
    Block,
    Boolean,
    Choice,
    Either,
    Fault,
    NotNegative,
    Number,
    OneOf,
    Positive,
    Steps,
    below_precision,
    fault,
    key,
)
from expreg.core.config.model import Config, Curve
from expreg.data.kinds import DATA
from expreg.kinds.network.events import BUNDLED, EVENTS, at_start

LARGEST_TOLERANCE = 0.1  # of ||F - y||, not divided by ||y||

StepsOrZero = Annotated[int, Number(integer=True, least=0, most=10**9)]
Decay = Annotated[float, Number(least=0, below=1)]


def _in_order(value: list[str]) -> list[str]:
    for index, event in enumerate(value):
        if event in value[:index]:
            raise fault("E-DUP", f"{event} already at index {value.index(event)}", index)
    return [event for event in EVENTS if event in value]


def _not_listed(name: Any) -> str:
    """Return why a criterion on movement is no event to measure."""
    if "movement" not in str(name):
        return ""
    always = name in ("movement", "max_movement")
    return " (always measured; leave it out)" if always else " (measured with E2 or Ecert)"


# --- the network ----------------------------------------------------------------------------------


class Network(Block):
    """F(W, x) = scale * sum_r a_r phi(<w_r, x>), (A.1)."""

    m: Annotated[int, Number(integer=True, least=1, most=2**40)] = key("m", "width; even with coupled initialisation")
    activation: Annotated[str, Choice(options=lambda: ACTIVATIONS)] = key("exp", "phi")
    init: Annotated[str, Choice(options=("coupled", "iid"))] = key(
        "coupled", "coupled: equal neurons in pairs of opposite sign, F = 0 at the start"
    )
    scale: Positive = key(1.0, "kappa, the output scale")

    def rules(self, precision: str) -> Iterator[Fault]:  # noqa: ARG002
        """Coupled neurons come in pairs."""
        if self.init == "coupled" and self.m % 2:
            message = f"got {self.m}, init coupled pairs the neurons: expected an even number"
            yield Fault(("m",), "E-RANGE", message)


# --- optimizers, and schedules: a factor on the step size, 1 is the size that the rule gives -------


def _form(name: str, meaning: str, **parameters: Any) -> type[Block]:
    """Return the block of a form that is a name and its parameters, of which optax knows the rest."""
    fields: dict[str, Any] = {"name": (Literal[name], name), **parameters}
    title = name.title().replace("_", "")
    return create_model(title, __base__=Block, __doc__=meaning, __module__=__name__, **fields)


_MOMENTUM = (Decay, key(0.9, "share of the last update that is kept"))
_MEAN = (Decay, key(0.9, "decay of the mean of gradients"))
_SQUARES = (Decay, key(0.999, "decay of the mean of squares"))
_ROOT = (Positive, key(1e-8, "added to the root of the mean of squares"))

OPTIMIZERS = (
    _form("sgd", "Plain gradient descent (optax.sgd)."),
    _form("momentum", "Heavy ball (optax.sgd with momentum).", momentum=_MOMENTUM),
    _form("nesterov", "Nesterov momentum (optax.sgd with nesterov).", momentum=_MOMENTUM),
    _form("adam", "optax.adam.", b1=_MEAN, b2=_SQUARES, eps=_ROOT),
    _form(
        *("adamw", "optax.adamw."),
        b1=_MEAN,
        b2=_SQUARES,
        eps=_ROOT,
        weight_decay=(NotNegative, key(1e-4, "strength of the weight decay")),
    ),
    _form("rmsprop", "optax.rmsprop.", decay=(Decay, key(0.9, "decay of the mean of squares")), eps=_ROOT),
    _form("adagrad", "optax.adagrad.", eps=(Positive, key(1e-7, "added to the sum of squares"))),
    _form(
        *("lion", "optax.lion."),
        b1=(Decay, key(0.9, "weight of the momentum in the update")),
        b2=(Decay, key(0.99, "decay of the momentum")),
        weight_decay=(NotNegative, key(1e-3, "strength of the weight decay")),
    ),
)

_LAST = (NotNegative, key(0.0, "last factor"))
_BETWEEN = (Steps, key(..., "steps between the first and the last factor"))
_BEFORE = (StepsOrZero, key(0, "steps before the change begins"))
_COSINE = (Positive, key(1.0, "power of the cosine"))


class WarmupCosineDecay(Block):
    """From 0 to 1, then along a cosine to end_value (optax.warmup_cosine_decay_schedule)."""

    name: Literal["warmup_cosine_decay"] = "warmup_cosine_decay"
    warmup_steps: Steps = key(..., "steps until the factor is 1")
    decay_steps: Steps = key(..., "steps until the factor is end_value, the warm-up included")
    end_value: NotNegative = key(0.0, "last factor")
    exponent: Positive = key(1.0, "power of the cosine")

    def rules(self, precision: str) -> Iterator[Fault]:  # noqa: ARG002
        """Say that the warm-up ends before the decay does."""
        if self.decay_steps <= self.warmup_steps:
            message = f"got {self.decay_steps}, expected more than warmup_steps = {self.warmup_steps}"
            yield Fault(("decay_steps",), "E-RANGE", message)


SCHEDULES = (
    _form("constant", "1 at all steps (optax.constant_schedule)."),
    _form(
        *("linear", "From 1 to end_value (optax.linear_schedule)."),
        end_value=_LAST,
        transition_steps=_BETWEEN,
        transition_begin=_BEFORE,
    ),
    _form(
        *("polynomial", "From 1 to end_value as a power of the remaining share (optax.polynomial_schedule)."),
        end_value=_LAST,
        power=(Positive, key(1.0, "the power")),
        transition_steps=_BETWEEN,
        transition_begin=_BEFORE,
    ),
    _form(
        *("cosine_decay", "From 1 to alpha along a cosine (optax.cosine_decay_schedule)."),
        decay_steps=(Steps, key(..., "steps until the factor is alpha")),
        alpha=_LAST,
        exponent=_COSINE,
    ),
    _form(
        *("exponential_decay", "decay_rate^(step / transition_steps) (optax.exponential_decay)."),
        transition_steps=(Steps, key(..., "steps in which the factor falls by decay_rate")),
        decay_rate=(Positive, key(..., "factor per transition_steps")),
        transition_begin=_BEFORE,
        staircase=(Boolean, key(False, "change only at multiples of transition_steps")),
        end_value=(Annotated[float | None, Number(least=0, null=True)], key(None, "bound on the factor, none if null")),
    ),
    WarmupCosineDecay,
)


# --- training -------------------------------------------------------------------------------------


class StepSize(Block):
    """eta: a rule times a factor, or a fixed value."""

    rule: Annotated[str, Choice(options=("spectral", "spectral_cts", "theory", "fixed"))] = key(
        "spectral", "spectral: 1 / (m scale^2 max(lambda_max(H(0)), lambda_max(H_cts)))"
    )
    factor: Positive = key(1.0, "multiplies the rule")
    value: Annotated[float | None, Number(above=0, null=True)] = key(
        None, "eta itself; with rule fixed only, and required there"
    )
    schedule: Annotated[Any, OneOf(key="name", models=SCHEDULES, null=True)] = key(
        None, "how eta changes with the step; null keeps it"
    )

    def rules(self, precision: str) -> Iterator[Fault]:  # noqa: ARG002
        """Ask for the value of a fixed step size, the factor of any other."""
        if self.rule != "fixed":
            if self.value is not None:
                yield Fault(("value",), "E-RANGE", f"rule {self.rule} takes a factor; value is for rule fixed only")
            return
        if self.value is None:
            yield Fault(("value",), "E-MISSING", "required with rule fixed")
        if self.factor != 1.0:
            yield Fault(("factor",), "E-RANGE", f"got {self.factor}, rule fixed has no factor; set value")


class FlowTime(Block):
    """A budget in flow time: ceil(flow_time * 2 / (eta m scale^2 lambda) * log(||r_0|| / tolerance)) steps."""

    flow_time: Positive = key(2.0, "at 2 the budget is once the time that the linear rate of the proof needs (C.17)")
    at_most: Steps = key(1_000_000, "no cell makes more steps than this")


class Training(Block):
    """How a network is trained, and when training stops."""

    optimizer: Annotated[Any, OneOf(key="name", models=OPTIMIZERS)] = key(
        {}, "an optax transformation; its parameters stand beside the name"
    )
    step_size: StepSize = key({}, "eta")
    max_steps: Annotated[Any, Either(number=Number(integer=True, least=1, most=10**9), model=FlowTime)] = key(
        {}, "the budget: a number of steps, or {flow_time: 2.0}"
    )
    tolerance: NotNegative = key(0.05, "training ends when ||F - y|| is at most this; 0 trains for the whole budget")
    relative: Boolean = key(False, "divide ||F - y|| by ||y||")
    measure_every: Steps = key(
        64, "steps between two measurements of movement and spectrum (E2, E3); at 16 they cost 30 % of a run"
    )
    divergence: Annotated[float, Number(above=1)] = key(
        1e4, "a cell has diverged when ||F - y|| is this many times max(||r_0||, ||y||)"
    )
    curve: Curve = key({}, "at which steps the residual is stored")

    def rules(self, precision: str) -> Iterator[Fault]:
        """Refuse a tolerance that the precision cannot reach or of which the theorem says nothing."""
        tolerance, bound = self.tolerance, 32 * EPSILON[precision]
        if 0 < tolerance < bound:
            yield Fault(("tolerance",), "E-RANGE", below_precision(tolerance, precision))
        if tolerance > LARGEST_TOLERANCE and not self.relative:
            message = f"got {tolerance:g}, expected a number >= 0 and <= {LARGEST_TOLERANCE:g}: the theorem covers no"
            yield Fault(("tolerance",), "E-RANGE", f"{message} larger eps; or set relative: true")
        if tolerance == 0 and isinstance(self.max_steps, Block):
            message = "a budget in flow time is infinite with tolerance 0; expected a number of steps"
            yield Fault(("max_steps",), "E-RANGE", message)


# --- capacity -------------------------------------------------------------------------------------


class GaussNewton(Block):
    """Damped Gauss-Newton in function space: an n x n system per step."""

    name: Literal["gauss_newton"] = "gauss_newton"
    tolerance: Positive = key(1e-3, "a fit succeeds when ||F - y|| is at most this")
    relative: Boolean = key(False, "divide ||F - y|| by ||y||")
    patience: Steps = key(100, "a run has stalled when ||F - y|| falls by less than `progress` in this many steps")
    progress: Annotated[float, Number(above=0, below=1)] = key(0.01, "the share by which it has to fall")
    max_steps: Steps = key(1_000_000, "no cell makes more steps than this")

    def rules(self, precision: str) -> Iterator[Fault]:
        """Refuse a tolerance that the precision cannot reach."""
        if self.tolerance < 32 * EPSILON[precision]:
            yield Fault(("tolerance",), "E-RANGE", below_precision(self.tolerance, precision))


class GradientDescent(GaussNewton):
    """Gradient descent; the step size grows while ||F - y|| falls and is halved where it does not."""

    name: Literal["gd"] = "gd"  # type: ignore[assignment]
    patience: Steps = key(10_000, "a run has stalled when ||F - y|| falls by less than `progress` in this many steps")


# --- experiments ----------------------------------------------------------------------------------


class NetworkConfig(Config):
    """What all experiments with networks have in common."""

    blocks: ClassVar[tuple[str, ...]] = ("data", "network")
    sizes: ClassVar[Mapping[str, tuple[str, str]]] = {"n": ("data", "n"), "d": ("data", "d"), "m": ("network", "m")}

    data: Annotated[Any, OneOf(models=lambda: [kind.schema for kind in DATA.values()])] = key({}, "samples and labels")
    network: Network = key({}, "the network")


class TrainingConfig(NetworkConfig):
    """An experiment that trains networks."""

    blocks: ClassVar[tuple[str, ...]] = ("data", "network", "training")

    training: Training = key({}, "optimizer, step size and stopping rules")
    measure: Annotated[
        list[Annotated[str, Choice(options=lambda: EVENTS, why=_not_listed)]], AfterValidator(_in_order)
    ] = Field(default_factory=lambda: list(BUNDLED), description="events to record (C.27)")


class ConcentrationConfig(NetworkConfig):
    """The experiment that measures networks at their start, without training them."""

    measure: Annotated[list[Annotated[str, Choice(options=at_start)]], AfterValidator(_in_order)] = Field(
        default_factory=lambda: [name for name in at_start() if name in BUNDLED], description="events to record (C.27)"
    )


class CapacityConfig(NetworkConfig):
    """The experiment that asks at which width the data can be fitted at all, however long it takes."""

    blocks: ClassVar[tuple[str, ...]] = ("data", "network", "solver")

    precision: Annotated[str, Choice(options=("f32", "f64"))] = key("f64", "floating point numbers of a cell")
    solver: Annotated[Any, OneOf(key="name", models=(GaussNewton, GradientDescent))] = key(
        {}, "how the data are fitted, and when a run ends"
    )

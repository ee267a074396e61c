"""The blocks of a config as pydantic models: every key, its rule, its default and one sentence for editors.

Numbers may be expressions in swept names; they are checked here as far as they are numbers, and per cell in `plan`.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from expreg.core.config.fields import Block, Choice, Either, Flag, Number, OneOf, Text, fault

ACTIVATIONS = ("exp", "cosh", "sinh", "relu")
DIGITS_FEATURES = 64
MAX_SIZE = 2**24
MAX_SAMPLES = 2**16  # an n x n Gram matrix of doubles is then 32 GiB

Natural = Annotated[int | str, Number(integer=True, least=1, most=MAX_SIZE)]
Samples = Annotated[int | str, Number(integer=True, least=1, most=MAX_SAMPLES)]
Steps = Annotated[int | str, Number(integer=True, least=1, most=10**9)]
StepsOrZero = Annotated[int | str, Number(integer=True, least=0, most=10**9)]
Positive = Annotated[float | str, Number(above=0)]
NotNegative = Annotated[float | str, Number(least=0)]
Decay = Annotated[float | str, Number(least=0, below=1)]
Share = Annotated[float, Number(above=0, below=1, expression=False)]
CountOrAuto = Annotated[int | str, Number(integer=True, least=1, most=2**16, expression=False, words=("auto",))]
Boolean = Annotated[bool, Flag()]
Label = Annotated[str, Text(least=1, most=256)]


# --- data -----------------------------------------------------------------------------------------


class SignLabels(Block):
    """Independent random signs."""

    kind: Literal["sign"] = "sign"


class TeacherLabels(Block):
    """The outputs of a narrow exponential network, divided by the largest."""

    kind: Literal["teacher"] = "teacher"
    m: Natural = Field(default=4, description="width of the teacher")
    scale: Positive = Field(default=1.0, description="factor of the teacher's pre-activations: larger is less linear")


class GivenLabels(Block):
    """The labels that come with the data."""

    kind: Literal["given"] = "given"


Labels = Annotated[Block, OneOf("kind", (SignLabels, TeacherLabels, GivenLabels))]


class _Data(Block):
    labels: Labels = Field(default_factory=SignLabels, description="where y comes from")
    allow_duplicates: Boolean = Field(default=False, description="accept points whose Gram matrix is singular")


class _Drawn(_Data):
    n: Samples = Field(default="n", description="number of samples")
    d: Natural = Field(default="n", description="dimension of a sample")


class Sphere(_Drawn):
    """Independent uniform points on the unit sphere."""

    kind: Literal["sphere"] = "sphere"


class Orthonormal(_Drawn):
    """Orthonormal rows; needs d >= n."""

    kind: Literal["orthonormal"] = "orthonormal"


class Equiangular(_Drawn):
    """Unit vectors with one inner product between all pairs; d = n."""

    kind: Literal["equiangular"] = "equiangular"
    coherence: Annotated[float | str, Number(above=-1, below=1)] = Field(
        default=0.5, description="inner product of two different samples, in (-1/(n-1), 1)"
    )


class NearDuplicate(_Drawn):
    """n/2 pairs of points at a small angle."""

    kind: Literal["near_duplicate"] = "near_duplicate"
    angle: Annotated[float | str, Number(above=0, below=3.141592653589793)] = Field(
        default=0.1, description="angle between the points of a pair, in radians"
    )


def _two_classes(value: list[int]) -> list[int]:
    if len(value) != 2:
        raise fault("E-RANGE", f"got {len(value)} classes, expected two different digits")
    if value[0] == value[1]:
        raise fault("E-DUP", f"{value[1]} already at index 0", 1)
    return value


class Digits(_Data):
    """Two classes of the handwritten digits bundled with scikit-learn, rows normalised, d = 64."""

    kind: Literal["digits"] = "digits"
    n: Samples = Field(default="n", description="number of samples")
    classes: Annotated[
        list[Annotated[int, Number(integer=True, least=0, most=9, expression=False)]],
        AfterValidator(_two_classes),
    ] = Field(default_factory=lambda: [3, 8], description="the digit labelled +1 and the digit labelled -1")
    centre: Boolean = Field(default=False, description="subtract the mean image before the rows are normalised")
    labels: Labels = Field(default_factory=GivenLabels, description="where y comes from")


class File(_Data):
    """Arrays X (n, d) and y (n,) of a .npy, .npz, .csv or .parquet file; n and d come from the file."""

    kind: Literal["file"] = "file"
    path: Annotated[str, Text(least=1, most=1024)] = Field(description="path relative to the file in which it stands")
    target: Label | None = Field(default=None, description="column of y in a table")
    features: list[Label] | None = Field(default=None, description="columns of X in a table, all others if absent")
    normalise: Boolean = Field(default=False, description="divide every row by its norm")
    labels: Labels = Field(default_factory=GivenLabels, description="where y comes from")


Data = Annotated[Block, OneOf("kind", (Sphere, Orthonormal, Equiangular, NearDuplicate, Digits, File))]


# --- network and training -------------------------------------------------------------------------


class Network(Block):
    """F(W, x) = scale * sum_r a_r phi(<w_r, x>), (A.1)."""

    m: Natural = Field(default="m", description="width; even with coupled initialisation")
    activation: Annotated[str, Choice(ACTIVATIONS)] = Field(default="exp", description="phi")
    init: Annotated[str, Choice(("coupled", "iid"))] = Field(
        default="coupled", description="coupled: equal neurons in pairs of opposite sign, F = 0 at the start"
    )
    scale: Positive = Field(default=1.0, description="kappa, the output scale")


class Sgd(Block):
    """Plain gradient descent (optax.sgd)."""

    name: Literal["sgd"] = "sgd"


class Momentum(Block):
    """Heavy ball (optax.sgd with momentum)."""

    name: Literal["momentum"] = "momentum"
    momentum: Decay = Field(default=0.9, description="share of the last update that is kept")


class Nesterov(Block):
    """Nesterov momentum (optax.sgd with nesterov)."""

    name: Literal["nesterov"] = "nesterov"
    momentum: Decay = Field(default=0.9, description="share of the last update that is kept")


class Adam(Block):
    """optax.adam."""

    name: Literal["adam"] = "adam"
    b1: Decay = Field(default=0.9, description="decay of the mean of gradients")
    b2: Decay = Field(default=0.999, description="decay of the mean of squares")
    eps: Positive = Field(default=1e-8, description="added to the root of the mean of squares")


class AdamW(Block):
    """optax.adamw."""

    name: Literal["adamw"] = "adamw"
    b1: Decay = Field(default=0.9, description="decay of the mean of gradients")
    b2: Decay = Field(default=0.999, description="decay of the mean of squares")
    eps: Positive = Field(default=1e-8, description="added to the root of the mean of squares")
    weight_decay: NotNegative = Field(default=1e-4, description="strength of the weight decay")


class RmsProp(Block):
    """optax.rmsprop."""

    name: Literal["rmsprop"] = "rmsprop"
    decay: Decay = Field(default=0.9, description="decay of the mean of squares")
    eps: Positive = Field(default=1e-8, description="added to the root of the mean of squares")


class AdaGrad(Block):
    """optax.adagrad."""

    name: Literal["adagrad"] = "adagrad"
    eps: Positive = Field(default=1e-7, description="added to the sum of squares")


class Lion(Block):
    """optax.lion."""

    name: Literal["lion"] = "lion"
    b1: Decay = Field(default=0.9, description="weight of the momentum in the update")
    b2: Decay = Field(default=0.99, description="decay of the momentum")
    weight_decay: NotNegative = Field(default=1e-3, description="strength of the weight decay")


OPTIMIZERS = (Sgd, Momentum, Nesterov, Adam, AdamW, RmsProp, AdaGrad, Lion)


class _Schedule(Block):
    """A factor on the step size: 1 is the size that the rule gives. Parameters are those of optax."""


class Constant(_Schedule):
    """1 at all steps (optax.constant_schedule)."""

    name: Literal["constant"] = "constant"


class Linear(_Schedule):
    """From 1 to end_value (optax.linear_schedule)."""

    name: Literal["linear"] = "linear"
    end_value: NotNegative = Field(default=0.0, description="last factor")
    transition_steps: Steps = Field(description="steps between the first and the last factor")
    transition_begin: StepsOrZero = Field(default=0, description="steps before the change begins")


class Polynomial(_Schedule):
    """From 1 to end_value as a power of the remaining share (optax.polynomial_schedule)."""

    name: Literal["polynomial"] = "polynomial"
    end_value: NotNegative = Field(default=0.0, description="last factor")
    power: Positive = Field(default=1.0, description="the power")
    transition_steps: Steps = Field(description="steps between the first and the last factor")
    transition_begin: StepsOrZero = Field(default=0, description="steps before the change begins")


class CosineDecay(_Schedule):
    """From 1 to alpha along a cosine (optax.cosine_decay_schedule)."""

    name: Literal["cosine_decay"] = "cosine_decay"
    decay_steps: Steps = Field(description="steps until the factor is alpha")
    alpha: NotNegative = Field(default=0.0, description="last factor")
    exponent: Positive = Field(default=1.0, description="power of the cosine")


class ExponentialDecay(_Schedule):
    """decay_rate^(step / transition_steps) (optax.exponential_decay)."""

    name: Literal["exponential_decay"] = "exponential_decay"
    transition_steps: Steps = Field(description="steps in which the factor falls by decay_rate")
    decay_rate: Positive = Field(description="factor per transition_steps")
    transition_begin: StepsOrZero = Field(default=0, description="steps before the change begins")
    staircase: Boolean = Field(default=False, description="change only at multiples of transition_steps")
    end_value: NotNegative | None = Field(default=None, description="bound on the factor, none if null")


class WarmupCosineDecay(_Schedule):
    """From 0 to 1, then along a cosine to end_value (optax.warmup_cosine_decay_schedule)."""

    name: Literal["warmup_cosine_decay"] = "warmup_cosine_decay"
    warmup_steps: Steps = Field(description="steps until the factor is 1")
    decay_steps: Steps = Field(description="steps until the factor is end_value, the warm-up included")
    end_value: NotNegative = Field(default=0.0, description="last factor")
    exponent: Positive = Field(default=1.0, description="power of the cosine")


SCHEDULES = (Constant, Linear, Polynomial, CosineDecay, ExponentialDecay, WarmupCosineDecay)


class StepSize(Block):
    """eta: a rule times a factor, or a fixed value."""

    rule: Annotated[str, Choice(("spectral", "spectral_cts", "theory", "fixed"))] = Field(
        default="spectral", description="spectral: 1 / (m scale^2 max(lambda_max(H(0)), lambda_max(H_cts)))"
    )
    factor: Positive = Field(default=1.0, description="multiplies the rule")
    value: Positive | None = Field(default=None, description="eta itself; with rule fixed only, and required there")
    schedule: Annotated[Block, OneOf("name", SCHEDULES)] | None = Field(
        default=None, description="how eta changes with the step; null keeps it"
    )


class FlowTime(Block):
    """A budget in flow time: ceil(flow_time * 2 / (eta m scale^2 lambda) * log(||r_0|| / tolerance)) steps."""

    flow_time: Positive = Field(default=2.0, description="multiple of the time the linear rate needs")
    at_most: Steps = Field(default=1_000_000, description="no cell makes more steps than this")


class Curve(Block):
    """At which steps the residual is stored."""

    points: Annotated[int | str, Number(integer=True, least=2, most=10_000)] = Field(
        default=48, description="number of stored steps"
    )
    spacing: Annotated[str, Choice(("logarithmic", "regular"))] = Field(
        default="logarithmic", description="how they lie"
    )


class Training(Block):
    """How a network is trained, and when training stops."""

    optimizer: Annotated[Block, OneOf("name", OPTIMIZERS)] = Field(
        default_factory=Sgd, description="an optax transformation; its parameters stand beside the name"
    )
    step_size: StepSize = Field(default_factory=StepSize, description="eta")
    max_steps: Annotated[int | str | Block, Either(Number(integer=True, least=1, most=10**9), FlowTime)] = Field(
        default_factory=FlowTime, description="the budget: a number of steps, or {flow_time: 2.0}"
    )
    tolerance: Positive = Field(default=0.05, description="training ends when ||F - y|| is at most this")
    relative: Boolean = Field(default=False, description="divide ||F - y|| by ||y||")
    measure_every: Steps = Field(
        default=64,
        description="steps between two measurements of movement and spectrum (E2, E3); at 16 they cost 30 % of a run",
    )
    divergence: Annotated[float | str, Number(above=1)] = Field(
        default=1e4,
        description="a cell has diverged when ||F - y|| is this many times max(||r_0||, ||y||)",
    )
    curve: Curve = Field(default_factory=Curve, description="at which steps the residual is stored")


class Analysis(Block):
    """How rows become thresholds and intervals."""

    delta: Share = Field(default=0.1, description="allowed share of failures at the threshold width")
    confidence: Share = Field(default=0.95, description="level of the intervals")
    resamples: Annotated[int, Number(integer=True, least=1, most=10**6, expression=False)] = Field(
        default=1000, description="bootstrap resamples"
    )
    half_width: Annotated[float, Number(above=0, most=10, expression=False)] = Field(
        default=0.1,
        description="wanted half-width of the interval of an exponent; plan says how many replicates it needs",
    )


class Execution(Block):
    """Where and in what portions cells run; changes no number."""

    engine: Annotated[str, Choice(("local",), later=("ray", "slurm"))] = Field(
        default="local", description="who runs cells"
    )
    lanes: CountOrAuto = Field(default="auto", description="cells that run at the same time in one program")
    shard: Annotated[str, Choice(("cells",), later=("neurons",))] = Field(
        default="cells", description="what devices share"
    )
    max_cells: Annotated[int, Number(integer=True, least=1, most=10**7, expression=False)] = Field(
        default=1_000_000, description="larger grids are refused"
    )
    devices: CountOrAuto = Field(default="auto", description="local devices to use")
    slice_seconds: Annotated[float, Number(above=0, most=3600, expression=False)] = Field(
        default=0.25, description="aimed time between two looks at the lanes"
    )

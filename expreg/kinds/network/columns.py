"""The columns of the rows of network experiments, each declared once."""

from expreg.kinds.network.events import EVENTS, at_start
from expreg.types import Column

INNER = ("n", "data.n", "m", "network.m")
"""The axes of thresholds, under both names that a config may give them."""


def training() -> list[Column]:
    """Return the columns of `threshold` and `convergence`."""
    carried = [event.column for event in EVENTS.values() if event.column is not None]
    return [*_NETWORK, *_TRAINING, *carried, *_events(list(EVENTS))]


def concentration() -> list[Column]:
    """Return the columns of `concentration`."""
    return [*_NETWORK, *_events(at_start())]


def capacity() -> list[Column]:
    """Return the columns of `capacity`."""
    return [*_NETWORK, *_CAPACITY]


def curves() -> list[Column]:
    """Return the columns of a curve; empty where nothing is trained."""
    return list(_CURVES)


def _events(names: list[str]) -> list[Column]:
    """Return three columns for each event (C.27), null where it means nothing or was not measured."""
    return [
        column
        for name in names
        for column in (
            Column(name, "bool", f"whether {EVENTS[name].title} (C.27)"),
            Column(f"{name}_step", "int64", f"the first step at which {name} is violated; null where it holds"),
            Column(f"{name}_margin", "float64", f"allowed / measured in {name}: it holds where this is at least 1"),
        )
    ]


_NETWORK = (
    Column("n", "int64", "points"),
    Column("d", "int64", "dimensions of a point"),
    Column("m", "int64", "neurons"),
    Column("activation", "string", "phi, by its name"),
    Column("init", "string", "coupled (A.8) or iid (A.3) neurons at the start"),
    Column("scale", "float64", "output scale kappa (A.1)"),
    Column("data", "string", "kind of the points"),
    Column("labels", "string", "kind of the labels"),
    Column("lambda_cts", "float64", "smallest eigenvalue of the infinite-width Gram matrix H^cts (B.3)-(B.6)"),
    Column("lambda_max_cts", "float64", "largest eigenvalue of H^cts"),
    Column("lambda_0", "float64", "smallest eigenvalue of the Gram matrix at the start, H(0) (B.1)"),
    Column("lambda_max_0", "float64", "largest eigenvalue of H(0)"),
    Column("frobenius_error", "float64", "||H(0) - H^cts|| in the Frobenius norm"),
    Column("frobenius_expected", "float64", "root of the mean of frobenius_error^2 over draws (B.11), (B.12)"),
    Column("spectral_error", "float64", "||H(0) - H^cts|| in the spectral norm"),
    Column("gram_norm", "float64", "||X||^2, the largest eigenvalue of X X^T"),
    Column("label_norm", "float64", "||y||"),
    Column("radius", "float64", "R within which lambda_min(H) keeps lambda/2 (C.9)"),
    Column("radius_frobenius", "float64", "R_P, the radius of the Frobenius argument (C.10)"),
    Column("refined_movement", "float64", "largest ||w_r(t) - w_r(0)|| / R_r, in radii of the certificate (C.22)"),
    Column("movement_linearised", "float64", "largest movement of a neuron in linearised training to r = 0 (B.24)"),
    Column("lambda_certificate", "float64", "lambda of the certificate, 4/3 lambda_min(H(0)) (C.20)"),
    Column("eta_certified", "float64", "largest certified step size (C.25); 0 where nothing is certified"),
)
_TRAINING = (
    Column("optimizer", "string", "optax optimizer, by its name"),
    Column("step_rule", "string", "rule that chose the step size"),
    Column("schedule", "string", "how the step size changes with the step; null where it does not"),
    Column("max_steps", "int64", "budget of the run in steps"),
    Column("steps_linearised", "int64", "steps to the tolerance that H^cts predicts (B.26); null where it never is"),
    Column("eta", "float64", "step size"),
    Column("eta_scaled", "float64", "eta kappa^2 m (A.7)"),
    Column("tolerance", "float64", "||r|| at which training stops; 0 for the whole budget"),
    Column("residual_initial", "float64", "||r_0||"),
    Column("residual_final", "float64", "||r|| at the last step"),
    Column("max_movement", "float64", "largest ||w_r(t) - w_r(0)|| over neurons and measured steps"),
)
_CAPACITY = (
    Column("solver", "string", "gauss_newton or gd"),
    Column("tolerance", "float64", "||r|| at which a fit succeeds"),
    Column("residual_initial", "float64", "||r_0||"),
    Column("residual_final", "float64", "||r|| at the last step"),
    Column("fit", "bool", "whether ||r|| fell to the tolerance"),
)
_CURVES = (
    Column("step", "int64", "step"),
    Column("residual", "float64", "||r_t||"),
    Column("linearised", "float64", "||r_t|| of the infinite-width network (B.21); null where it is not known"),
)

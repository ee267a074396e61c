"""The columns and curves of `regression`."""

from expreg.types import Column

PROBLEM = {
    "density": ("float64", "share of the entries of A that are not 0"),
    "condition": ("float64", "largest over smallest scale of the columns of A"),
    "coherence": ("float64", "share of the columns of A that a single row determines"),
    "noise": ("float64", "relative noise of the target"),
    "scale": ("float64", "standard deviation of A x at the planted x"),
    "weight": ("float64", "w of the regulariser 1/2 ||w A x||^2 (E.3)"),
    "weight_rule": ("string", "the condition that w meets, convex or closeness, where it is not a number"),
    "start": ("string", "how x0 was chosen: random, near the planted x or the minimiser, or zero"),
    "distance": ("float64", "size of A x0, or its relative distance from the planted A x; bounded: ||x0 - x*||"),
    "radius": ("float64", "R = ||A|| = ||x||, x planted"),
    "accuracy": ("float64", "eps: the run ends where ||x - x*|| <= eps"),
    "draw": ("int64", "number of the draw of the sketches on the same problem"),
    "layer": ("int64", "layer of the attention head that A and b come from"),
    "head": ("int64", "attention head that A and b come from"),
    "token": ("int64", "token whose query gives the row of attention"),
}
"""Keys of `problem` that are columns under their own names."""
MEASURED = {
    "gradient_norm": "2-norm of the gradient at the end",
    "softmax_residual": "||u / alpha - b|| at the end",
    "projective_loss": "scale-free loss 1/2 ||u - alpha b||^2 / ||u||^2 at the end (E.44)",
    "alpha": "<u, 1> at the end",
    "max_logit": "largest |A x| at the end",
    "loss_rescaled": "1/2 ||u - alpha b||^2 at the end, whatever was minimised",
}
BASIN = {
    "weight_largest": "the largest w of the regulariser",
    "hessian_smallest": "l, the smallest eigenvalue of the Hessian at the minimiser x*",
    "hessian_least": "the smallest eigenvalue of the Hessian at x* and 16 random x with ||x|| = R",
    "hessian_change": "the largest ||H(x) - H(x*)|| / ||x - x*|| among these x",
    "hessian_lipschitz": "M, a bound of that for all ||x|| <= R (E.25)-(E.29)",
    "start_radius": "the largest distance r of a good start: M r <= 0.1 l, M where ||x - x*|| <= r",
    "start_radius_norms": "0.1 l / M with the M that knows only n, b and R",
    "shrinkage": "||x*|| / ||x planted||",
}
"""Of problems whose minimiser is known: how good a start must be, and what the regulariser leaves of the solution."""
CURVES = {
    "residual": "gradient relative to the terms that cancel in it, which the tolerance bounds (F.14)",
    "loss": "the minimised loss with its regulariser",
    "passes": "how often A has been read",
    "damping": "multiple of the identity added to the scaled matrix (F.13)",
    "error": "distance to the planted x or the minimiser in the norm of its Hessian (F.10)",
    "distance": "distance to the planted x or the minimiser in the 2-norm",
}


def columns() -> list[Column]:
    """Return the columns of a row."""
    return [
        Column("loss", "string", "the loss that was minimised"),
        Column("activation", "string", "phi of u = phi(A x)"),
        Column("solver", "string", "the solver as configured"),
        Column("sketch", "string", "how rows of the matrix were sampled or combined, none for an exact one"),
        Column("sketch_size", "int64", "rows of the sketch"),
        Column("data", "string", "kind of problem: gaussian, attention, heads or file"),
        Column("rows", "int64", "rows n of A"),
        Column("columns", "int64", "columns d of A"),
        Column("nnz", "int64", "entries of A that are not 0"),
        Column("max_steps", "int64", "the budget of steps"),
        Column("passes", "int64", "how often A was read"),
        Column("tolerance", "float64", "bound of the relative gradient at which a run has converged (F.14)"),
        *(Column(name, kind, meaning) for name, (kind, meaning) in PROBLEM.items()),
        Column("loss_value", "float64", "the minimised loss with its regulariser at the end"),
        Column("residual_final", "float64", "gradient relative to the terms that cancel in it at the end"),
        *(Column(name, "float64", meaning) for name, meaning in (MEASURED | BASIN).items()),
        Column("error_final", "float64", "distance to the planted x in the norm of its Hessian at the end (F.10)"),
        Column("x_error", "float64", "relative distance to the planted x at the end, up to sign where phi is even"),
    ]


def curves() -> list[Column]:
    """Return the curves of a row."""
    named = (Column(name, "float64", meaning) for name, meaning in CURVES.items())
    return [Column("step", "int64", "steps taken"), *named]

"""The columns and curves of `in_context`."""

from expreg.types import Column

INSTANCE = {
    "move": "size of the move: ||dx||, or the spectral norm of dA",
    "shift": "||db|| of the rescaled problem (G.3)",
    "shift_first_order": "norm of the shift to first order in the move (G.4)",
    "shift_softmax": "||db|| of the softmax problem (G.2)",
    "bound_tight": "bound of the shift by the largest change of a logit (G.6), (G.11)",
    "bound_rows": "bound of the shift by the rows of A, before the logits are known (G.7), (G.8)",
    "bound_softmax": "bound of the softmax shift (G.9), null for an odd phi",
    "bound_radius": "bound of the shift by R, a norm of A and x (G.10)",
    "largest_change": "largest change of a logit, max |dz|",
}
"""Of the largest move, and over the sizes of the move as curves."""
CLOSENESS = {
    "update": "norm of the move of the attention distribution by the new token",
    "cosine_gd": "cosine between the move by the token and that by a step of gradient descent",
    "cosine_newton": "cosine between the move by the token and that by a Newton step",
    "size_gd": "norm of the move by a step of gradient descent over that by the token",
    "size_newton": "norm of the move by a Newton step over that by the token",
}
"""Of one token; `path_` the same of all tokens so far, with a step for each."""


def columns() -> list[Column]:
    """Return the columns of a row; those of growing contexts are absent without `problem.tokens`."""
    return [
        Column("problem", "string", "kind of problem: gaussian, attention or heads"),
        Column("activation", "string", "phi of u = phi(A x)"),
        Column("loss", "string", "the loss on which a step descends"),
        Column("n", "int64", "rows of A, the tokens of the context"),
        Column("d", "int64", "columns of A"),
        Column("moved", "string", "what moves: x by gd or newton, or the data A"),
        Column("layer", "int64", "layer of the attention head"),
        Column("head", "int64", "attention head"),
        Column("token", "int64", "token that asks"),
        *_closeness("update_median", "median over the tokens: "),
        *(Column(name, "float64", f"at the largest move: {meaning}") for name, meaning in INSTANCE.items()),
        Column("alpha", "float64", "<u, 1> before the move"),
        Column("softmax_residual", "float64", "||u / alpha - b|| before the move"),
        Column("projective_loss", "float64", "scale-free loss 1/2 ||u - alpha b||^2 / ||u||^2 before the move (E.44)"),
        Column("max_logit", "float64", "largest |A x| before the move"),
        Column("loss_rescaled", "float64", "1/2 ||u - alpha b||^2 before the move"),
        Column("identity_error", "float64", "relative error of the identity (G.3) at the largest move"),
        Column("equivalence_error", "float64", "relative difference of the shifts of equal moves of x and A (G.5)"),
        Column("norm", "float64", "spectral norm of A"),
        Column("alpha_share", "float64", "|<u, 1>| over <|u|, 1>: near 0 where the sum cancels"),
    ]


def curves() -> list[Column]:
    """Return the curves of a row: over the sizes of the move, or over the tokens where the context grows."""
    sizes = (Column(name, "float64", meaning) for name, meaning in INSTANCE.items())
    return [Column("step", "int64", "number of the size of the move, or of the token"), *sizes, *_closeness("update")]


def _closeness(update: str, prefix: str = "") -> list[Column]:
    one = {update if name == "update" else name: prefix + text for name, text in CLOSENESS.items()}
    path = {f"path_{name}": f"{prefix}{text}, of all tokens so far" for name, text in CLOSENESS.items()}
    return [Column(name, "float64", text) for name, text in (one | path).items()]

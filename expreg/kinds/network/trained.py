"""Train the network of one cell once more, and keep its weights: rows have none, because most runs need none."""

import jax
import numpy as np

from expreg.core.engine.lanes import run_again
from expreg.kinds.network import descent, start, training
from expreg.network.module import ExponentialNetwork
from expreg.types import Array, Experiment, Program, Row, Settings, Trained


def trained(settings: Settings) -> Trained:
    """Return the network of a cell after its training; raise RuntimeError with the reason where it cannot run."""
    again = Experiment(
        name="trained",
        signature=training.signature,
        build=_with_weights,
        prepare=training.prepare,
        row=_row,
        cost=training.cost,
    )
    row = run_again(again, settings)
    found, network = start.inputs(settings), settings["network"]
    W = found["W"] + _in_weights(row["moved"], found["X"], training.signature(settings), network["m"])
    options = {"activation": network["activation"], "scale": network["scale"]}
    with jax.enable_x64(W.dtype == np.float64):
        return Trained(ExponentialNetwork.from_arrays(W, found["a"], **options), row["residual"])


def _with_weights(signature: descent.Signature) -> Program:
    program = descent.program(signature)
    return program._replace(record=lambda state: {**program.record(state), "moved": state.theta})


def _row(_: Settings, record: dict[str, Array]) -> Row:
    return {"status": "converged", "moved": record["moved"].copy(), "residual": float(record["residual_final"])}


def _in_weights(moved: Array, X: Array, static: descent.Signature, m: int) -> Array:
    """Return W(t) - W(0), (d, m), of padded increments (k, branches, neurons): X^T C in Gram space (A.10)."""
    live = moved[:, :, : m // static.branches].reshape(-1, m)
    return X.T @ live if static.form == "gram" else live

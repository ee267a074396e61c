"""What `expreg solve` and `expreg bench` do with files and text; the work itself is `expreg.solve` and the suites."""

import io
import json
import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from expreg.core.store import disk
from expreg.data import read_problem, read_vector, without_empty
from expreg.errors import InputError, Problem

SHOWN = 12
"""Entries of x that a terminal shows; --out and --json have all of them."""
OUTPUTS = (".npy", ".npz", ".csv")


def solve_files(
    matrix: Path,
    target: Path | None,
    *,
    weights: str | None = None,
    start: Path | None = None,
    out: Path | None = None,
    complain: Callable[[str], None],
    options: Mapping[str, Any],
) -> Any:
    """Return the Solution for A and b in files, and write x where asked; warnings go to `complain`, one line each.

    `weights` is a number or a file with w (n,); `options` are those of `expreg.solve`. Raises InputError for what is
    wrong with files or arrays, before anything is computed also for `out`.
    """
    from expreg.solver import solve

    if out is not None and out.suffix.lower() not in OUTPUTS:
        message = f"got a {out.suffix or 'nameless'} file, expected one of {' '.join(OUTPUTS)}"
        raise InputError(Problem("E-ENUM", message, file=str(out), key="--out"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        A, b = read_problem(matrix, target)
        w = None if weights is None else _weights(weights)
        x0 = None if start is None else read_vector(start)
        if x0 is not None and x0.shape != A.shape[1:]:
            message = f"got {len(x0)} values for an A of {A.shape[1]} columns, expected {A.shape[1]}"
            raise InputError(Problem("E-SHAPE", message, file=str(start), key="--start"))
        x = np.zeros(A.shape[1])
        A, kept = without_empty(A, matrix)
        found = solve(A, b, weights=w, x0=None if x0 is None else x0[kept], **options)
    for warning in caught:
        complain(f"warning: {warning.message}")
    x[kept] = found.x
    found = found._replace(x=x)
    if out is not None:
        disk.replace(out, vector_bytes(out, np.asarray(found.x)))
    return found


def _weights(text: str) -> float | np.ndarray:
    try:
        value = float(text)
    except ValueError:
        return read_vector(text)
    if not 0 <= value < math.inf:
        raise InputError(Problem("E-RANGE", f"got {text}, expected a finite number >= 0, or a file", key="--weights"))
    return value


def vector_bytes(path: Path, x: np.ndarray) -> bytes:
    """Return the file that holds x (d,): .npy; .npz with the array `x`; .csv with the column `x`."""
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return ("x\n" + "".join(f"{value!r}\n" for value in x.tolist())).encode()
    buffer = io.BytesIO()
    if suffix == ".npy":
        np.save(buffer, x, allow_pickle=False)
    else:
        np.savez(buffer, x=x)
    return buffer.getvalue()


_LINES = ("loss", "alpha", "softmax_residual", "projective_loss", "max_logit", "gradient_norm", "decrement", "steps")


def solution_text(found: Any) -> str:
    """Return the lines that people read: how it ended, what is always reported, and x."""
    lines = [f"{found.status}: {found.message}", ""]
    for name in _LINES:
        value, words = getattr(found, name), "max |z|" if name == "max_logit" else name.replace("_", " ")
        # before the first step nothing is known of the next
        lines.append(f"{words:18s}{value:.10g}" if math.isfinite(value) else f"{words:18s}-")
    first = " ".join(f"{value:.6g}" for value in found.x[:SHOWN])
    more = f" ... ({len(found.x)} numbers; --out FILE writes them)" if len(found.x) > SHOWN else ""
    return "\n".join([*lines, f"{'x':18s}{first}{more}"])


def solution_json(found: Any) -> str:
    """Return one JSON document with every field; numbers that JSON cannot hold are null."""
    return document({**found._asdict(), "x": np.asarray(found.x).tolist()})


def document(value: Any) -> str:
    """Return a JSON document; numbers that JSON cannot hold are null."""
    known = json.loads(json.dumps(value, default=str), parse_constant=lambda _: None)
    return json.dumps(known, indent=1, allow_nan=False)

"""What `expreg solve`, `plan` and `query` do with files and text; the work is that of `expreg.api` and the store."""

import io
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from expreg.core.page import terminal
from expreg.core.store import disk
from expreg.data import read_problem, read_vector, without_empty
from expreg.data.files import by_suffix
from expreg.errors import InputError, Problem, printable
from expreg.kinds import EXPERIMENTS
from expreg.output import counted, document, duration

SHOWN = 12
"""Entries of x that a terminal shows; --out and --json have all of them."""
OUTPUTS = (".npy", ".npz", ".csv")
_OF_VECTOR = r"data\.\w+|X|y"


def solve_files(
    matrix: Path,
    target: Path | None,
    *,
    weights: str | None = None,
    start: Path | None = None,
    out: Path | None = None,
    header: bool = True,
    complain: Callable[[str], None],
    options: Mapping[str, Any],
) -> Any:
    """Return the Solution for A and b in files, and write x where asked; warnings go to `complain`, one line each.

    `weights` is a number or a file with w (n,); without `header` a .csv begins with numbers; `options` are those of
    `expreg.solve`. Raises InputError for what is wrong with files or arrays, before anything is computed also for
    `out`.
    """
    from expreg.solver import solve

    if out is not None:
        by_suffix(out, dict.fromkeys(OUTPUTS), key="--out")
        disk.check_output(out, "--out", filter(None, (matrix, target, weights, start)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        with named(""):
            A, b = read_problem(matrix, target, header=header)
        w = None if weights is None else _weights(weights)
        with named("--start", _OF_VECTOR):
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
        with named("--weights", _OF_VECTOR):
            return read_vector(text)
    if not 0 <= value < math.inf:
        raise InputError(Problem("E-RANGE", f"got {text}, expected a finite number >= 0, or a file", key="--weights"))
    return value


@contextmanager
def named(option: str, keys: str = r"data\.\w+") -> Iterator[None]:
    """Name the option that was given where a reader would name these keys, of a config or of an array."""
    try:
        yield
    except InputError as error:
        found = [replace(p, key=re.sub(f"^({keys})", option, p.key or option) or None) for p in error.problems]
        raise InputError(found) from error


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


def solution_lines(found: Any, problem: str) -> list[str]:
    """Return the lines that people read: how it ended, which problem it was, what is always reported, and x."""
    lines = [f"{found.status}: {found.message}", "", f"{'problem':18s}{problem}"]
    for name in _LINES:
        value, words = getattr(found, name), "max |z|" if name == "max_logit" else name.replace("_", " ")
        # before the first step nothing is known of the next
        lines.append(f"{words:18s}{value:.10g}" if math.isfinite(value) else f"{words:18s}-")
    first = " ".join(f"{value:.6g}" for value in found.x[:SHOWN])
    more = f" ... ({len(found.x)} numbers; --out FILE writes them)" if len(found.x) > SHOWN else ""
    return [*lines, f"{'x':18s}{first}{more}"]


def answer_lines(
    names: Sequence[str], rows: Sequence[Sequence[Any]], most: int | None = None, width: int | None = None
) -> list[str]:
    """Return the answer to a query as an aligned table, at most `most` rows and `width` characters of it."""
    import pandas as pd

    frame = pd.DataFrame([[_shown(value) for value in row] for row in rows], columns=[*map(printable, names)])
    return frame.to_string(index=False, max_rows=most, line_width=width).split("\n")


def _shown(value: Any) -> str:
    """Return a value with six significant digits at least, and all of a whole number."""
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.6g}"
    if value is None or isinstance(value, list | tuple | dict):
        return "NULL" if value is None else document(value, None)
    return printable(str(value))


def plan_lines(found: Mapping[str, Any], more: list[str]) -> list[str]:
    """Return what `api.plan` found as lines that people read, with `more` behind them."""
    cells, programs = counted(found["cells"], "cell"), counted(found["programs"], "program")
    lines = [f"{found['name']}: {cells} in {programs}"]
    if found.keys() & {"search", "until", "trials"}:
        lines = [f"{found['name']}: at most {cells} in {programs}"]
    if search := found.get("search"):
        few, many = search["expected"]
        many = f"{few} to {many}" if few < many else f"about {many}"
        lines = [
            f"{found['name']}: at most {cells}, {many} of them expected, in {programs}",
            f"  search: where {', '.join(search['criterion'])} begin to hold along {search['axis']};"
            f" {search['verify']:.3g} of the replicates run all of it",
        ]
    if until := found.get("until"):
        lines.append(
            f"  {until['first']} replicates first, then more until the interval of the exponent is"
            f" +-{until['half_width']:.3g}"
        )
    if trials := found.get("trials"):
        goal = f"{'maximize' if trials['metric']['largest'] else 'minimize'} {trials['metric']['name']}"
        lines += [
            f"  search: {trials['trials']} trials in batches of {trials['batch']}, chosen by optuna's"
            f" {trials['sampler']} sampler to {goal}",
            *(f"  {name}: {of}" for name, of in trials["space"].items()),
        ]
    for axis, values in found["axes"].items():
        shown = [f"{v:g}" if isinstance(v, float) else str(v) for v in values]
        shown = shown if len(shown) <= 12 else [*shown[:8], "...", shown[-1]]
        lines.append(f"  {axis}: {', '.join(shown)}  ({len(values)})")
    seconds = math.nan if found["seconds"] is None else found["seconds"]
    needed = found["devices_needed"]
    spread = EXPERIMENTS[found["experiment"]].spread if needed > 1 else None
    over = f"; execution.shard: {spread.over} spreads it over {needed} such devices" if spread else ""
    facts = {
        "largest cell": f"{found['bytes_per_lane'] / 2**20:.3g} MiB in a lane; {found['lanes']} lanes at most{over}",
        "work": f"{found['flops']:.2g} flops",
        "expected time": f"{duration(seconds)} on {found['devices']} x {found['device_kind']}; "
        f"{duration(found['compile_seconds'])} of it compiling, if nothing is cached",
    }
    lines += [*terminal.pairs(facts), *more]
    for listed in found.get("list", []):
        settings = " ".join(f"{name}={value}" for name, value in listed["axes"].items())
        lines.append(f"{listed['cell']}  {settings}".rstrip())
    return lines

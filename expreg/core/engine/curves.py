"""The end of a curve, the same for every program that keeps one."""

from collections.abc import Mapping

import numpy as np

from expreg.types import Array


def ended(record: Mapping[str, Array], last: Mapping[str, Array]) -> dict[str, np.ndarray]:
    """Return `curve_step` and each `curve_<name>` as far as they were filled, with the last step at their end.

    The record has `steps`, `curve_length`, `curve_step` (k,) and for every name in `last`, which holds the values at
    the last step, `curve_<name>` (k,).
    """
    length, end = int(record["curve_length"]), int(record["steps"])
    steps = record["curve_step"][:length].astype(np.int64)
    whole = length > 0 and steps[-1] == end
    found = {"curve_step": steps if whole else np.append(steps, end)}
    for name, value in last.items():
        values = record[f"curve_{name}"][:length].astype(np.float64)
        found[f"curve_{name}"] = values if whole else np.append(values, np.float64(value))
    return found

"""What `plan` asks of network cells before anything is computed or written; imports no JAX."""

from collections.abc import Iterator, Sequence

from expreg import data
from expreg.activation import lookup
from expreg.errors import Problem
from expreg.types import Settings

SPECTRUM_BYTES = 4 * 8
"""Bytes per n^2 that the host needs: Gram matrix, H^cts, its eigenvectors and their workspace, in float64."""
LEAST_BYTES = 3 * 4
"""Bytes per n m that every lane needs: pre-activations, activations and derivatives, in float32."""


def check(cells: Sequence[Settings]) -> list[Problem]:
    """Return the problems of the cells: what their activation has no theory for, and the user's own data."""
    asked: dict[tuple[str, int], Settings] = {}
    files: dict[tuple[str, str], Settings] = {}
    for settings in cells:
        network, training = settings["network"], settings.get("training")
        if training is not None:  # equal blocks are one object
            asked.setdefault((network["activation"], id(training)), settings)
        if settings["data"]["kind"] == "file":
            files.setdefault((network["activation"], repr(settings["data"])), settings["data"])
    found = [problem for settings in asked.values() for problem in problems(settings)]
    found += [problem for (name, _), block in files.items() for problem in data.check_file(block, activation=name)]
    return list(dict.fromkeys(found))


def problems(settings: Settings) -> Iterator[Problem]:
    """Yield what a cell asks of the infinite-width kernel where that of its activation is not known."""
    name, training = settings["network"]["activation"], settings["training"]
    if lookup(name).expectation is not None:
        return
    why = f"the infinite-width kernel of {name} is not known (it has no `expectation`)"
    rule, budget = training["step_size"]["rule"], training["max_steps"]
    if rule in ("spectral_cts", "theory"):
        key = "training.step_size.rule"
        yield Problem("E-RANGE", f"got {rule!r}, expected spectral or fixed: {why}", key=key)
    if not isinstance(budget, int):
        yield Problem(
            "E-RANGE", f"got a budget in flow time, expected a number of steps: {why}", key="training.max_steps"
        )


def size(settings: Settings) -> str:
    """Return the size of a cell in words."""
    return f"cell m={settings['network']['m']} n={settings['data']['n']}"


def least_bytes(settings: Settings) -> list[tuple[str, float, str]]:
    """Return (words, bytes, "host" or "device") that a cell needs at least; `cost` needs the spectrum to say more."""
    n, m = settings["data"]["n"], settings["network"]["m"]
    found = [(size(settings), float(LEAST_BYTES * n * m), "device")]
    if lookup(settings["network"]["activation"]).expectation is None:
        return found
    return [(f"cell n={n}", float(SPECTRUM_BYTES * n**2), "host"), *found]

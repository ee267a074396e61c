"""Parts of the settings, recognised without a look at them: cells share those that are equal (see `cells.named`)."""

from collections.abc import Callable, Hashable
from functools import wraps
from typing import Any, TypeVar

from expreg.types import Settings

T = TypeVar("T")
MOST = 256
"""Results that a function keeps."""


def kind_of(settings: Settings) -> Hashable:
    """Return what is equal for cells that differ by replicate or seed only: they have one program and one cost.

    It holds as long as the cells are in memory.
    """
    return tuple(id(part) for name, part in settings.items() if name not in ("replicate", "seed"))


def once_for(*names: str) -> Callable[[Callable[[Settings], T]], Callable[[Settings], T]]:
    """Compute a function of these parts of the settings once for all cells that share them."""

    def decorate(function: Callable[[Settings], T]) -> Callable[[Settings], T]:
        kept: dict[tuple[int, ...], tuple[list[Any], T]] = {}

        @wraps(function)
        def call(settings: Settings) -> T:
            parts = [settings.get(name) for name in names]
            key = tuple(map(id, parts))
            found = kept.get(key)
            if found is None:
                if len(kept) >= MOST:
                    kept.clear()
                found = kept[key] = parts, function(settings)  # with the parts, whose ids no others have meanwhile
            return found[1]

        return call

    return decorate

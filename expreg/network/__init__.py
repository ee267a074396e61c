"""The exponential network: initialisation, output, gradient, and the same as a flax module."""

from typing import TYPE_CHECKING, Any

from expreg.network.functions import forward, gradient, initialise, neurons

if TYPE_CHECKING:
    from expreg.network.module import ExponentialNetwork

__all__ = ["ExponentialNetwork", "forward", "gradient", "initialise", "neurons"]


def __getattr__(name: str) -> Any:
    """Import flax only when the module is asked for: it takes longer than everything else together."""
    if name == "ExponentialNetwork":
        from expreg.network.module import ExponentialNetwork

        return ExponentialNetwork
    raise AttributeError(f"module 'expreg.network' has no attribute {name!r}")

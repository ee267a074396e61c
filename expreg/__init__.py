"""A JAX framework for sweeps of network width on GPUs, TPUs and CPUs."""

from importlib import import_module

TYPE_CHECKING = False  # that of `typing` takes as long to import as all that a command needs before it can be stopped
if TYPE_CHECKING:
    from typing import Any

    from expreg import activation as activation
    from expreg import data as data
    from expreg import network as network
    from expreg import ntk as ntk
    from expreg import residual as residual
    from expreg import solver as solver
    from expreg import theory as theory
    from expreg.api import plan as plan
    from expreg.api import run as run
    from expreg.api import status as status
    from expreg.api import stream as stream
    from expreg.api import sweep as sweep
    from expreg.certificate import certify as certify
    from expreg.kinds.own import Training as Training
    from expreg.registry import register as register
    from expreg.results import load as load
    from expreg.solver import solve as solve

__version__ = "0.1.0"

_FUNCTIONS = {
    "run": "api",
    "plan": "api",
    "status": "api",
    "load": "results",
    "stream": "api",
    "sweep": "api",
    "Training": "kinds.own",
    "register": "registry",
}
_FUNCTIONS |= {"certify": "certificate", "solve": "solver"}
_MODULES = ("activation", "data", "network", "ntk", "residual", "solver", "theory")

__all__ = [*_FUNCTIONS, *_MODULES, "__version__"]


def __getattr__(name: str) -> "Any":
    """Import on first use (PEP 562): `import expreg` stays light, `expreg --help` never starts JAX."""
    if name in _FUNCTIONS:
        return getattr(import_module(f"expreg.{_FUNCTIONS[name]}"), name)
    if name in _MODULES:
        return import_module(f"expreg.{name}")
    raise AttributeError(f"module 'expreg' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)

"""Who runs the cells of a sweep, by the name in `execution.engine`: this process, actors of Ray, tasks of Slurm."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

from expreg.core import config as configs
from expreg.core.config.fields import Fault
from expreg.errors import InputError
from expreg.types import later

if TYPE_CHECKING:
    from expreg.core.engine.backend import Backend


class Engine(NamedTuple):
    """A backend, and the package and extra that it needs."""

    backend: "Backend"
    package: str
    extra: str


_OTHERS: Mapping[str, Engine] = {
    "ray": Engine(later("expreg.backends.actors:backend"), "ray", "ray"),
    "slurm": Engine(later("expreg.backends.tasks:backend"), "submitit", "slurm"),
}


def find(config: Any) -> "Backend":
    """Return the backend that a config names; raise InputError where its package is not installed."""
    from expreg.core.engine.backend import local

    name = config.execution.engine
    if name == "local":
        return local
    engine = _OTHERS[name]
    if find_spec(engine.package) is None:
        message = f"{name} needs {engine.package}, which is not installed: pip install 'expreg[{engine.extra}]'"
        raise InputError(configs.problem(config.source, Fault(("execution", "engine"), "E-IMPORT", message)))
    return engine.backend

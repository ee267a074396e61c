"""Who runs the cells of a sweep, by the name in `execution.engine`: this process, actors of Ray, tasks of Slurm."""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

from expreg.core import config as configs
from expreg.core.config.fields import Fault
from expreg.errors import InputError
from expreg.types import later

if TYPE_CHECKING:
    from expreg.core.engine.backend import Backend


class Engine(NamedTuple):
    """A backend, the package and extra that it needs, and what else an execution lacks, if anything."""

    backend: "Backend"
    package: str
    extra: str
    missing: Callable[[Any], str | None] = lambda _: None


_OTHERS: Mapping[str, Engine] = {
    "ray": Engine(later("expreg.backends.actors:backend"), "ray", "ray"),
    "slurm": Engine(later("expreg.backends.tasks:backend"), "submitit", "slurm", later("expreg.backends.jobs:missing")),
}


def find(config: Any) -> "Backend":
    """Return the backend that a config names; raise InputError where its package is not installed."""
    from expreg.core.engine.backend import local

    name = config.execution.engine
    if name == "local":
        return local
    engine = _OTHERS[name]
    message = engine.missing(config.execution)
    if find_spec(engine.package) is None:
        message = f"{name} needs {engine.package}, which is not installed: pip install 'expreg[{engine.extra}]'"
    if message:
        raise InputError(configs.problem(config.source, Fault(("execution", "engine"), "E-IMPORT", message)))
    return engine.backend

"""Who runs the cells of a sweep, by the name in `execution.engine`: this process, actors of Ray, tasks of Slurm."""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

from expreg.core import config as configs
from expreg.core.config.fields import Fault, did_you_mean
from expreg.errors import InputError
from expreg.types import later

if TYPE_CHECKING:
    from expreg.core.engine.backend import Backend


class Engine(NamedTuple):
    """A backend, the package and extra that it needs, what is wrong with an execution, and its options.

    It checks its options itself where none are given here.
    """

    backend: "Backend"
    package: str
    extra: str
    wrong: Callable[[Any], Fault | None] = lambda _: None
    options: tuple[str, ...] = ()


ENGINES: Mapping[str, Engine] = {
    "ray": Engine(
        later("expreg.backends.actors:backend"),
        "ray",
        "ray",
        options=(
            *("address", "runtime_env", "num_cpus", "num_gpus", "memory", "resources", "accelerator_type"),
            "label_selector",
        ),
    ),
    "slurm": Engine(later("expreg.backends.tasks:backend"), "submitit", "slurm", later("expreg.backends.jobs:wrong")),
}


def find(config: Any) -> "Backend":
    """Return the backend of a config; raise InputError where its package is missing or an option is unknown."""
    from expreg.core.engine.backend import local

    name = config.execution.engine
    if name == "local":
        return local
    engine = ENGINES[name]
    fault = engine.wrong(config.execution)
    if find_spec(engine.package) is None:
        message = f"{name} needs {engine.package}, which is not installed: pip install 'expreg[{engine.extra}]'"
        fault = Fault(("execution", "engine"), "E-IMPORT", message)
    if fault:
        raise InputError(configs.problem(config.source, fault))
    unknown = [option for option in config.execution.options if engine.options and option not in engine.options]
    if unknown:
        known = f"; known for {name}: {', '.join(engine.options)}"
        lines = [(option, f"unknown option{did_you_mean(option, engine.options) or known}") for option in unknown]
        faults = [Fault(("execution", "options", option), "E-UNKNOWN", line) for option, line in lines]
        raise InputError([configs.problem(config.source, fault) for fault in faults])
    return engine.backend

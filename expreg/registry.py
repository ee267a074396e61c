"""The user's own records: add them to their lists, import the modules that do, remember which a run needed."""

import hashlib
import importlib.util
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from importlib import import_module, metadata
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NamedTuple

from expreg.core.store.columns import NAMES, TYPES
from expreg.errors import InputError, Problem, refuse
from expreg.kinds import EXPERIMENTS, own
from expreg.types import Column, Experiment

GROUP = "expreg.plugins"
"""The group of entry points whose modules are imported before a config is read."""
_LISTS: Mapping[str, tuple[str, str]] = {
    "expreg.types:Experiment": ("expreg.kinds:EXPERIMENTS", "expreg.registry:check_experiment"),
    "expreg.activation:Activation": ("expreg.activation:ACTIVATIONS", "expreg.activation:check"),
    "expreg.kinds.network.events:Event": ("expreg.kinds.network.events:EVENTS", "expreg.kinds.network.events:check"),
    "expreg.data.kinds:DataKind": ("expreg.data.kinds:DATA", "expreg.data.kinds:check_record"),
    "expreg.data.kinds:LabelKind": ("expreg.data.kinds:LABELS", "expreg.data.kinds:check_record"),
    "expreg.residual:Loss": ("expreg.residual:LOSSES", "expreg.residual:check"),
    "expreg.solver.records:Solver": ("expreg.solver.records:SOLVERS", "expreg.solver.probe:check"),
    "expreg.solver.records:Sketch": ("expreg.solver.records:SKETCHES", "expreg.solver.probe:check"),
}
"""By type of record: its list, and the function, if any, that returns what a tiny probe finds wrong, in lines."""
_FUNCTIONS = frozenset(
    "schema columns curves signature build prepare row inputs cost size check summarise outlook".split()  # noqa: SIM905
)
_EXPECTED = "expected a Python module that calls expreg.register"


class Module(NamedTuple):
    """A module that registered records: its name as given, its file, the checksum of the file."""

    name: str
    path: str | None
    sha256: str | None


_modules: dict[str, Module] = {}  # that registered something, by name as given
_imported: set[str] = set()  # what was asked for: paths and dotted names
_importing: list[str] = []
_owners: dict[tuple[str, str], str] = {}  # (list, name of a record) -> the module it came from


def register(*records: Any) -> None:
    """Add records to their lists: experiments, trainings, activations, events, data kinds, losses, solvers.

    Raises InputError, and adds none of them, if a name is taken by another record, or if the functions of a record
    return wrong shapes or names in a tiny probe.
    """
    caller = sys._getframe(1).f_globals
    name = _importing[-1] if _importing else str(caller.get("__name__"))
    made = [own.experiment(record) if isinstance(record, own.Training) else record for record in records]
    found = [(record, *_place_of(record, name)) for record in made]
    problems = [Problem("E-PLUGIN", line, file=name) for each in found for line in _wrong(*each)]
    refuse(problems)
    for record, place, _ in found:
        if resolve_name(place).get(record.name) is not record:
            resolve_name(place)[record.name] = record
            _owners[place, record.name] = name
    if programs := sys.modules.get("expreg.core.engine.programs"):
        programs.forget()  # one of the same name may be built in
    if not _importing:
        _modules[name] = _described(name, caller.get("__file__"))


def enter(experiment: Experiment) -> None:
    """Add the experiment of a training, in place of an earlier training; raise InputError if the name is another's."""
    known = EXPERIMENTS.get(experiment.name)
    if known is not None and not known.remembered:
        message = "an experiment has this name; choose another for the training"
        raise InputError(Problem("E-TRAINING", message, file=experiment.name))
    EXPERIMENTS[experiment.name] = experiment


def load_module(given: str) -> None:
    """Import a module that registers records, once per process: the path of a .py file, or a dotted name.

    Raises InputError if it is missing, raises, or registers what is taken.
    """
    if given.endswith(".py"):
        path = Path(given).resolve()
        if not path.is_file():
            raise _refusal(given, f"there is no such file; {_EXPECTED}")
        _import(given, str(path), path.parent, partial(_run_file, path))
    elif re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", given):
        _import(given, None, Path.cwd(), partial(import_module, given))
    else:
        raise _refusal(given, "expected a path that ends in .py, or the dotted name of a module")


def load_plugins() -> None:
    """Import what installed packages offer as entry points `expreg.plugins`, once per process."""
    if GROUP not in _imported:
        _imported.add(GROUP)
        for entry in metadata.entry_points(group=GROUP):
            _import(entry.module, None, None, entry.load)


def needed() -> list[dict[str, Any]]:
    """Return the modules that registered records in this process, as plan.json remembers them."""
    return [module._asdict() for module in sorted(_modules.values(), key=lambda module: module.name)]


def load_needed(modules: Iterable[Mapping[str, Any]]) -> None:
    """Import again the modules that a run remembers, and warn of one that has changed.

    Raises InputError if one is missing.
    """
    load_plugins()
    for module in (Module(**one) for one in modules):
        if _known(module) is None:
            _import_again(module)
        known = _known(module)
        if known is not None and known.sha256 != module.sha256:
            warnings.warn(f"{module.name} has changed since this run was planned", stacklevel=2)


def _known(module: Module) -> Module | None:
    paths = {known.path: known for known in _modules.values() if known.path}
    return paths.get(module.path or "") or _modules.get(module.name)


def _import_again(module: Module) -> None:
    if module.name == "__main__":
        place = module.path or "a notebook"
        raise _refusal(place, "registered records that this run needs; move them to a module and --import that")
    top = module.name.partition(".")[0]
    here = any(Path.cwd().glob(f"{top}/")) or Path(f"{top}.py").is_file()
    if not module.name.endswith(".py") and (importlib.util.find_spec(top) is not None or here):
        load_module(module.name)
    elif module.path and os.path.isfile(module.path):
        load_module(module.path)
    else:
        place = f", which was {module.path}" if module.path else ""
        raise _refusal(module.name, f"this run needs the records of this module{place}; give --import MODULE")


def _place_of(record: Any, module: str) -> tuple[str, str]:
    """Return the places of list and check of a record, by its type."""
    for kind in type(record).__mro__:
        if places := _LISTS.get(f"{kind.__module__}:{kind.__qualname__}"):
            return places
    known = ", ".join(name.partition(":")[2] for name in _LISTS)
    raise _refusal(module, f"got {type(record).__name__}, expected one of {known}")


def _wrong(record: Any, place: str, checker: str) -> Iterator[str]:
    """Yield what is wrong with a record: its name, then what its functions do in a tiny probe."""
    kind, name = type(record).__name__.lower(), record.name
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z]\w{0,63}", name, re.ASCII):
        yield f"{kind} {name!r}: expected a name of letters, digits and _, first a letter"
        return
    known = resolve_name(place).get(name)
    if known is not None and known is not record:
        yield f"{kind} {name!r} is registered already, by {_owners.get((place, name), 'expreg')}; choose another name"
    elif known is None:
        try:
            yield from resolve_name(checker)(record)
        except Exception as error:
            yield f"{kind} {name!r}: its probe raised {type(error).__name__}: {error}"


def check_experiment(experiment: Experiment) -> Iterator[str]:
    """Yield what is wrong with an experiment: its functions, config and columns."""
    from expreg.core.config.model import Config

    start = f"experiment {experiment.name!r}:"
    for name, value in vars(experiment).items():
        if name in _FUNCTIONS and not callable(value):
            yield f"{start} {name} is {value!r}, expected a function"
            return
    schema, columns = experiment.schema(), experiment.columns()
    if not (isinstance(schema, type) and issubclass(schema, Config)):
        yield f"{start} schema() returned {schema!r}, expected a class derived from expreg.core.config.model.Config"
    for column in (*columns, *experiment.curves()):
        if not isinstance(column, Column) or column.type not in TYPES:
            yield f"{start} got {column!r}, expected Column(name, type, meaning) with a type of {', '.join(TYPES)}"
            return
    names = [column.name for column in columns]
    for name in sorted({name for name in names if names.count(name) > 1 or name in NAMES}):
        yield f"{start} column {name!r} is declared twice, or one of those that every experiment has"


def _import(name: str, path: str | None, folder: Path | None, load: Callable[[], Any]) -> None:
    """Import a module unless it has been; what it registered is taken back if that fails."""
    if (path or name) in _imported:
        return
    if folder is not None and str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    before = set(_owners)
    _importing.append(name)
    try:
        load()
    except (Exception, SystemExit) as error:
        for place, record in set(_owners) - before:
            del resolve_name(place)[record], _owners[place, record]
        if isinstance(error, InputError):
            raise
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        raise InputError(Problem("E-PLUGIN", f"{type(error).__name__}: {error}; {_EXPECTED}", name, line)) from error
    finally:
        _importing.pop()
    _imported.add(path or name)
    if set(_owners) - before:
        _modules[name] = _described(name, path)


def _run_file(path: Path) -> None:
    name = path.stem if path.stem not in sys.modules else f"{path.stem}_{hashlib.sha256(bytes(path)).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def _described(name: str, path: str | None) -> Module:
    """Return a module with its file, which one that was imported by name knows itself, and the checksum of that."""
    path = path or getattr(sys.modules.get(name), "__file__", None)
    if path is None or not os.path.isfile(path):
        return Module(name, None, None)
    return Module(name, os.path.abspath(path), hashlib.sha256(Path(path).read_bytes()).hexdigest())


def _refusal(name: str, message: str) -> InputError:
    return InputError(Problem("E-PLUGIN", message, file=name))

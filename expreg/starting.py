"""Help before the first run: configs to start from, and the keys that a shell completes."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from expreg.core.config.fields import Choice, did_you_mean
from expreg.core.config.model import Config, leaves
from expreg.core.store.disk import check_output, storage
from expreg.errors import InputError, Problem
from expreg.kinds import EXPERIMENTS

MAX_BYTES = 1 << 18
"""Of a config that is looked at for its experiment."""


def templates() -> dict[str, Path]:
    """Return the configs that come with the package, by name: those of the experiments first."""
    own, checkout = Path(__file__).with_name("configs"), Path(__file__).parents[1] / "configs"
    files = sorted((own if own.is_dir() else checkout).glob("*.yaml"))
    found = {path.stem: path for path in files if "\nextends:" not in path.read_text("utf-8")}  # those need others
    return {name: found[name] for name in sorted(found, key=lambda name: name not in EXPERIMENTS)}


def written(kind: str, file: Path | None) -> Path:
    """Write the config `kind` to a new file, KIND.yaml by default, under its name; return the file.

    Raises InputError for an unknown kind, or where the file exists or cannot be written.
    """
    known = templates()
    if kind not in known:
        kinds = ", ".join(name for name in known if name in EXPERIMENTS)
        hint = did_you_mean(kind, known)
        raise InputError(
            Problem("E-ENUM", f"got {kind!r}, expected {kinds} or another shipped config{hint}", key="KIND")
        )
    path = Path(f"{kind}.yaml") if file is None else file
    check_output(path, "FILE")
    text = known[kind].read_text("utf-8")
    text = re.sub(r"\A# yaml-language-server.*\n", "", text).replace(f"configs/{kind}.yaml", str(path))
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", path.stem):
        text = re.sub(r"^name: .*$", f"name: {path.stem}", text, count=1, flags=re.MULTILINE)
    with storage(path):
        try:
            with path.open("x", encoding="utf-8") as stream:
                stream.write(text)
        except FileExistsError:
            raise InputError(Problem("E-FILE", "exists already; give another FILE", file=str(path))) from None
    return path


def completions(config: os.PathLike[str] | None, incomplete: str) -> list[str]:
    """Return what may stand for the beginning of an override `key=value`, for the experiment of a config."""
    model = EXPERIMENTS[_experiment(config)].schema()
    path, given, value = incomplete.partition("=")
    if given:
        rules = leaves(model, model.model_fields).get(path, ())
        options = [name for rule in rules if isinstance(rule, Choice) for name in rule.names()]
        return [f"{path}={name}" for name in options if name.startswith(value)]
    return [key for key in _keys(model) if key.startswith(incomplete)]


def _experiment(config: os.PathLike[str] | None) -> str:
    """Return the experiment that a file names, the first one where it names none that is known."""
    try:
        with open(config or os.devnull, "rb") as stream:
            found = re.search(rb"^experiment:\s*(\w+)", stream.read(MAX_BYTES), re.MULTILINE)
    except OSError:
        found = None
    name = found[1].decode() if found else ""
    return name if name in EXPERIMENTS else next(iter(EXPERIMENTS))


def _keys(model: type[Config]) -> Iterator[str]:
    yield from (f"{path}=" for path in leaves(model, model.model_fields) if path not in ("experiment", "extends"))
    yield "measure="
    yield "sweep.product.replicate.count="
    yield from (f"sweep.product.{name}=" for name in (*model.sizes, *leaves(model)))

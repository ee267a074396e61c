"""How a run was made: versions, devices, flags, code and command, written when it starts and when it ends."""

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from expreg import __version__
from expreg.core.store.disk import read_json

NAME = "manifest.json"
LIBRARIES = ("numpy", "scipy", "optax", "flax", "optuna")
"""Whose versions are kept, beside those of JAX; optuna is optional."""


def setup() -> dict[str, Any]:
    """Return what the numbers of this process depend on: versions, devices, flags, code."""
    from expreg.core.engine.devices import describe  # starts JAX, which a reader of manifests does without

    return {**code(), **describe()}


def code() -> dict[str, Any]:
    """Return which code this process runs."""
    package = Path(__file__).resolve().parents[3]
    return {
        "expreg": __version__,
        # installed, a repository around it is someone else's
        "commit": _commit(package) if (package / ".git").exists() else None,
        "working_directory_commit": _commit(Path.cwd()),
        **{name: version(name) for name in LIBRARIES if find_spec(name)},
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def begun(directory: Path, cells: int, functions: str | None = None) -> dict[str, Any]:
    """Return the manifest of an execution that starts now; those before it in the directory follow as `earlier`.

    `functions`: the checksum of a user's own.
    """
    before = read(directory)
    last = {key: value for key, value in before.items() if key != "earlier"}
    if last.get("ending") == "running":  # but the directory is ours
        last["ending"] = "killed"
    return {
        **setup(),
        **({"functions": functions} if functions else {}),
        "command": shlex.join(sys.argv),
        "host": platform.node(),
        "process": os.getpid(),
        "started_at": _now(),
        "ended_at": None,
        "ending": "running",
        "cells": cells,
        "earlier": [*([last] if last else []), *before.get("earlier", [])],
    }


def ended(manifest: Mapping[str, Any], ending: str, **facts: Any) -> dict[str, Any]:
    """Return a manifest with the end of its execution: `finished` or `interrupted`, and what is known now."""
    known = {**manifest, "ended_at": _now(), "ending": ending, **facts}
    return {**{key: value for key, value in known.items() if key != "earlier"}, "earlier": known["earlier"]}


def read(directory: Path) -> dict[str, Any]:
    """Return the manifest of a run, empty if there is none that can be read: results do not depend on it."""
    try:
        found = read_json(directory / NAME)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("earlier", []), list) else {}


def text(manifest: Mapping[str, Any]) -> str:
    """Return the JSON of a manifest."""
    return json.dumps(manifest, indent=1) + "\n"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _commit(directory: Path) -> str | None:
    """Return the commit of the checkout around a directory, with a mark if it was changed; None outside one."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(directory), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},  # look, but do not touch the index
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None

"""Configs that the tests start from, and how they ask what is wrong with a changed one."""

import copy
from pathlib import Path
from typing import Any

import pytest

from expreg.api import load_config as load
from expreg.core.config import plan
from expreg.core.config.model import leaves
from expreg.errors import InputError, Problem
from expreg.kinds import EXPERIMENTS

TEXT = """\
experiment: threshold
name: quick
data: {kind: sphere, d: n}
network: {activation: exp, init: coupled, scale: 1.0}
training:
  optimizer: {name: sgd}
  step_size: {rule: spectral, factor: 1.0}
  max_steps: 5000
  tolerance: 0.05
sweep:
  product:
    n: [8, 16]
    m: {geometric: [8, 64, 4]}
    replicate: {count: 3}
  when: m >= n
measure: [E0, E5]
execution: {engine: local, lanes: auto, shard: cells}
"""
SMALL: dict[str, Any] = {"experiment": "threshold", "name": "x", "sweep": {"product": {"n": [8], "m": [16]}}}


def schema(name: str) -> Any:
    return EXPERIMENTS[name].schema()


def sweepable(name: str) -> Any:
    return leaves(schema(name))


def changed(path: str, value: Any) -> dict[str, Any]:
    config = copy.deepcopy(SMALL)
    head, found, axis = path.partition("sweep.product.")
    *parents, last = ["sweep", "product", axis] if found and not head else path.split(".")
    inner = config
    for parent in parents:
        inner = inner.setdefault(parent, {})
    inner[last] = value
    return config


def problems(source: Any, overrides: Any = ()) -> list[Problem]:
    with pytest.raises(InputError) as caught:
        plan(load(source, overrides))
    for line in caught.value.lines():
        assert line.isprintable()
        assert len(line) <= 400
    return list(caught.value.problems)


def refused(source: Any, overrides: Any = ()) -> list[tuple[str, str | None]]:
    return [(problem.code, problem.key) for problem in problems(source, overrides)]


def written(tmp_path: Path, text: str, name: str = "f.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path

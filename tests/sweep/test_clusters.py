"""Tests in processes of their own: Ray and submitit change streams, loggers and signal handlers.

Those of one network in several processes share runs, which each worker of pytest-xdist would make for itself.
"""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.clusters


@pytest.mark.parametrize("engine", ["ray", "slurm", "process"])
def test_cells_run_on_a_cluster(engine: str) -> None:
    cases = Path(__file__).with_name(f"{engine}_cases.py")
    words = [sys.executable, "-m", "pytest", "-n", "0", "-o", "addopts=--import-mode=importlib", "-q", str(cases)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stdout[-5000:]
    assert " passed" in done.stdout

"""Ray changes the streams and signal handlers of its process, so its tests have a process of their own."""

import subprocess
import sys
from pathlib import Path


def test_cells_run_in_actors_of_ray() -> None:
    cases = Path(__file__).with_name("ray_cases.py")
    words = [sys.executable, "-m", "pytest", "-n", "0", "-o", "addopts=--import-mode=importlib", "-q", str(cases)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stdout[-5000:]
    assert " passed" in done.stdout

"""Run each way of a benchmark in a process of its own, which begins with nothing compiled."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any


def measured(script: str, name: str, ways: Iterable[str]) -> Iterator[tuple[str, list[Any]]]:
    """Yield each way with [wall-clock seconds, processor seconds, what it found]; the script ends with `answer`."""
    for way in ways:
        done = subprocess.run([sys.executable, script, name, way], capture_output=True, text=True, check=True)
        yield way, json.loads(done.stdout.splitlines()[-1])


def answer(call: Callable[[], Any]) -> None:
    """Print the seconds of a call and what it returns, for `measured`."""
    began, worked = time.perf_counter(), time.process_time()
    found = call()
    print(json.dumps([time.perf_counter() - began, time.process_time() - worked, found]))

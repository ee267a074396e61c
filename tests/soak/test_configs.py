"""Damaged configs: refused in a few lines that say where, never a traceback, in bounded time and memory."""

import random
import re
import time
from pathlib import Path

from expreg.api import load_config
from expreg.errors import InputError

CONFIGS = Path(__file__).parents[2] / "configs"
TOKENS = [
    "n",
    "m",
    " ",
    "\n",
    "\n  ",
    "- ",
    *":[]{},'\"#|>?%@",
    "*a",
    "&a",
    "!!",
    "<<",
    "\t",
    "\x00",
    "\x1b[31m",
    "\u202e",
]
TOKENS += [
    "1e-3",
    "010",
    "-1",
    ".nan",
    ".inf",
    "1" * 50,
    "NO",
    "null",
    "sweep:",
    "when:",
    "data:",
    "count:",
    "((",
    "**9**9",
]


def damaged(text, chosen):
    """Return a config after one to four splices, a truncation or a repeated line."""
    for _ in range(chosen.randint(1, 4)):
        at = chosen.randrange(len(text) + 1)
        kind = chosen.random()
        if kind < 0.8:
            text = text[:at] + chosen.choice(TOKENS) + text[at + chosen.randint(0, 8) :]
        elif kind < 0.9:
            text = text[:at]
        else:
            lines = text.splitlines(keepends=True) or [""]
            lines.insert(chosen.randrange(len(lines) + 1), chosen.choice(lines))
            text = "".join(lines)
    return text


def test_damaged_configs_are_refused_or_loaded_in_bounded_time(tmp_path, soak):
    chosen, path = random.Random(1), tmp_path / "damaged.yaml"
    shipped = [file.read_text() for file in sorted(CONFIGS.glob("*.yaml"))]
    slowest, largest, codes, loaded, placed, lines = 0.0, 0.0, set(), 0, 0, 0
    count = soak.times(250, 20_000)
    for _ in range(count):
        path.write_text(damaged(chosen.choice(shipped), chosen))
        before, began = soak.peak(reset=True), time.process_time()
        try:
            load_config(path)
            loaded += 1
        except InputError as error:
            for line in str(error).splitlines():
                assert line.isprintable()
                assert len(line) <= 500
                codes.update(re.findall(r"error\[(E-[A-Z]+)\]", line))
                placed += "damaged.yaml:" in line
                lines += 1
        slowest = max(slowest, time.process_time() - began)
        largest = max(largest, (soak.peak() - before) / 1e6)
    assert slowest < 2.0
    assert largest < 500
    assert [file.name for file in tmp_path.iterdir()] == ["damaged.yaml"]
    assert placed > 0.95 * lines
    assert "E-BUG" not in codes
    share = round(placed / lines, 4)
    numbers = {
        "configs": count,
        "loaded": loaded,
        "codes": len(codes),
        "unhandled": 0,
        "share_with_file_and_line": share,
    }
    title = "Shipped configs with random changes"
    soak.figure("R12-configs", title, **numbers, slowest_s=round(slowest, 3), largest_MB=round(largest, 1))

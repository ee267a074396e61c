"""What a kill leaves of the files that a script usually writes, beside a run's parts."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time

import pandas as pd
import pytest

from expreg.core.store.part import scan

# Each child stores 200 rows a time for ever, and prints a line for each time that it has.
HEAD = """\
import json, os, sqlite3, sys
import pandas as pd, pyarrow as pa, pyarrow.parquet as pq
place = sys.argv[1]
def batches():
    k = 0
    while True:
        yield [{"cell": f"{i:016x}", "status": "converged", "loss": 1 / (i + 1)} for i in range(k, k + 200)]
        k += 200
        print(k, flush=True)
rows = []
"""
WAYS = {
    "JSON, written anew": 'for batch in batches():\n    rows += batch\n    json.dump(rows, open(place, "w"))',
    "JSON, renamed": """\
for batch in batches():
    rows += batch
    with open(place + ".new", "w") as file:
        json.dump(rows, file)
    os.replace(place + ".new", place)""",
    "JSON Lines, appended": """\
with open(place, "a") as file:
    for batch in batches():
        file.writelines(json.dumps(row) + "\\n" for row in batch)
        file.flush()""",
    "Parquet, one writer": """\
with pq.ParquetWriter(place, pa.Table.from_pylist(next(batches())).schema) as writer:
    for batch in batches():
        writer.write_table(pa.Table.from_pylist(batch))""",
    "Parquet, written anew": "for batch in batches():\n    rows += batch\n    pd.DataFrame(rows).to_parquet(place)",
    "SQLite": """\
with sqlite3.connect(place) as database:
    database.execute("CREATE TABLE IF NOT EXISTS rows (cell, status, loss)")
    for batch in batches():
        database.executemany("INSERT INTO rows VALUES (:cell, :status, :loss)", batch)
        database.commit()""",
    "parts of a run": """\
from expreg.core.store.store import Store
with Store.open(place, {"hash": "0", "identity": {}}, "", fresh=True) as store:
    for batch in batches():
        store.commit({**row, "steps": 1} for row in batch)""",
}


def stored(way, place):
    """Return how many rows a reader finds; raise where it finds something else."""
    if way == "parts of a run":
        parts = list(scan(place, None))
        assert all(part.file is not None for part in parts)
        return sum(len(part.rows) for part in parts)
    if way == "SQLite":
        with sqlite3.connect(place) as database:
            return database.execute("SELECT count(*) FROM rows").fetchone()[0]
    if way == "JSON Lines, appended":
        return len([json.loads(line) for line in place.read_text().splitlines()])
    return len(pd.read_parquet(place)) if way.startswith("Parquet") else len(json.loads(place.read_text()))


OURS = "parts of a run"


@pytest.mark.parametrize("way", WAYS if os.environ.get("EXPREG_SOAK") else [OURS])
def test_what_a_kill_leaves(tmp_path, soak, way):
    times, moment, unreadable, lost = soak.times(2, 25), random.Random(3), 0, 0
    for k in range(times):
        place = tmp_path / f"{k}"
        words = [sys.executable, "-c", HEAD + WAYS[way], str(place)]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        process.stdout.readline()  # the first rows are stored
        time.sleep(moment.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        acknowledged = max(map(int, process.communicate()[0].split()), default=200)
        try:
            found = stored(way, place)
        except (ValueError, OSError, sqlite3.Error):  # ArrowInvalid is a ValueError
            unreadable += 1
        else:
            lost += found < acknowledged
    if way == OURS:
        assert (unreadable, lost) == (0, 0)
    name = f"R3-{list(WAYS).index(way)}"
    soak.figure(name, f"{way}: killed while it is written", kills=times, unreadable=unreadable, rows_lost=lost)

"""Which cells a worker gets next: those of a program that it keeps, as many as it runs in some seconds."""

from collections import deque
from collections.abc import Collection, Hashable, Mapping
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

from expreg.backends.worker import batches
from expreg.core.engine.lanes import work
from expreg.core.engine.search import Cells
from expreg.types import Experiment

PIECES = 8
"""Into how many batches the cells of a worker that has ended are split."""


class Batch(NamedTuple):
    """Cells of one program that run together, and for how many cells the lanes of that program are chosen."""

    signature: Hashable
    cells: Cells
    lanes: int


class Queue:
    """The cells that wait, by program, for `workers` that share them; the costliest first.

    `expected`: cells such as one queue may have, by which lanes are chosen where they are more.
    """

    def __init__(self, experiment: Experiment, cells: Cells, expected: Cells, workers: int) -> None:
        groups, more = _by_program(experiment, cells), _by_program(experiment, expected)
        costs = {one: work(experiment, next(iter(of.values()))[0], len(of)) for one, of in groups.items()}
        self._groups = {one: groups[one] for one in sorted(groups, key=lambda one: -costs[one])}
        self._again: deque[Batch] = deque()
        self._workers = workers
        share = -(-max(len(cells), len(expected)) // workers)
        self._lanes = {one: min(max(len(group), len(more.get(one, ()))), share) for one, group in groups.items()}

    def __len__(self) -> int:
        return sum(map(len, self._groups.values())) + sum(len(batch.cells) for batch in self._again)

    def take(self, sizes: Mapping[Hashable, int], running: Collection[Hashable], width: int | None) -> Batch:
        """Return the next batch of a worker.

        `sizes`: of its next batch, by program that it keeps; `running`: the programs that others run now. `width`: how
        many cells it runs in the time of one, None: as many as there are lanes. The last batches are smaller, so that
        all workers end together.
        """
        if self._again:
            return self._again.popleft()
        signature = max(self._groups, key=lambda one: (one in sizes, one not in running))
        group, lanes = self._groups[signature], self._lanes[signature]
        width, share = width or lanes, -(-len(self) // self._workers)
        size = max(min(sizes.get(signature, width), share // 2), min(width, share))
        cells = {cell: group.pop(cell) for cell in list(islice(group, min(size, lanes)))}
        if not group:
            del self._groups[signature]
        return Batch(signature, cells, lanes)

    def give_back(self, batch: Batch) -> None:
        """Let cells whose worker has ended run again, before all others and in smaller batches."""
        pieces = batches(batch.cells, -(-len(batch.cells) // PIECES))
        self._again.extend(batch._replace(cells=cells) for cells in pieces)


def _by_program(experiment: Experiment, cells: Cells) -> dict[Hashable, Cells]:
    groups: dict[Hashable, Cells] = {}
    for cell, known in cells.items():
        signature = None
        with suppress(Exception):  # reported in its row
            signature = experiment.signature(known[0])
        groups.setdefault(signature, {})[cell] = known
    return groups

"""Continuous batching: the lanes of a program run slice by slice, are harvested and refilled until no cell is left.

Shapes never change, so nothing recompiles; one straggler holds up nobody; every lane computes exactly what it
would compute alone. On CPUs the lanes of a device run one after the other on its core (`lax.map`), each leaving its
loop when it is done, or in small groups (`Program.group`); on accelerators they are vmapped. Cells are spread over all
local devices, or each cell over those of all processes; these then do the same, and what depends on a clock is that of
the first.
"""

import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from expreg.core.config.parts import kind_of
from expreg.core.engine.checkpoints import Checkpoints
from expreg.core.engine.devices import AXIS, mesh, numerics
from expreg.core.engine.failures import NoExample, error_row, only_this_cell, out_of_memory
from expreg.core.engine.pace import Spent
from expreg.core.engine.processes import agreed
from expreg.core.engine.programs import Compiled, Example, compile_program, lanes_that_fit, remembered
from expreg.errors import Interrupted, StorageError
from expreg.types import FAILED, Experiment, Row, Settings, Tree, cores

Cell = tuple[str, Settings]
MAX_BLOCKS = 1 << 20
"""Blocks per slice at the most; a slice of nothing but short runs would otherwise double it for ever."""


@dataclass
class _Queue:
    """The cells of one program: in lanes, in order of their start; with inputs prepared; waiting; ended, as rows."""

    waiting: deque[Cell]
    prepared: deque[tuple[Cell, Tree]] = field(default_factory=deque)
    occupied: dict[int, Cell] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    def take_rows(self) -> list[Row]:
        """Return the rows of the cells that have ended since they were last taken."""
        rows, self.rows = self.rows, []
        return rows

    def give_back(self) -> int:
        """Let every cell wait again, in order; return how many of them were in lanes."""
        started = len(self.occupied)
        self.waiting.extendleft(reversed([*self.occupied.values(), *(cell for cell, _ in self.prepared)]))
        self.occupied.clear()
        self.prepared.clear()
        return started

    def take(self, count: int) -> list[Cell]:
        """Return the first waiting cells, which wait no more."""
        return [self.waiting.popleft() for _ in range(count)]


@dataclass
class Engine:
    """Run cells of one experiment on the local devices. `compilations` lists (signature, lanes, seconds; 0 if kept).

    `expected`: cells of each program in all calls of `run` together, where these are more than one; its lanes are
    chosen for that many. `checkpoints`: those from which cells go on, and where they are saved. `spent` is what all
    calls of `run` have spent so far, `occupied` how many lanes hold a cell now, and how many there are.
    """

    experiment: Experiment
    lanes: int | None = None
    devices: int | None = None
    shard: str = AXIS
    slice_seconds: float = 0.25
    cell_timeout: float | None = None
    checkpoints: Checkpoints | None = None
    stop: Callable[[], bool] = lambda: False
    compilations: list[tuple[Hashable, int, float]] = field(default_factory=list)
    expected: Mapping[Hashable, int] = field(default_factory=dict)
    spent: Spent = field(default_factory=Spent)
    occupied: tuple[int, int] = (0, 0)
    _blocks: dict[Hashable, int] = field(default_factory=dict)  # of the last slice of each program

    @property
    def mesh(self) -> Mesh:
        """The devices that run cells."""
        return mesh(self.devices, self.shard)

    def run(self, cells: Iterable[Cell]) -> Iterator[list[Row]]:
        """Yield the rows of newly finished cells after every slice, until all are finished or `stop()` is true.

        Cells that share a signature share a program; programs are compiled ahead in the background, the costliest
        first. Rows have `cell`, `seconds` (device time) and what the experiment makes of a record. A cell whose own
        functions raise ends as `error`, one that runs for more than `cell_timeout` seconds as `timeout`, one that
        does not fit into memory alone as `oom`. Every cell gets exactly one row, or none if it was stopped.
        """
        missing = dict(cells)
        for rows in self._rows(missing.copy().items()):
            for row in rows:
                del missing[row["cell"]]
            yield rows
        if missing and not self.stop():
            lost = RuntimeError("the engine lost this cell; please report it")
            yield [error_row(cell, lost) for cell in missing]

    def _rows(self, cells: Iterable[Cell]) -> Iterator[list[Row]]:
        groups: dict[Hashable, list[Cell]] = {}
        known: dict[Hashable, Hashable] = {}
        failed: list[Row] = []
        for cell in cells:
            with only_this_cell(cell[0], failed):
                kind = kind_of(cell[1])
                if kind not in known:
                    known[kind] = self.experiment.signature(cell[1])
                groups.setdefault(known[kind], []).append(cell)
        if failed:
            yield failed
        order = sorted(groups.items(), key=lambda group: -work(self.experiment, group[1][0][1], len(group[1])))
        pool = ThreadPoolExecutor(compilers(), thread_name_prefix="expreg-compile")
        try:
            ahead = [pool.submit(self._compile, signature, members) for signature, members in order]
            for (signature, members), future in zip(order, ahead, strict=True):
                if self.stop():
                    return
                yield from self._drain(signature, members, future.result)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _compile(self, signature: Hashable, members: list[Cell], lanes: int | None = None) -> Compiled:
        given, devices = lanes or self.lanes, self.mesh
        count = max(len(members), self.expected.get(signature, 0))
        with numerics():
            inputs, size = example = self._example(members)
            leaves, structure = jax.tree.flatten(inputs)
            shapes = tuple((np.shape(leaf), leaf.dtype) for leaf in leaves)
            room = lanes_that_fit(max(size, 1.0), devices, count)
            key = (id(self.experiment.build), signature, given, devices, size, room, structure, shapes)
            arguments = (self.experiment, signature, example, given, devices, count)
            program = remembered(key, self.experiment, lambda: compile_program(*arguments))
        self.compilations.append((signature, program.lanes, program.seconds))
        return replace(program, example=inputs)

    def _example(self, members: list[Cell]) -> Example:
        """Return that of the first cell that can be prepared."""
        failed: list[Row] = []
        for cell, settings in members:
            with only_this_cell(cell, failed, alone=True):
                return self.experiment.prepare(settings), self.experiment.cost(settings).bytes
        raise NoExample(failed)

    def _drain(self, signature: Hashable, members: list[Cell], compiled: Callable[[], Compiled]) -> Iterator[list[Row]]:
        """Run all cells of one program.

        Out of memory halves its lanes, down to one per device, or one group. Where that, or another failure, leaves
        open which cell is the cause, those that were in lanes run again, alone.
        """
        queue = _Queue(deque(members))
        smallest = self.mesh.size
        lanes = 2 * smallest
        while queue.waiting and not self.stop():
            program = None
            try:
                began = time.monotonic()
                program = compiled()
                self._spend(waiting=time.monotonic() - began)
                lanes, smallest = program.lanes, self.mesh.size * program.group
                yield from self._occupy(program, queue)
            except (StorageError, Interrupted):
                raise
            except NoExample as failure:
                yield failure.rows
                return
            except Exception as failure:
                if self.mesh.is_multi_process:  # the others may wait for this one, whose end they see
                    raise
                yield queue.take_rows()
                started = queue.give_back()
                if out_of_memory(failure) and lanes > smallest:
                    lanes //= 2
                    compiled = partial(self._compile, signature, list(queue.waiting), lanes)
                elif program is None:
                    yield [error_row(cell, failure) for cell, _ in queue.take(len(queue.waiting))]
                else:  # without any in lanes it was the next one
                    for cell in queue.take(started or 1):
                        yield from self._alone(program, cell)

    def _alone(self, program: Compiled, cell: Cell) -> Iterator[list[Row]]:
        """Run one cell while the other lanes idle; what fails now is its own failure."""
        queue = _Queue(deque([cell]))
        try:
            yield from self._occupy(program, queue)
        except (StorageError, Interrupted):
            raise
        except Exception as failure:
            yield queue.take_rows() or [error_row(cell[0], failure)]

    def _occupy(self, program: Compiled, queue: _Queue) -> Iterator[list[Row]]:
        """Step the lanes of one program until no cell waits and every lane is idle."""
        with numerics():
            state = program.start()
            inputs: Tree = None
            buffers, views = program.buffers(program.example)
        seconds, unsaved = np.zeros(program.width), np.zeros(program.width)  # of its cell; since its last checkpoint
        blocks = self._blocks.get(program.signature, 1)
        while not self.stop():
            with numerics():
                fresh = self._refill(views, queue, program)
                seconds[fresh] = unsaved[fresh] = 0
                state = self._restore(program, queue, state, fresh, seconds)
                self.occupied = len(queue.occupied), program.lanes
                if queue.occupied:
                    began = time.monotonic()
                    if fresh.any() or inputs is None:
                        inputs = program.place(buffers)
                    state, running, record = program.execute(state, fresh, inputs, np.int32(blocks))
                    while queue.waiting and len(queue.prepared) < program.lanes and not running.is_ready():  # type: ignore[attr-defined]
                        self._prepare(queue)
                    done = ~np.asarray(running)
                    elapsed = float(agreed(time.monotonic() - began, self.mesh))
                    self._spend(device=elapsed * self.mesh.size)
                    seconds[list(queue.occupied)] += elapsed * self.mesh.size / len(queue.occupied)
                    unsaved += elapsed
                    self._harvest(program, queue, done, record, seconds)
                    state = self._stop_late(program, queue, state, seconds)
                    if self.checkpoints:
                        self.checkpoints.save(program, state, queue.occupied, seconds, unsaved)
            yield queue.take_rows()
            if not (queue.occupied or queue.prepared or queue.waiting):
                return
            wanted = blocks * self.slice_seconds / max(elapsed, 1e-4)
            blocks = self._blocks[program.signature] = int(np.clip(wanted, 1, min(2 * blocks + 1, MAX_BLOCKS)))
        if self.checkpoints:
            with numerics():
                self.checkpoints.save(program, state, queue.occupied, seconds, unsaved, ending=True)

    def _restore(self, program: Compiled, queue: _Queue, state: Tree, fresh: np.ndarray, seconds: np.ndarray) -> Tree:
        """Return the state in which cells with a checkpoint go on from it; their lanes are no longer fresh."""
        for lane in map(int, np.flatnonzero(fresh)):
            if self.checkpoints and (saved := self.checkpoints.restore(program, queue.occupied[lane][0])):
                state = program.put(state, np.arange(program.width) == lane, saved[0])
                fresh[lane], seconds[lane] = False, saved[1]
        return state

    def _spend(self, device: float = 0.0, waiting: float = 0.0) -> None:
        self.spent = Spent(self.spent.device + device, self.spent.waiting + waiting)

    def _prepare(self, queue: _Queue) -> None:
        """Prepare the inputs of the next waiting cell; it waits on if there is no memory for them."""
        name, settings = queue.waiting[0]
        with only_this_cell(name, queue.rows):
            queue.prepared.append(((name, settings), self.experiment.prepare(settings)))
        queue.waiting.popleft()

    def _refill(self, views: Tree, queue: _Queue, program: Compiled) -> np.ndarray:
        """Put cells into the idle lanes; return which lanes are fresh."""
        fresh, (buffers, structure) = np.zeros(program.width, bool), jax.tree.flatten(views)
        busy = {lane // program.group for lane in queue.occupied}
        for lane in (lane for lane in range(program.lanes) if lane // program.group not in busy):
            while (queue.prepared or queue.waiting) and not fresh[lane]:
                if not queue.prepared:
                    self._prepare(queue)
                    continue
                cell, inputs = queue.prepared[0]
                with only_this_cell(cell[0], queue.rows):
                    _put(lane, buffers, structure.flatten_up_to(inputs))  # type: ignore[attr-defined]
                    queue.occupied[lane], fresh[lane] = cell, True
                queue.prepared.popleft()
        return fresh

    def _harvest(
        self, program: Compiled, queue: _Queue, done: np.ndarray, record: dict[str, jax.Array], seconds: np.ndarray
    ) -> None:
        """Take the finished cells out of their lanes and make their rows."""
        finished = sorted(lane for lane in queue.occupied if done[lane])
        host = program.records(jax.device_get(record)) if finished else {}
        for lane in finished:
            name, settings = queue.occupied[lane]
            with only_this_cell(name, queue.rows):
                own = {key: values[lane] for key, values in host.items()}
                row = self.experiment.row(settings, own)
                queue.rows.append({"seconds": float(seconds[lane]), **row, "cell": name})
            del queue.occupied[lane]

    def _stop_late(self, program: Compiled, queue: _Queue, state: Tree, seconds: np.ndarray) -> Tree:
        """Take the cells whose time is over out of their lanes, and return the state in which these idle."""
        limit = np.inf if self.cell_timeout is None else self.cell_timeout
        late = [lane for lane in queue.occupied if seconds[lane] >= limit]
        for lane in late:
            spent, name = float(seconds[lane]), queue.occupied.pop(lane)[0]
            reason = f"ran for {spent:.3g} s; execution.cell_timeout is {limit:g} s"
            queue.rows.append({"cell": name, "status": "timeout", "status_detail": reason, "seconds": spent})
        return program.clear(state, np.isin(np.arange(program.width), late)) if late else state


def run_again(experiment: Experiment, settings: Settings) -> Row:
    """Return the row of one cell, run on its own; raise RuntimeError with its reason if it fails."""
    [row] = [row for rows in Engine(experiment).run([("cell", settings)]) for row in rows]
    if row["status"] in FAILED:
        raise RuntimeError(row["status_detail"])
    return row


def work(experiment: Experiment, settings: Settings, count: int) -> float:
    """Return the flops that so many cells of one program are expected to take, 0 where that is not known."""
    with suppress(Exception):  # reported in its row
        return experiment.cost(settings).flops * count
    return 0.0


def compilers() -> int:
    """Return how many programs are compiled at the same time."""
    return min(4, cores())


def _put(lane: int, buffers: list[np.ndarray], values: list[Any]) -> None:
    for buffer, value in zip(buffers, values, strict=True):
        shape = getattr(value, "shape", ())  # np.shape takes longer than all the rest
        if shape != buffer.shape[1:]:
            raise ValueError(f"prepare returned shape {shape}, its program has {buffer.shape[1:]}")
        buffer[lane] = value

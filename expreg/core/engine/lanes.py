"""Continuous batching: the lanes of a program run slice by slice, are harvested and refilled until no cell is left.

Shapes never change, so nothing recompiles; one straggler holds up nobody; every lane computes exactly what it
would compute alone. On CPUs the lanes of a device run one after the other on its core (`lax.map`), each
leaving its loop when it is done; on accelerators they are vmapped. Cells are spread over all local devices.
"""

import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from expreg.core.engine.devices import AXIS, memory, mesh, numerics
from expreg.types import Experiment, Program, Row, Settings, Tree, cores

Cell = tuple[str, Settings]
CPU_LANES = 32
"""Lanes per CPU core: many, so that the cores of a slice finish together; a waiting lane costs memory only."""
MAX_LANES = 1024
"""Lanes per accelerator: more do not speed up the small products of a step."""
MAX_BLOCKS = 1 << 20
"""Blocks per slice at the most; a slice of nothing but short runs would otherwise double it for ever."""
MEMORY_SHARE = 0.25
"""Share of a device's memory that the states of all its lanes may take; a slice needs about twice that."""


@dataclass(frozen=True)
class Compiled:
    """One compiled program: its executable, and the host buffers that feed it."""

    signature: Hashable
    lanes: int
    seconds: float
    execute: Callable[..., tuple[Tree, jax.Array, Tree]]
    start: Callable[[], Tree]  # a state of zeros: every lane idle
    buffers: Tree  # packed inputs of all lanes, NumPy, shape (lanes, ...)
    sharding: NamedSharding


def slice_of_lanes(
    program: Program, batch: int | None, state: Tree, fresh: jax.Array, inputs: Tree, blocks: jax.Array
) -> tuple[Tree, jax.Array, Tree]:
    """Start the fresh lanes, advance every running lane by at most `blocks` blocks, and look at all of them.

    `batch` lanes are vmapped together; None runs them one after the other.
    """

    def fill(lane: tuple[Tree, jax.Array, Tree]) -> Tree:
        own_state, own_fresh, own_inputs = lane
        return jax.lax.cond(own_fresh, lambda: program.init(own_inputs), lambda: own_state)

    def run(own: Tree) -> tuple[Tree, jax.Array, Tree]:
        _, own = jax.lax.while_loop(
            lambda c: (c[0] < blocks) & program.running(c[1]),
            lambda c: (c[0] + 1, program.advance(c[1])),
            (jnp.int32(0), own),
        )
        return own, program.running(own), program.record(own)

    def refill() -> Tree:
        return jax.lax.map(fill, (state, fresh, inputs), batch_size=batch)

    # where lanes are vmapped `fill` computes both of its branches, so nothing at all is done without fresh lanes
    return jax.lax.map(run, jax.lax.cond(fresh.any(), refill, lambda: state), batch_size=batch)


def without_empty(program: Program, inputs: Tree) -> Program:
    """Return the program with states that hold no empty arrays: JAX lays those out as it likes."""
    shapes, structure = jax.tree.flatten(jax.eval_shape(program.init, inputs))
    if all(shape.size for shape in shapes):
        return program

    def pack(state: Tree) -> list[jax.Array]:
        return [leaf for leaf in jax.tree.leaves(state) if leaf.size]

    def unpack(held: list[jax.Array]) -> Tree:
        rest = iter(held)
        leaves = [next(rest) if s.size else jnp.zeros(s.shape, s.dtype) for s in shapes]
        return jax.tree.unflatten(structure, leaves)

    return Program(
        init=lambda start: pack(program.init(start)),
        advance=lambda held: pack(program.advance(unpack(held))),
        running=lambda held: program.running(unpack(held)),
        record=lambda held: program.record(unpack(held)),
    )


def compile_program(
    experiment: Experiment, signature: Hashable, example: Settings, lanes: int | None, devices: Mesh, cells: int
) -> Compiled:
    """Compile the program of one signature for a fixed number of lanes, the same on every device."""
    began = time.monotonic()
    inputs = experiment.prepare(example)
    program = without_empty(experiment.build(signature), inputs)
    state = jax.eval_shape(program.init, inputs)
    # what a lane holds, or what filling it takes where that is more
    lanes = lanes or lanes_that_fit(max(_bytes(state), experiment.cost(example).bytes), devices, cells)
    batch = None if devices.devices.flat[0].platform == "cpu" else lanes // devices.size
    spread = PartitionSpec(AXIS)
    body = jax.shard_map(
        partial(slice_of_lanes, program, batch),
        mesh=devices,
        in_specs=(spread, spread, spread, PartitionSpec()),
        out_specs=spread,
        check_vma=False,
    )
    sharding = NamedSharding(devices, spread)
    buffers = jax.tree.map(lambda leaf: np.repeat(np.asarray(leaf)[None], lanes, axis=0), inputs)

    def wide(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((lanes, *np.shape(leaf)), leaf.dtype, sharding=sharding)

    shapes = jax.tree.map(wide, (state, np.zeros((), bool), inputs))
    blocks = jax.ShapeDtypeStruct((), jnp.int32, sharding=NamedSharding(devices, PartitionSpec()))
    execute = jax.jit(body, donate_argnums=0).lower(*shapes, blocks).compile()
    start = jax.jit(lambda: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes[0]), out_shardings=sharding)
    return Compiled(signature, lanes, time.monotonic() - began, execute, start, buffers, sharding)


def _bytes(tree: Tree) -> float:
    return sum(np.prod(leaf.shape, dtype=float) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def lanes_that_fit(size: float, devices: Mesh, cells: int) -> int:
    """Return the number of lanes for states of `size` bytes: by kind of device and memory, a power of two each."""
    device = devices.devices.flat[0]
    share = memory(device) * MEMORY_SHARE / (devices.size if device.platform == "cpu" else 1)
    most = CPU_LANES if device.platform == "cpu" else min(MAX_LANES, max(1, cells // devices.size))
    local = int(max(1, min(most, share // size)))
    return devices.size << (local.bit_length() - 1)


@dataclass
class Engine:
    """Run cells of one experiment on the local devices. `compilations` lists (signature, lanes, seconds)."""

    experiment: Experiment
    lanes: int | None = None
    devices: int | None = None
    slice_seconds: float = 0.25
    stop: Callable[[], bool] = lambda: False
    compilations: list[tuple[Hashable, int, float]] = field(default_factory=list)

    def run(self, cells: Iterable[Cell]) -> Iterator[list[Row]]:
        """Yield the rows of newly finished cells after every slice, until all are finished or `stop()` says so.

        Cells that share a signature share a program; programs are compiled ahead in the background, the
        costliest first. Rows carry `cell`, `seconds` (device time) and what the experiment makes of a record.
        """
        groups: dict[Hashable, list[Cell]] = {}
        for cell in cells:
            groups.setdefault(self.experiment.signature(cell[1]), []).append(cell)
        order = sorted(groups.items(), key=lambda item: -self.experiment.cost(item[1][0][1]).flops * len(item[1]))
        pool = ThreadPoolExecutor(min(4, cores()), thread_name_prefix="expreg-compile")
        try:
            ahead = [pool.submit(self._compile, signature, members) for signature, members in order]
            for (signature, members), future in zip(order, ahead, strict=True):
                if self.stop():
                    return
                yield from self._drain(signature, members, future.result)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _compile(self, signature: Hashable, members: list[Cell], lanes: int | None = None) -> Compiled:
        with numerics():
            devices = mesh(self.devices)
            program = compile_program(
                self.experiment, signature, members[0][1], lanes or self.lanes, devices, len(members)
            )
        self.compilations.append((signature, program.lanes, program.seconds))
        return program

    def _drain(self, signature: Hashable, members: list[Cell], compiled: Callable[[], Compiled]) -> Iterator[list[Row]]:
        """Run all cells of one program; out of memory halves its lanes, down to one per device."""
        waiting = deque(members)
        lanes = None
        while waiting and not self.stop():
            occupied: list[Cell | None] = []
            try:
                program = compiled()
                lanes, smallest = program.lanes, program.sharding.mesh.size
                occupied = [None] * program.lanes
                yield from self._occupy(program, occupied, waiting)
            except (jax.errors.JaxRuntimeError, MemoryError) as failure:
                if not _out_of_memory(failure):
                    raise
                waiting.extendleft(cell for cell in occupied if cell is not None)
                smallest = mesh(self.devices).size
                lanes = (lanes or 2 * smallest) // 2
                if lanes < smallest:
                    detail = f"out of memory with one lane per device: {str(failure).splitlines()[0][:200]}"
                    yield [{"cell": cell, "status": "oom", "status_detail": detail} for cell, _ in waiting]
                    return
                compiled = partial(self._compile, signature, list(waiting), lanes)

    def _occupy(self, program: Compiled, occupied: list[Cell | None], waiting: deque[Cell]) -> Iterator[list[Row]]:
        """Step the lanes of one program until no cell waits and every lane is idle."""
        with numerics():
            state = program.start()
        prepared: deque[tuple[Cell, Tree]] = deque()
        seconds = np.zeros(program.lanes)
        blocks = 1
        while not self.stop():
            with numerics():
                fresh, rows = self._refill(program, occupied, prepared, waiting)
                seconds[fresh] = 0
                if rows:
                    yield rows
                if not any(occupied):
                    return
                began = time.monotonic()
                inputs = jax.device_put((fresh, program.buffers), program.sharding, may_alias=False)
                state, running, record = program.execute(state, *inputs, np.int32(blocks))
                while waiting and len(prepared) < program.lanes and not running.is_ready():  # type: ignore[attr-defined]
                    prepared.append(self._prepare(waiting.popleft()))
                active = np.array([cell is not None for cell in occupied])
                done = active & ~np.asarray(running)
                elapsed = time.monotonic() - began
                seconds[active] += elapsed * program.sharding.mesh.size / active.sum()
                rows = self._harvest(occupied, done, record, seconds) if done.any() else []
            yield rows
            wanted = blocks * self.slice_seconds / max(elapsed, 1e-4)
            blocks = int(np.clip(wanted, 1, min(2 * blocks + 1, MAX_BLOCKS)))
        waiting.extendleft(cell for cell, _ in prepared)

    def _prepare(self, cell: Cell) -> tuple[Cell, Tree]:
        return cell, self.experiment.prepare(cell[1])

    def _refill(
        self,
        program: Compiled,
        occupied: list[Cell | None],
        prepared: deque[tuple[Cell, Tree]],
        waiting: deque[Cell],
    ) -> tuple[np.ndarray, list[Row]]:
        """Put waiting cells into idle lanes; return which lanes are fresh, and the rows of cells that failed."""
        fresh = np.zeros(len(occupied), bool)
        failed: list[Row] = []
        for lane in [lane for lane, cell in enumerate(occupied) if cell is None]:
            while (prepared or waiting) and occupied[lane] is None:
                cell, inputs = prepared.popleft() if prepared else self._prepare(waiting.popleft())
                occupied[lane], fresh[lane] = cell, True
                jax.tree.map(partial(_put, lane), program.buffers, inputs)
        return fresh, failed

    def _harvest(
        self, occupied: list[Cell | None], done: np.ndarray, record: dict[str, jax.Array], seconds: np.ndarray
    ) -> list[Row]:
        """Take the finished cells out of their lanes and make their rows."""
        host = jax.device_get(record)
        rows: list[Row] = []
        for lane in np.flatnonzero(done):
            cell = occupied[lane]
            assert cell is not None
            own = {name: values[lane] for name, values in host.items()}
            rows.append({"cell": cell[0], "seconds": float(seconds[lane]), **self.experiment.row(cell[1], own)})
            occupied[lane] = None
        return rows


def _put(lane: int, buffer: np.ndarray, value: Any) -> None:
    buffer[lane] = value


def _out_of_memory(failure: BaseException) -> bool:
    return isinstance(failure, MemoryError) or "RESOURCE_EXHAUSTED" in str(failure)

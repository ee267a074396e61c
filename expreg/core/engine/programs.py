"""Compile programs, each one slice of all lanes on all devices, and keep them in memory for the next run.

Each device has lanes of its own; or there is one lane, of which all devices share the neurons, or the rows. Then XLA
adds up what they have of a sum over these: the program is the same.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from expreg.core.engine.devices import AXIS, compiled_for, memory
from expreg.core.engine.packing import packed
from expreg.core.engine.processes import placed
from expreg.core.store.part import digest
from expreg.types import Experiment, Program, Tree

Example = tuple[Tree, float]
"""Inputs of one cell of a program, and the bytes that its cost asks for."""
MAX_LANES = 1024
"""Lanes per device: more neither fill an accelerator better nor save a core anything."""
CORE_BYTES = 16e6
"""Of the lanes of one core together: a slice copies them, and more than fit its cache are slow to step through."""
MEMORY_SHARE = 0.25
"""Share of a device's memory that the states of all its lanes may take; a slice needs about twice that."""
MAX_KEPT = 32
"""Number of programs that stay in memory for later runs in the same process."""


@dataclass(frozen=True)
class Compiled:
    """One compiled program: its executable, and how to feed it."""

    signature: Hashable
    lanes: int  # that cells may use: the first of `width`
    width: int
    group: int  # lanes that begin together
    seconds: float
    execute: Callable[..., tuple[Tree, jax.Array, Tree]]
    start: Callable[[], Tree]  # a state of zeros: every lane idle
    put: Callable[[Tree, np.ndarray, Tree], Tree]  # the state with that of one lane in the marked lanes
    alone: Tree  # shapes, types and shardings of the state of one lane, as `put` takes it
    identity: Callable[[], str]  # digest of what one lane computes, from its inputs to its record
    buffers: Callable[[Tree], tuple[dict[str, np.ndarray], Tree]]  # packed inputs of all lanes; views by their names
    records: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]  # a packed record, by name
    place: Callable[[Tree], Tree]  # the buffers, on the devices
    example: Tree = None  # inputs of one cell: what idle lanes are fed with

    def clear(self, state: Tree, lanes: np.ndarray) -> Tree:
        """Return the state with zeros in the marked lanes, which is what an idle lane has."""
        return self.put(state, lanes, jax.tree.map(lambda leaf: np.zeros((), leaf.dtype), self.alone))


def slice_of_lanes(
    program: Program,
    starts: int | None,
    steps: int | None,
    state: Tree,
    fresh: jax.Array,
    inputs: Tree,
    blocks: jax.Array,
) -> tuple[Tree, jax.Array, Tree]:
    """Start the fresh lanes, advance every running lane by at most `blocks` blocks, and look at all of them.

    As many lanes as `starts` and `steps` are vmapped together; None runs them one after the other.
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
        return jax.lax.map(fill, (state, fresh, inputs), batch_size=starts)

    # where lanes are vmapped `fill` computes both of its branches, so nothing at all is done without fresh lanes
    return jax.lax.map(run, jax.lax.cond(fresh.any(), refill, lambda: state), batch_size=steps)


def compile_program(
    experiment: Experiment, signature: Hashable, example: Example, lanes: int | None, devices: Mesh, cells: int
) -> Compiled:
    """Compile the program of one signature for a fixed number of lanes on `devices`, the same on each.

    Or for one lane on all of them, if they are a mesh over what they share of it.
    """
    began = time.monotonic()
    inputs, size = example
    split = devices.axis_names != (AXIS,)
    program, given, kept = packed(experiment.build(signature), inputs, split=split)
    first = jax.eval_shape(given.pack, inputs)
    state = jax.eval_shape(program.init, first)
    # what a lane holds, or what filling it takes where that is more
    lanes = lanes or lanes_that_fit(max(bytes_of(state), size), devices, cells)
    layout = _split(program, first, state, devices) if split else _side_by_side(program, first, state, lanes, devices)

    def buffers(inputs: Tree) -> tuple[dict[str, np.ndarray], Tree]:
        width = layout.width
        vectors = {name: np.repeat(np.asarray(part)[None], width, axis=0) for name, part in given.pack(inputs).items()}
        return vectors, given.unpack(vectors)

    def wide(leaf: Any, sharding: NamedSharding = layout.lane) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((layout.width, *np.shape(leaf)), leaf.dtype, sharding=sharding)

    def one(leaf: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        alone = NamedSharding(layout.lane.mesh, PartitionSpec(*sharding.spec[1:]))
        return jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype, sharding=alone)

    states, alone = (jax.tree.map(shaped, state, layout.state) for shaped in (wide, one))
    blocks = one(np.int32(0), layout.lane)
    shapes = (states, wide(np.zeros((), bool)), jax.tree.map(wide, first, layout.inputs), blocks)
    execute = layout.jitted.lower(*shapes).compile()
    start = jax.jit(lambda: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), states), out_shardings=layout.state)
    put = jax.jit(with_lanes, donate_argnums=0, out_shardings=layout.state)
    identity = cache(lambda: digest(jax.jit(partial(_whole, program)).lower(first).as_text()))
    place, seconds = partial(placed, layout.inputs), time.monotonic() - began
    shape = (signature, layout.lanes, layout.width, layout.group, seconds)
    return Compiled(*shape, execute, start, put, alone, identity, buffers, kept.unpack, place)


class _Layout(NamedTuple):
    """How lanes lie on devices."""

    lanes: int
    width: int
    group: int
    jitted: Any  # `slice_of_lanes` for these devices
    lane: NamedSharding  # of records
    inputs: Tree  # of each packed leaf of the inputs
    state: Tree  # and of a state


def _side_by_side(program: Program, inputs: Tree, state: Tree, lanes: int, devices: Mesh) -> _Layout:
    on_cpu = devices.devices.flat[0].platform == "cpu"
    group = program.group if on_cpu else 1
    lanes = -(-lanes // (group * devices.size)) * group * devices.size  # a group is whole: its numbers depend on it
    starts = None if on_cpu else lanes // devices.size  # on CPUs it would only take longer to compile
    steps = group if group > 1 else starts
    compiled, spread = compiled_for(devices), PartitionSpec(AXIS)
    body = jax.shard_map(
        partial(slice_of_lanes, program, starts, steps),
        mesh=compiled,
        in_specs=(spread, spread, spread, PartitionSpec()),
        out_specs=spread,
        check_vma=False,
    )
    sharding = NamedSharding(compiled, spread)
    width = lanes // devices.size * compiled.size
    given, states = jax.tree.map(lambda _: sharding, (inputs, state))
    return _Layout(lanes, width, group, jax.jit(body, donate_argnums=0), sharding, given, states)


def _split(program: Program, inputs: Tree, state: Tree, devices: Mesh) -> _Layout:
    """Lay the arrays in `program.split` over the devices, each along its axis; each has all of everything else."""
    whole = NamedSharding(devices, PartitionSpec())

    def of(name: str, leaf: Any) -> NamedSharding:
        axes = [program.split[part] for part in name.split(".") if part in program.split]
        if not axes or not leaf.ndim:  # optimizers also count steps
            return whole
        places: list[str | None] = [None] * leaf.ndim
        (places[axes[0]],) = devices.axis_names
        return NamedSharding(devices, PartitionSpec(None, *places))

    def body(*arguments: Any) -> tuple[Tree, jax.Array, Tree]:
        with jax.sharding.use_abstract_mesh(devices.abstract_mesh):  # by which a program finds its axis
            return slice_of_lanes(program, None, None, *arguments)

    given, states = ({name: of(name, leaf) for name, leaf in tree.items()} for tree in (inputs, state))
    jitted = jax.jit(body, donate_argnums=0, out_shardings=(states, whole, whole))
    return _Layout(1, 1, 1, jitted, whole, given, states)


def _whole(program: Program, inputs: Tree) -> tuple[Tree, ...]:
    state = program.init(inputs)
    return program.advance(state), program.running(state), program.record(state)


def with_lanes(state: Tree, lanes: jax.Array, given: Tree) -> Tree:
    """Return the state with that of one lane, or with a scalar for each leaf, in the marked lanes."""
    return jax.tree.map(lambda leaf, own: jnp.where(lanes.reshape(-1, *[1] * (leaf.ndim - 1)), own, leaf), state, given)


def of_lane(state: Tree, lane: int) -> Tree:
    """Return the state of one lane, from the device that has it where lanes are spread over devices."""

    def own(leaf: jax.Array) -> jax.Array:
        for shard in leaf.addressable_shards:
            place = range(*shard.index[0].indices(len(leaf)))
            if lane in place and len(place) < len(leaf):
                return shard.data[place.index(lane)]
        return leaf[lane]

    return jax.tree.map(own, state)


def bytes_of(tree: Tree) -> float:
    """Return the bytes of all leaves."""
    return sum(np.prod(leaf.shape, dtype=float) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def lanes_that_fit(size: float, devices: Mesh, cells: int) -> int:
    """Return the number of lanes for states of `size` bytes: by kind of device and memory, a power of two each.

    One where devices share one cell.
    """
    if devices.axis_names != (AXIS,):
        return 1
    device = devices.devices.flat[0]
    share = memory(device) * MEMORY_SHARE
    if device.platform == "cpu":
        share = min(share / devices.size, CORE_BYTES)
    most = 1 << max(-(-cells // devices.size) - 1, 0).bit_length()
    local = int(max(1, min(MAX_LANES, most, share // size)))
    return devices.size << (local.bit_length() - 1)


# --- kept in memory ----------------------------------------------------------------------------------

_programs: OrderedDict[Hashable, tuple[Any, Compiled]] = OrderedDict()
_lock = threading.Lock()


def remembered(key: Hashable, experiment: Experiment, compiled: Callable[[], Compiled]) -> Compiled:
    """Return the program kept under `key`, or compile and keep it."""
    with _lock:
        if key in _programs:
            _programs.move_to_end(key)
            return _programs[key][1]
    found = compiled()
    with _lock:
        # the reference keeps `build` alive: the key holds only its id
        _programs[key] = (experiment.build, replace(found, seconds=0.0))
        while len(_programs) > MAX_KEPT:
            _programs.popitem(last=False)
    return found


def forget() -> None:
    """Forget all kept programs; needed when a name may refer to another record."""
    with _lock:
        _programs.clear()

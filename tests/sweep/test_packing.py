"""Packed trees: a vector for each data type, what does not fit beside them, and the same tree again."""

import jax
import jax.numpy as jnp
import numpy as np

from expreg.core.engine.packing import SMALL, packed, packing
from expreg.types import Program

TREE = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": (np.float32(7), np.int32(8), np.array([True, False])),
    "empty": np.zeros((0, 4), np.float32),
    "never": np.zeros((3, 0), np.uint8),
    "large": np.arange(SMALL + 1, dtype=np.float32),
}


def test_a_tree_is_one_vector_for_each_type_and_every_large_leaf():
    pack, _ = packing(TREE)
    sizes = {name: vector.shape for name, vector in pack(jax.tree.map(jnp.asarray, TREE)).items()}
    assert sorted(sizes.values()) == [(1,), (2,), (7,), (SMALL + 1,)]
    assert {name for name in sizes if not name.isdigit()} == {"float32", "int32", "bool"}


def test_unpacking_gives_the_tree_again_with_leading_axes():
    pack, unpack = packing(TREE)
    wide = jax.tree.map(lambda leaf: np.stack([leaf, leaf + leaf]), TREE)
    found = unpack(pack(wide))
    jax.tree.map(np.testing.assert_array_equal, found, wide)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), found) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), wide
    )


def test_the_leaves_of_a_buffer_are_views():
    pack, unpack = packing(TREE)
    buffers = {name: np.repeat(np.asarray(vector)[None], 3, axis=0) for name, vector in pack(TREE).items()}
    unpack(buffers)["a"][1] = -1.0
    np.testing.assert_array_equal(unpack(buffers)["a"][1], np.full((2, 3), -1.0))
    np.testing.assert_array_equal(unpack(buffers)["a"][2], TREE["a"])


def test_a_packed_program_does_what_the_program_does():
    program = Program(
        init=lambda x: {"t": jnp.int32(0), "x": x["x"], "none": jnp.zeros((0,))},
        advance=lambda s: {**s, "t": s["t"] + 1, "x": 2 * s["x"]},
        running=lambda s: s["t"] < 3,
        record=lambda s: {"x": s["x"], "t": s["t"]},
    )
    inputs = {"x": jnp.arange(4.0)}
    narrow, given, kept = packed(program, inputs)
    state = jax.lax.while_loop(narrow.running, narrow.advance, narrow.init(given.pack(inputs)))
    found = kept.unpack({name: np.asarray(vector) for name, vector in narrow.record(state).items()})
    np.testing.assert_array_equal(found["x"], 8 * np.arange(4.0))
    assert int(found["t"]) == 3

"""Blocks in one scan: the same as one after the other, and a program that does not grow with their number."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax.models import quantize
from mirage_jax.models.dit import DiT, DiTConfig
from mirage_jax.models.generator import Generator
from mirage_jax.models.nn import blocks, rope
from mirage_jax.models.side_branch import SideBlock, SideBranch, SideBranchConfig

SIZE = DiTConfig(dim=12, ffn_dim=16, heads=2, layers=5, in_channels=3, text_dim=5, text_tokens=2)
SIDE = SideBranchConfig(control_channels=4, every=2)
FRAMES, TOKENS = 2, 4


def drawn(shapes, seed=0):
    """Numbers for shapes, so that no projection is zero."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape).astype(x.dtype) * 0.3), shapes)


def arguments():
    return {
        "target": drawn(jax.ShapeDtypeStruct((FRAMES, 4, 4, 3), np.float32), 1),
        "timesteps": jnp.array([0.0, 400.0]),
        "control": drawn(jax.ShapeDtypeStruct((FRAMES, 4, 4, 4), np.float32), 2),
        "text": drawn(jax.ShapeDtypeStruct((2, 5), np.float32), 3),
    }


def shapes(layers=5, every=2):
    """Of the parameters of a generator, a tree a block."""
    generator = Generator(dataclasses.replace(SIZE, layers=layers), dataclasses.replace(SIDE, every=every))
    return generator, jax.eval_shape(generator.init, jax.random.key(0), **arguments())["params"]


def stacked(params):
    return {part: blocks.stacked(tree) for part, tree in params.items()}


def given():
    modulation = drawn(jax.ShapeDtypeStruct((FRAMES, 6, 12), np.float32), 4)
    text = drawn(jax.ShapeDtypeStruct((2, 12), np.float32), 5)
    return modulation, rope.segment_rotary(0, FRAMES, 0, 2, 2, 6), None, text


@pytest.mark.parametrize("every", [2, 3])
def test_scanned_blocks_are_those_one_after_the_other(every):
    _, like = shapes(every=every)
    params, x = drawn(like), drawn(jax.ShapeDtypeStruct((FRAMES, TOKENS, 12), np.float32), 6)
    config = dataclasses.replace(SIDE, every=every)

    stream, hints, count = x, [], -(-SIZE.layers // every)
    for index in range(count):
        block = SideBlock(SIZE, first=index == 0)
        stream, hint = block.apply({"params": params["side"][f"blocks_{index}"]}, stream, x, *given())
        hints.append(hint)
    branch = SideBranch(SIZE, config)
    found = branch.apply({"params": params["side"]}, x, x, *given(), method=SideBranch._hints)
    np.testing.assert_allclose(found, hints, rtol=1e-5, atol=1e-5)

    late, expected = jnp.stack(hints)[:, 1:], x  # hints for the last frame only
    for index in range(SIZE.layers):
        expected = SIZE.block().apply({"params": params["dit"][f"blocks_{index}"]}, expected, *given())
        if index % every == 0:
            expected = expected.at[1:].add(late[index // every])
    time = drawn(jax.ShapeDtypeStruct((FRAMES, 12), np.float32), 7), given()[0]
    dit = {"params": params["dit"]}
    found = DiT(SIZE).apply(dit, x, time, *given()[1:], late, every)
    head = DiT(SIZE).apply(dit, expected, time[0], method=lambda model, x, embedding: model.head(x, embedding))
    np.testing.assert_allclose(found, head, rtol=1e-4, atol=1e-4)


def test_stacked_before_or_inside_is_the_same():
    generator, like = shapes(layers=3)
    params = drawn(like)
    run = jax.jit(lambda params: generator.apply({"params": params}, **arguments()))
    np.testing.assert_array_equal(run(stacked(params)), run(params))
    again = stacked(stacked(params))
    jax.tree.map(np.testing.assert_array_equal, again, stacked(params))
    for tree in (params, stacked(params)):
        jax.tree.map(np.testing.assert_array_equal, {part: blocks.apart(tree[part]) for part in tree}, params)


def test_eight_bits_of_stacked_blocks_are_those_of_each():
    pytest.importorskip("qwix")
    params = drawn(shapes(layers=3)[1])
    one_by_one, together = stacked(quantize.int8(params)), quantize.int8(stacked(params))
    jax.tree.map(np.testing.assert_array_equal, one_by_one, together)


def test_a_program_does_not_grow_with_depth():
    def lines(layers):
        generator, like = shapes(layers)
        like = jax.eval_shape(stacked, like)
        run = jax.jit(lambda params: generator.apply({"params": params}, **arguments()))
        return run.lower(like).as_text().count("\n")

    assert lines(30) < 1.3 * lines(blocks.SHALLOW + 1)

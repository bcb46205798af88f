"""Taking points out of a memory, against the twin, under jit, scan and vmap."""

import jax
import jax.numpy as jnp
import memory_twin
import numpy as np
import pytest
from jax import lax

from mirage_jax.geometry import Camera
from mirage_jax.memory import latent


def world(seed, capacity=40):
    """A memory and its twin after two writes of 4x5 cells each, and the cameras that wrote."""
    rng = np.random.default_rng(seed)
    k = np.array([[4, 0, 2.5], [0, 4, 2], [0, 0, 1]], np.float32)
    cameras = Camera(np.tile(k, (2, 1, 1)), np.tile(np.eye(4, dtype=np.float32), (2, 1, 1)), 4, 5)
    features, depth = (
        rng.normal(size=(2, 4, 5, 3)).astype(np.float32),
        rng.uniform(0.5, 3, (2, 4, 5)).astype(np.float32),
    )
    keep, sky = rng.random((2, 4, 5)) < 0.8, rng.random((2, 4, 5)) < 0.1
    views = [memory_twin.View(k, np.eye(4, dtype=np.float32), 4, 5)] * 2
    twin = memory_twin.Memory(capacity)
    memory = latent.create(capacity, 3)
    for i in range(2):
        at = slice(i, i + 1)
        twin.write(features[at], depth[at], views[at], keep[at], sky[at])
        memory = latent.write(memory, features[at], depth[at], cameras[at], keep[at], sky[at])
    return memory, twin, cameras, views[0]


def same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("seed", range(5))
def test_what_is_left_reads_and_goes_on_as_in_the_twin(seed):
    memory, twin, cameras, view = world(seed)
    gone = np.random.default_rng(seed + 100).random(memory.capacity) < 0.4
    left = jax.jit(latent.retire)(memory, gone)
    twin.points = [point for number, point in enumerate(twin.points) if not gone[number]]
    assert int(left.size) == len(twin.points) < int(memory.size)
    for number, point in enumerate(twin.points):
        np.testing.assert_array_equal(left.points[number], point.position)
        np.testing.assert_array_equal(left.features[number], point.feature)
        assert left.cell_size[number] == point.cell_size
    assert not np.asarray(left.points)[len(twin.points) :].any()
    again = np.ones((2, 4, 5), bool)
    more, far = np.ones((2, 4, 5, 3), np.float32), np.full((2, 4, 5), 2, np.float32)
    left = latent.write(left, more, far, cameras, again)
    twin.write(more, far, [view] * 2, again, ~again)
    assert int(left.overflow) == twin.overflow and int(left.size) == len(twin.points)
    found = latent.read(left, cameras[:1])
    expected = memory_twin.read(twin, view, 1)
    for name, want in zip(("features", "visible", "depth", "scale", "index"), expected, strict=True):
        np.testing.assert_array_equal(np.asarray(getattr(found, name))[0], want, err_msg=name)


def test_nothing_gone_changes_nothing_and_all_gone_leaves_nothing():
    memory, _, _, _ = world(0)
    same(latent.retire(memory, jnp.zeros(memory.capacity, bool)), memory)
    empty = latent.retire(memory, jnp.ones(memory.capacity, bool))
    assert int(empty.size) == 0 and not empty.points.any()


def test_scan_and_vmap_give_the_same_bits():
    memories = [world(seed)[0] for seed in range(3)]
    gone = np.random.default_rng(9).random((3, 40)) < 0.5
    expected = [latent.retire(memory, mask) for memory, mask in zip(memories, gone, strict=True)]
    stack = lambda trees: jax.tree.map(lambda *x: jnp.stack(x), *trees)  # noqa: E731
    same(jax.vmap(latent.retire)(stack(memories), gone), stack(expected))
    scanned = lax.scan(lambda _, x: (None, latent.retire(*x)), None, (stack(memories), gone))[1]
    same(scanned, stack(expected))

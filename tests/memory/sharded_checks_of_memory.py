"""What `test_sharded` checks on 8 virtual devices, as a program: prints a JSON object of what is equal to the bit."""

import dataclasses
import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

from mirage_jax import world
from mirage_jax.geometry import Camera
from mirage_jax.memory import groups, latent, merge, points, sharded
from mirage_jax.models import partition

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "world"))
import tiny_world as tiny

FRAMES, SIZE, CHANNELS = 4, 8, 3
CELLS = FRAMES * SIZE * SIZE


def scene():
    """Tokens (some -0), depth, cameras, keep, sky: every view twice, so that equal depths meet in equal cells."""
    rng = np.random.default_rng(0)
    pose = np.tile(np.eye(4, dtype=np.float32), (FRAMES, 1, 1))
    pose[:, 0, 3] = 0.1 * (np.arange(FRAMES) // 2)
    k = np.tile(np.array([[SIZE, 0, SIZE / 2], [0, SIZE, SIZE / 2], [0, 0, 1]], np.float32), (FRAMES, 1, 1))
    cameras = Camera(intrinsics=jnp.asarray(k), cam2world=jnp.asarray(pose), height=SIZE, width=SIZE)
    depth = jnp.asarray(np.repeat(rng.uniform(1, 4, (FRAMES // 2, SIZE, SIZE)), 2, 0), jnp.float32)
    features = rng.normal(size=(FRAMES, SIZE, SIZE, CHANNELS)) * rng.choice([1, 1, -0.0], (FRAMES, SIZE, SIZE, 1))
    sky = jnp.asarray(rng.random((FRAMES, SIZE, SIZE)) < 0.1)
    return jnp.asarray(features, jnp.float32), depth, cameras, ~sky, sky


def run(capacity, directions, seen):
    """A memory's life: written twice, looked at, thinned out, written until it is full or beyond."""
    write, retire, mark = jax.jit(latent.write), jax.jit(latent.retire), jax.jit(points.mark_seen)
    read = jax.jit(latent.read, static_argnames="max_footprint")
    memory = latent.create(capacity, CHANNELS)
    memory = points.with_directions(memory) if directions else memory
    shown = []
    for turn in range(3):
        half = jax.tree.map(lambda x, turn=turn: x[turn % 2 :: 2], seen)
        memory = write(memory, *half)
        shown += [read(memory, seen[2][1::3], max_footprint=footprint) for footprint in (1, 3)]
        memory = mark(memory, shown[-1].index)
        if turn == 0:
            memory = retire(memory, jnp.arange(capacity) % 5 == 0)
    return memory, shown


def memories():
    """By capacity: whether all is as on one device; 8 devices, and groups of slots out of view."""
    groups.BLOCK, groups.GROUP = 16, 4
    same, seen = {}, scene()
    for capacity, directions in ((2 * CELLS, True), (256, False)):
        alone = run(capacity, directions, seen)
        with jax.set_mesh(partition.make_mesh({"sequence": 8})):
            split = run(capacity, directions, seen)
            parts = len({shard.index[0].start for shard in split[0].x.addressable_shards})
        same[f"{capacity}"] = [equal(split, alone), parts, int(alone[0].overflow)]
    groups.BLOCK, groups.GROUP = 16384, 2048
    return same


def turned_round():
    """Cameras that look back see only what the last four of 8 devices hold: what they wrote, and no other did."""
    groups.BLOCK, groups.GROUP = 16, 4
    features, depth, cameras, keep, sky = scene()
    back = cameras.replace(cam2world=cameras.cam2world * jnp.array([-1, 1, -1, 1]))

    def look(memory):
        for turn in (cameras, back):
            memory = latent.write(memory, features, depth, turn, keep, sky)
        return [latent.read(memory, back, max_footprint=footprint) for footprint in (1, 3)]

    memory = latent.create(2 * CELLS, CHANNELS)
    alone = jax.jit(look)(memory)
    with jax.set_mesh(partition.make_mesh({"sequence": 8})):
        split = jax.jit(look)(memory)
    groups.BLOCK, groups.GROUP = 16384, 2048
    seen = [int(shown.index[shown.visible].min()) for shown in alone]
    return [equal(split, alone), min(seen) >= CELLS]


def scanned():
    """What a rollout does with its memory, in one scan: read, mark what is shown, merge, write; with given tokens."""
    features, depth, cameras, keep, sky = scene()

    def segment(memory, turn):
        seen = jnp.roll(features, turn, 0), depth * (1 + 0.02 * turn), sky, cameras
        shown = latent.read(memory, cameras, max_footprint=3)
        memory = points.mark_seen(memory, shown.index)
        memory, gone, enters = merge.apply("best_view", memory, *seen, shown, keep | sky)
        memory = latent.retire(memory, gone)
        return latent.write(memory, seen[0], seen[1], cameras, keep & enters, sky & enters), shown

    run = lambda memory: jax.lax.scan(segment, memory, jnp.arange(5))  # noqa: E731
    memory = points.with_directions(latent.create(256, CHANNELS))
    alone = jax.jit(run)(memory)
    with jax.set_mesh(partition.make_mesh({"sequence": 8})):
        split = jax.jit(run)(memory)
    return [equal(split, alone), int(alone[0].overflow), int(alone[1].visible.sum())]


def batch():
    """Two examples over `data`, each memory over `sequence`; with the gradient of what is read."""
    features, depth, cameras, keep, sky = scene()

    def one(features, scale):
        memory = latent.write(latent.create(CELLS, CHANNELS), features, depth * scale, cameras, keep, sky)
        shown = latent.read(memory, cameras, max_footprint=3)
        return (shown.features**2).sum(), shown

    def both(features, scale):
        total = lambda f: (lambda s: (s[0].sum(), s[1]))(partition.over_batch(one)(f, scale))  # noqa: E731
        return jax.value_and_grad(total, has_aux=True)(features)

    arguments = jnp.stack([features, features + 1]), jnp.array([1.0, 2.0])
    alone = jax.jit(both)(*arguments)
    with jax.set_mesh(partition.make_mesh({"data": 2, "sequence": 4})):
        split = jax.jit(both)(*arguments)
    # The sum over all cells is the test's own, and no sum of the memory.
    return equal((split[0][1], split[1]), (alone[0][1], alone[1]))


def rollout():
    """Four segments of a world, its memory split or whole on a mesh that splits all else as well."""
    recipe = dataclasses.replace(tiny.RECIPE, merge="first")
    config = world.WorldConfig(model=tiny.quick(), capacity=256, bank=4, recipe=recipe)
    params = tiny.parameters(config.model)
    state = world.init(config, params, tiny.image(), None, tiny.camera(), jax.random.key(1))
    path = jax.tree.map(lambda x: x.reshape(4, 4, *x.shape[2:]), tiny.path("yaw 40; back", 2))
    made = []
    with jax.set_mesh(partition.make_mesh({"data": 4, "sequence": 2})):
        parts, splits = sharded.splits(config.capacity), sharded.splits
        for function in (splits, lambda _: 1):
            sharded.splits = function
            made.append(world.rollout(config, params, state, path))
            jax.clear_caches()
    sharded.splits = splits
    return [close(*made), parts, int(made[0][0].memory.size)]


def close(a, b):
    """The same numbers and masks, floats but for their last bits: a network's sums go by what is compiled around them.

    Of frames a pixel may be rounded another way.
    """

    def same(x, y):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        if x.dtype == jnp.uint8:
            return int(np.abs(np.asarray(x, int) - np.asarray(y, int)).max()) <= 1
        if jnp.issubdtype(x.dtype, jnp.inexact):
            return np.allclose(x, y, rtol=1e-4, atol=1e-4, equal_nan=True)
        return np.array_equal(x, y)

    return all(jax.tree.leaves(jax.tree.map(same, a, b)))


def equal(a, b):
    """The same bits, but for the sign of a zero, which a sum over devices may lose."""

    def same(x, y):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        return np.array_equal(np.asarray(x), np.asarray(y), equal_nan=jnp.issubdtype(x.dtype, jnp.inexact))

    return all(jax.tree.leaves(jax.tree.map(same, a, b)))


if __name__ == "__main__":
    checks = {check.__name__: check for check in (memories, turned_round, scanned, batch, rollout)}
    print("RESULT " + json.dumps({name: checks[name]() for name in sys.argv[1:] or checks}))

"""A long segment leaves the same memory as the short ones that it could have been."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax import world
from mirage_jax.geometry import concatenate
from mirage_jax.memory import kinds
from mirage_jax.memory.kinds import Observation
from mirage_jax.world import conditioning
from mirage_jax.world.remember import remember
from tests.world import tiny_world

FRAMES = 4  # latent ones, of four pictures each


def config(kind, latents, lengths):
    """A world of segments of so many latent frames, which remembers a place as it was first seen."""
    found = tiny_world.config(kind, segments=4, merge="first", alignment="surfaces")
    segment = dataclasses.replace(found.model.segment, latents=latents, lengths=lengths)
    return dataclasses.replace(found, model=dataclasses.replace(found.model, segment=segment))


def scene(cameras):
    """A rough wall, of which every frame guesses the depth a little differently."""
    rng = np.random.default_rng(0)
    last = cameras[3::4]
    grid = last.resized(4, 4)
    return Observation(
        latents=jnp.asarray(rng.normal(size=(FRAMES, 4, 4, tiny_world.CHANNELS)), jnp.float32),
        frames=jnp.asarray(rng.uniform(-1, 1, (FRAMES, tiny_world.SIZE, tiny_world.SIZE, 3)), jnp.float32),
        depth=jnp.asarray(rng.uniform(3.0, 3.2, (FRAMES, 4, 4)), jnp.float32),
        keep=jnp.asarray(rng.uniform(size=(FRAMES, 4, 4)) < 0.8),
        sky=jnp.zeros((FRAMES, 4, 4), bool),
        latent_cameras=grid,
        frame_cameras=last,
    )


def written(config, params, memory, observed, cameras, before):
    """`remember`, given what the memory shows."""

    @jax.jit
    def run(memory, observed, cameras, before):
        views = conditioning.views(config.model, concatenate(before, before), cameras)
        encode = lambda frames: config.codec.encode(params["vae"], frames)  # noqa: E731
        readout = kinds.of(config.memory).recall(memory, views, config.recipe.footprint, encode)
        return remember(config, params, memory, observed, cameras, readout)

    return run(memory, observed, cameras, before)


@pytest.mark.parametrize("kind", ["latent", "rgb"])
def test_a_long_segment_is_written_as_short_ones_are(kind):
    long, short = config(kind, FRAMES, (1, 2, FRAMES)), config(kind, 1, (1, 2, FRAMES))
    assert long.frames_at_once == short.frames_at_once == 1
    params = tiny_world.parameters(long.model)
    cameras = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tiny_world.path("yaw 20; forward 0.5", 2))
    observed, before = scene(cameras), start()
    empty = kinds.of(kind).create(long.capacity, tiny_world.CHANNELS, jnp.float32)

    memory, left = written(long, params, empty, observed, cameras, before)
    by_turns, count, retired = empty, 0, 0
    for i in range(FRAMES):
        one = jax.tree.map(lambda x, i=i: x[i : i + 1], observed)
        by_turns, part = written(short, params, by_turns, one, cameras[4 * i : 4 * i + 4], before)
        np.testing.assert_array_equal(left.scene.depth[i], part.scene.depth[0])
        count, retired, before = count + int(part.written), retired + int(part.retired), one.latent_cameras
    jax.tree.map(np.testing.assert_array_equal, memory, by_turns)
    assert int(left.written) == count == int(memory.size) and int(left.retired) == retired

    at_once, _ = written(config(kind, FRAMES, ()), params, empty, observed, cameras, start())
    assert int(memory.size) < int(at_once.size), "what one frame shows is known to the next"


def start():
    """`Camera[1]` of the first view, on the latent grid."""
    return jax.tree.map(lambda x: jnp.asarray(x)[None], tiny_world.camera().resized(4, 4))


def test_models_of_one_length_write_a_segment_at_once():
    assert world.WorldConfig(model=tiny_world.model(), capacity=16).frames_at_once == 2

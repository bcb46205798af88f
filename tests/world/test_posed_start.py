"""Several given views with guessed depth: each guess is brought to the scale of the views before it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_world as tiny

from mirage_jax import world
from mirage_jax.geometry import Camera
from mirage_jax.world import state as states
from mirage_jax.world.frame_geometry import FrameGeometry

FACTORS = np.array([1.0, 1.3, 0.8])
WALL = 3.0


@pytest.mark.parametrize("alignment, tolerance", [("scale", 0.02), ("none", None)])
def test_guesses_that_are_off_by_factors_make_one_wall(monkeypatch, alignment, tolerance):
    """A wall straight ahead, three views side by side; guessed depth is off by a factor of its own in each."""
    model = tiny.quick()
    recipe = dataclasses.replace(tiny.RECIPE, name=f"posed {alignment}", alignment=alignment)
    config = world.WorldConfig(model=model, capacity=1024, recipe=recipe)
    views = len(FACTORS)
    count = 1 + model.vae.stride_time * (views - 1)
    poses = np.tile(np.eye(4, dtype=np.float32), (count, 1, 1))
    poses[:, 0, 3] = 0.1 * np.arange(count)
    one = tiny.camera()
    cameras = Camera(jnp.tile(one.intrinsics, (count, 1, 1)), jnp.asarray(poses), one.height, one.width)

    def guessed(config, params, tokens, cameras, frames, known=None):
        cells = (len(tokens), *config.grid)
        depth = jnp.broadcast_to(jnp.asarray(WALL * FACTORS, jnp.float32)[:, None, None], cells)
        return FrameGeometry(depth=depth, keep=jnp.ones(cells, bool), sky=jnp.zeros(cells, bool))

    monkeypatch.setattr(states, "estimate_geometry", guessed)
    frames = np.stack([tiny.image()] * count)
    params = tiny.parameters(model)
    made = world.observe(config, params, frames, None, cameras, jax.random.key(0))
    z = np.asarray(made.memory.z)[: int(made.memory.size)]
    assert len(z) == views * config.grid[0] * config.grid[1]
    if tolerance is None:
        assert np.ptp(z) > 1.0
    else:
        np.testing.assert_allclose(z, WALL, rtol=tolerance)
        np.testing.assert_allclose(made.bank.depth[:views], WALL, rtol=tolerance)

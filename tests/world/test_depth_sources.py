"""Depth from pixels and from outside in a running world."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_world

from mirage_jax import world
from mirage_jax.errors import UserError
from mirage_jax.memory.points import Readout
from mirage_jax.models.depth_anything import DepthAnything, DepthAnythingConfig
from mirage_jax.world import align
from mirage_jax.world.frame_geometry import estimate_geometry

DEPTH = DepthAnythingConfig(16, 4, 2, (1, 2, 3, 4), (4, 4, 4, 4), 8, max_depth=10.0, short_side=28, positions=2)


def setting(source, **changes):
    base = tiny_world.config(**changes)
    model = dataclasses.replace(base.model, heads=None, depth=DEPTH if source == "pixels" else None)
    config = dataclasses.replace(base, model=model, depth_source=source)
    params = tiny_world.parameters(base.model)
    params = {name: value for name, value in params.items() if name != "heads"}
    if source == "pixels":
        init = jax.jit(DepthAnything(DEPTH).init)
        params["depth"] = init(jax.random.key(1), jnp.zeros((28, 28, 3)))["params"]
    return config, params


def start(config, params, depth=None):
    return world.init(config, params, tiny_world.image(), depth, tiny_world.camera(), jax.random.key(0))


def given(depth, keep=None):
    size = (8, tiny_world.SIZE, tiny_world.SIZE)
    return world.KnownGeometry(depth=jnp.broadcast_to(jnp.float32(depth), size), keep=keep)


def test_pixels_write_depth_of_the_network_and_heads_are_not_needed():
    config, params = setting("pixels")
    state = start(config, params)
    held = np.asarray(state.memory.points)[: int(state.memory.size), 2]
    assert len(held) == 16 and held.min() > 0 and held.max() < 10
    params["depth"]["head_out"]["bias"] = params["depth"]["head_out"]["bias"] - 2.0
    nearer = start(config, params)
    assert float(jnp.median(nearer.memory.points[:16, 2])) < 0.8 * float(np.median(held))
    _, output = world.segment(config, params, state, tiny_world.path("forward 0.1", 1)[0])
    assert np.isfinite(float(output.diagnostics.depth_scale)) and int(output.diagnostics.compared) > 0


def test_given_depth_and_masks_decide_what_is_written():
    config, params = setting("given")
    size = (tiny_world.SIZE, tiny_world.SIZE)
    state, cameras = start(config, params, jnp.full(size, 4.0)), tiny_world.path("pause", 1)[0]
    keep = jnp.ones((8, *size), bool).at[:, :, :16].set(False)
    after, output = world.segment(config, params, state, cameras, None, given(4.0, keep))
    assert int(output.diagnostics.points) == 16 and float(output.diagnostics.refused) == 0.0
    np.testing.assert_allclose(after.memory.points[16:32, 2], 4.0, rtol=1e-5)
    refused, output = world.segment(config, params, state, cameras, None, given(40.0))
    assert float(output.diagnostics.refused) == 1.0 and int(output.diagnostics.points) == 0
    assert int(refused.memory.size) == 16 and float(output.diagnostics.depth_residual) > 1.0


@pytest.mark.parametrize(("source", "bends"), [("heads", True), ("given", False)])
def test_depth_that_is_guessed_follows_the_memory_and_depth_from_outside_does_not(source, bends):
    config = tiny_world.config(depth_source=source)
    params, rng = tiny_world.parameters(config.model), np.random.default_rng(0)
    cells = jax.tree.map(lambda x: jnp.stack([x] * 2), tiny_world.camera()).resized(*config.grid)
    frames = jnp.zeros((2, tiny_world.SIZE, tiny_world.SIZE, 3))
    tokens = jnp.zeros((2, *config.grid, tiny_world.CHANNELS))
    outside = given(4.0)[3::4] if source == "given" else None

    def seen(config, shown):
        readout = Readout(features=tokens, visible=jnp.ones(shown.shape, bool), depth=jnp.asarray(shown))
        estimated = estimate_geometry(config, params, tokens, cells, frames, outside)
        return np.asarray(align.to_memory(config, estimated, readout)[0].depth)

    depth = seen(config, np.full((2, *config.grid), 4.0, np.float32))
    shown = (depth * np.exp(rng.uniform(-0.1, 0.1, depth.shape))).astype(np.float32)
    factors = seen(config, shown) / seen(tiny_world.config(depth_source=source, alignment="scale"), shown)
    assert (np.abs(factors - 1).max() > 0.005) == bends and np.abs(factors - 1).max() < 0.1


def test_what_does_not_fit_is_said():
    config, params = setting("given")
    with pytest.raises(UserError, match="must be given"):
        start(config, params)
    state = start(config, params, jnp.full((tiny_world.SIZE, tiny_world.SIZE), 4.0))
    with pytest.raises(UserError, match="no depth was given"):
        world.segment(config, params, state, tiny_world.path("pause", 1)[0])
    with pytest.raises(UserError, match="no depth"):
        dataclasses.replace(config, depth_source="pixels")


def test_without_a_keep_head_what_disagrees_with_the_memory_is_not_written_unless_the_recipe_says_so():
    """Something comes into the upper left quarter, in front of the wall that the memory holds."""
    config, params = setting("given")
    size = (tiny_world.SIZE, tiny_world.SIZE)
    state, cameras = start(config, params, jnp.full(size, 4.0)), tiny_world.path("pause", 1)[0]
    depth = jnp.full(size, 4.0).at[:16, :16].set(2.0)
    added = {}
    for filtered in (True, False):
        recipe = dataclasses.replace(config.recipe, dynamic_filter=filtered)
        changed = dataclasses.replace(config, recipe=recipe)
        _, output = world.segment(changed, params, state, cameras, None, given(depth))
        added[filtered] = int(output.diagnostics.points), float(output.diagnostics.moving)
    assert added[False] == (2 * 16, 0.0)
    points, moving = added[True]  # of the 8 cells that came nearer, those that look different too
    assert 0 < 32 - points <= 8 and moving == (32 - points) / 32
    assert not tiny_world.config().filters_moving, "heads are there"


def test_the_papers_recipe_takes_depth_as_it_is_and_a_relative_network_cannot():
    config, params = setting("given")
    size = (tiny_world.SIZE, tiny_world.SIZE)
    state, cameras = start(config, params, jnp.full(size, 4.0)), tiny_world.path("pause", 1)[0]
    plain = dataclasses.replace(config, recipe=dataclasses.replace(config.recipe, alignment="none"))
    after, output = world.segment(plain, params, state, cameras, None, given(4.2))
    np.testing.assert_allclose(after.memory.points[16:32, 2], 4.2, rtol=1e-5)
    assert float(output.diagnostics.depth_scale) == 1.0 and float(output.diagnostics.refused) == 0.0
    np.testing.assert_allclose(output.diagnostics.depth_residual, np.log(4.2 / 4.0), rtol=1e-3)
    after, output = world.segment(config, params, state, cameras, None, given(4.2))
    np.testing.assert_allclose(after.memory.points[16:32, 2], 4.0, rtol=1e-5)
    relative = dataclasses.replace(DEPTH, max_depth=None)
    with pytest.raises(UserError, match="recipe 'paper' aligns no depth"):
        tiny = tiny_world.config().model
        model = dataclasses.replace(tiny, heads=None, depth=relative)
        dataclasses.replace(config, model=model, depth_source="pixels", recipe=world.PAPER)

"""A world that remembers what moves: found in what it is shown, carried on, shown to the generator, saved."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_world

from experiments.shared import outputs
from mirage_jax import viz, world
from mirage_jax.errors import UserError
from mirage_jax.weights import world_files
from mirage_jax.world import conditioning

SIZE = tiny_world.SIZE


def setting(entities=3, control=("readout", "visible", "depth", "moving", "age", "turned")):
    base = tiny_world.config(entities=entities, depth_source="given")
    quick = tiny_world.quick()
    segment = dataclasses.replace(quick.segment, control=control, reference=1)
    side = dataclasses.replace(quick.side, control_channels=segment.control_channels(tiny_world.CHANNELS))
    model = dataclasses.replace(quick, heads=None, segment=segment, side=side)
    capacity = world.full_capacity(model, "latent", 3)
    config = dataclasses.replace(base, model=model, capacity=capacity)
    return config, tiny_world.parameters(model)


def masked(frames, columns):
    """bool `[frames, H, W]`, where a thing of 12 rows and 8 columns is; it stands at a new column in every frame."""
    mask = np.zeros((frames, SIZE, SIZE), bool)
    for frame in range(frames):
        mask[frame, 12:24, columns[frame] : columns[frame] + 8] = True
    return jnp.asarray(mask)


def observed(config, params):
    moving = masked(9, [2 + t for t in range(9)])
    depth = jnp.where(moving, 2.0, 5.0)
    frames = jnp.asarray(np.random.default_rng(0).integers(0, 256, (9, SIZE, SIZE, 3), np.uint8))
    cameras = jax.tree.map(lambda x: jnp.stack([x] * 9), tiny_world.camera())
    return world.observe(config, params, frames, depth, cameras, jax.random.key(0), moving)


def ahead(config, state, params, shift, still=True):
    """One segment with the thing `shift` columns on, or gone."""
    count = config.model.segment_frames
    cameras = tiny_world.path("pause", 1)[0][:count]
    moving = masked(count, [shift + t for t in range(count)]) & still
    known = world.KnownGeometry(depth=jnp.where(moving, 2.0, 5.0), keep=~moving)
    return world.segment(config, params, state, cameras, None, known)


def test_a_thing_goes_on_and_is_shown_to_the_generator_where_it_should_be():
    config, params = setting()
    state = observed(config, params)
    assert int(state.entities.held.sum()) == 1 and int(state.entities.clock) == 5
    after, output = ahead(config, state, params, 11)
    assert int(after.entities.held.sum()) == 1 and int(after.entities.clock) == 7
    assert int(output.diagnostics.entities) == 1 and int(output.diagnostics.confirmed) == 1
    assert float(output.diagnostics.unseen) == 0.0
    shown = np.asarray(output.readout.moving)
    columns = [np.nonzero(frame.any(0))[0] for frame in shown]
    for column, at in zip(columns, (12, 14), strict=True):  # of 8 cells, at the last frame of each latent
        assert abs((column.mean() + 0.5) * SIZE / 8 - (at + 4)) < 4.0
    age = np.asarray(output.readout.age)
    assert (age[0][shown[0]] == 1).all() and (age[1][shown[1]] == 2).all()


def test_what_the_generator_is_shown_depends_on_it_and_nothing_else_changes():
    config, params = setting()
    state = observed(config, params)
    _, with_it = ahead(config, state, params, 11)
    empty = state.replace(entities=state.entities.replace(confidence=jnp.zeros(3)))
    _, without = ahead(config, empty, params, 11)
    assert (np.asarray(with_it.latents) != np.asarray(without.latents)).any()
    assert not np.asarray(without.readout.moving).any()
    there = np.asarray(with_it.readout.moving)
    for name in ("features", "depth", "visible"):
        mine, other = (np.asarray(getattr(o.readout, name)) for o in (with_it, without))
        np.testing.assert_array_equal(mine[~there], other[~there])


def test_a_thing_that_is_gone_is_given_up_within_a_segment_and_the_memory_keeps_what_stands():
    config, params = setting()
    state = observed(config, params)
    after, output = ahead(config, state, params, 11, still=False)
    assert int(output.diagnostics.entities) == 0 and int(output.diagnostics.refuted) == 1
    np.testing.assert_array_equal(after.memory.x[: int(state.memory.size)], state.memory.x[: int(state.memory.size)])


def test_a_world_that_forgets_has_no_entities_and_the_channels_are_zero():
    config, params = setting(entities=0)
    state = observed(config, params)
    assert state.entities is None
    _, output = ahead(config, state, params, 11)
    assert output.readout.moving is None and int(output.diagnostics.entities) == 0
    control = conditioning.control_latents(("moving", "age", "turned"), output.readout)
    assert control.shape[-1] == 3 and not np.asarray(control).any()


def test_age_is_one_half_at_its_unit():
    config, params = setting()
    _, output = ahead(config, observed(config, params), params, 11)
    there = np.ones(output.readout.visible.shape, bool)
    readout = output.readout.replace(age=jnp.full(there.shape, conditioning.AGE_UNIT), visible=jnp.asarray(there))
    np.testing.assert_allclose(conditioning.control_latents(("age",), readout), 0.5)


def test_a_saved_world_remembers_them(tmp_path):
    config, params = setting()
    state = observed(config, params)
    world_files.save(tmp_path / "w.safetensors", config, state, "weights")
    again = world_files.read(tmp_path / "w.safetensors").restored(config, state, "weights")
    for mine, other in zip(jax.tree.leaves(state.entities), jax.tree.leaves(again.entities), strict=True):
        np.testing.assert_array_equal(mine, other)


def test_entities_of_a_recipe_are_a_number():
    with pytest.raises(UserError, match="entities must be at least 0, found -1"):
        dataclasses.replace(world.DEFAULT, entities=-1)


def test_results_show_the_things_where_they_are_by_now(tmp_path):
    config, params = setting()
    after, output = ahead(config, observed(config, params), params, 11)
    viz.write_video(tmp_path / "video.mp4", np.asarray(output.frames), fps=8)
    cameras = tiny_world.path("pause", 1)[0][: config.model.segment_frames]
    outputs.write_results(tmp_path, config, cameras, after, {})
    ply = (tmp_path / "memory.ply").read_bytes()
    vertices = np.frombuffer(ply.split(b"end_header\n", 1)[1], [("place", "<f4", 3), ("colour", "u1", 3)])
    magenta = vertices["place"][(vertices["colour"] == outputs.MOVING).all(1)]
    assert len(magenta) == int((after.entities.valid & after.entities.held[:, None]).sum())
    np.testing.assert_allclose(magenta.mean(0)[2], 2.0, atol=0.5)

"""Worlds laid out as the released Wan weights want them: text, an all-ones control, re-encoded overlaps."""

import dataclasses
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax import world
from mirage_jax.errors import UserError
from mirage_jax.geometry import concatenate
from mirage_jax.memory import rgb
from mirage_jax.models import config as model_config
from mirage_jax.models import vae, vae_tiling
from mirage_jax.models.nn import blocks
from mirage_jax.world import recipe
from mirage_jax.world.conditioning import ones_code
from mirage_jax.world.segment import read

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import tiny_world as tiny

SEGMENTS = 2


def wan_like():
    """The tiny model with text, 'ones' in place of the mask, and re-encoded overlaps."""
    base = tiny.model()
    segment = dataclasses.replace(base.segment, control=("readout", "ones"), preceding=2)
    return dataclasses.replace(
        base,
        dit=dataclasses.replace(base.dit, text_dim=6, text_tokens=3),
        side=dataclasses.replace(base.side, control_channels=segment.control_channels(tiny.CHANNELS)),
        segment=segment,
        recipe="release",
    )


CONFIG = dataclasses.replace(tiny.config(), model=wan_like(), recipe=dataclasses.replace(world.RELEASE, steps=2))


@pytest.fixture(scope="module")
def params():
    return tiny.parameters(CONFIG.model)


@pytest.fixture(scope="module")
def text():
    return jax.random.normal(jax.random.key(3), (SEGMENTS, 3, 6))


@pytest.fixture(scope="module")
def start(params):
    return world.init(CONFIG, params, tiny.image(), None, tiny.camera(), jax.random.key(1))


@pytest.fixture(scope="module")
def looped(params, start, text):
    states, outputs = [start], []
    cameras = tiny.path("yaw 40", SEGMENTS)
    for index in range(SEGMENTS):
        state, output = world.segment(CONFIG, params, states[-1], cameras[index], text[index])
        states.append(state)
        outputs.append(output)
    return states, outputs


def test_released_layout_has_96_control_channels_and_the_paper_49():
    released = model_config.wan22_ti2v_5b()
    paper = model_config.wan22_ti2v_5b(control=("readout", "visible"))
    assert (released.side.control_channels, paper.side.control_channels) == (96, 49)
    assert released.recipe == "release" and recipe.of(released) is world.RELEASE


def test_scan_gives_what_the_loop_gives_with_a_prompt_for_each_segment(params, start, text, looped):
    state, output = world.rollout(CONFIG, params, start, tiny.path("yaw 40", SEGMENTS), text)
    states, outputs = looped
    assert int(state.memory.size) == int(states[-1].memory.size)
    for index, alone in enumerate(outputs):
        difference = np.abs(output.frames[index].astype(int) - alone.frames.astype(int))
        assert difference.max() <= 1


def test_prompt_of_a_segment_changes_that_segment(params, start, text, looped):
    _, output = world.segment(CONFIG, params, start, tiny.path("yaw 40", SEGMENTS)[0], text[1])
    assert jnp.abs(output.latents - looped[1][0].latents).max() > 1e-4


def test_text_is_wanted_by_a_model_with_text_and_by_no_other(params, start, text):
    cameras = tiny.path("yaw 40", SEGMENTS)
    with pytest.raises(UserError, match=r"shape \[3, 6\].*found none"):
        world.segment(CONFIG, params, start, cameras[0])
    with pytest.raises(UserError, match=r"\[2, 3, 6\].*found shape \[3, 6\]"):
        world.rollout(CONFIG, params, start, cameras, text[0])
    with pytest.raises(UserError, match="takes no text"):
        world.segment(tiny.config(), params, start, cameras[0], text[0])


def test_segment_starts_at_the_last_frame_encoded_alone(params, looped):
    states, outputs = looped
    model = CONFIG.model
    frame = outputs[0].frames[-1:].astype(jnp.float32) / 127.5 - 1.0
    alone = vae.encode(model.vae, params["vae"], frame)[0]
    # The world encodes the frame before it is rounded to bytes.
    assert jnp.abs(states[1].context[-1] - alone).max() < 0.1 * jnp.abs(alone).max()
    assert jnp.abs(states[1].context[-1] - outputs[0].latents[-1]).max() > 0.2 * jnp.abs(alone).max()
    np.testing.assert_array_equal(states[1].context[-2], outputs[0].latents[-2])


def test_segment_is_decoded_as_a_clip_of_its_own(params, looped):
    states, outputs = looped
    clip = jnp.concatenate([states[1].context[-1:], outputs[1].latents])
    frames = vae.decode(CONFIG.model.vae, params["vae"], clip)[1:]
    difference = np.abs(np.round((np.asarray(frames) + 1) * 127.5) - np.asarray(outputs[1].frames, np.float32))
    assert difference.max() <= 1


def test_a_start_from_several_frames_begins_at_the_last_one_encoded_alone(params):
    frames = np.random.default_rng(1).integers(0, 256, (9, tiny.SIZE, tiny.SIZE, 3), np.uint8)
    cameras = jax.tree.map(lambda x: jnp.repeat(x[None], len(frames), axis=0), tiny.camera())
    state = world.observe(CONFIG, params, frames, None, cameras, jax.random.key(1))
    shown = jnp.asarray(frames, jnp.float32) / 127.5 - 1.0
    coder = CONFIG.model.vae
    alone, clip = (vae.encode(coder, params["vae"], part) for part in (shown[-1:], shown))
    np.testing.assert_allclose(state.context[-1], alone[0], atol=1e-5)
    np.testing.assert_allclose(state.context[:-1], clip[:-1], atol=1e-5)
    assert jnp.abs(clip[-1] - alone[0]).max() > 0.1


def test_ones_code_is_that_of_one_video_of_target_and_preceding_frames(params):
    model = CONFIG.model
    code = ones_code(model, params)
    layout = model.segment
    assert code.shape == (1 + layout.latents + layout.preceding, 4, 4, tiny.CHANNELS)
    video = jnp.ones((1 + (layout.latents + layout.preceding) * model.vae.stride_time, tiny.SIZE, tiny.SIZE, 3))
    np.testing.assert_allclose(code, vae.encode(model.vae, params["vae"], video), atol=1e-6)
    assert jnp.abs(code[-1] - code[layout.latents]).max() > 1e-3


def test_prepared_parameters_give_the_same_segment(params, start, text, looped):
    prepared = jax.jit(world.prepare, static_argnums=0)(CONFIG, params)
    assert "lora" not in prepared
    _, found = world.segment(CONFIG, prepared, start, tiny.path("yaw 40", SEGMENTS)[0], text[0])
    np.testing.assert_allclose(found.latents, looped[1][0].latents, atol=2e-5)


def test_prepared_without_memory_is_the_backbone_as_it_was(params):
    config = dataclasses.replace(CONFIG, memory="none")
    prepared = world.prepare(config, params)
    assert set(prepared) == {"vae", "heads", "dit"}
    jax.tree.map(np.testing.assert_array_equal, prepared["dit"], blocks.stacked(params["dit"]))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tokens_are_kept_in_the_type_that_the_generator_computes_in(params, dtype):
    model = dataclasses.replace(CONFIG.model, dit=dataclasses.replace(CONFIG.model.dit, dtype=dtype))
    config = dataclasses.replace(CONFIG, model=model)
    state = jax.eval_shape(
        lambda p, key: world.init(config, p, tiny.image(), None, tiny.camera(), key), params, jax.random.key(0)
    )
    assert state.memory.features.dtype == dtype
    assert state.memory.x.dtype == "float32"


def test_what_was_shown_at_preceding_frames_is_carried_and_not_looked_up_again(params, start, text):
    """The release's side branch learns of frames what the memory showed before they were in it."""
    cameras = tiny.path("yaw 140", SEGMENTS)
    state, output = world.segment(CONFIG, params, start, cameras[0], text[0])
    assert start.context_readout.visible.shape == (3, 4, 4) and not start.context_readout.visible.any()
    carried = state.context_readout
    for name in ("features", "visible", "depth"):
        np.testing.assert_array_equal(getattr(carried, name)[-2:], getattr(output.readout, name), err_msg=name)
    again = dataclasses.replace(CONFIG, recipe=dataclasses.replace(CONFIG.recipe, preceding="again"))
    shown = [
        read(config, params, other, cameras[1]).visible[-2:]
        for config, other in ((CONFIG, state), (again, state.replace(context_readout=None)))
    ]
    np.testing.assert_array_equal(shown[0], carried.visible[:-1])
    assert shown[1][1].all() and shown[0][1].mean() < 0.8


TILE = 5


@pytest.mark.parametrize("overlap", ["carry", "reencode"])
def test_a_tile_is_kept_to_in_every_call_of_the_vae(params, overlap):
    """On a grid of 8x8 cells, so that tiles of 5 cut it: what a world holds is what the tiled VAE gives."""
    model = tiny.quick()
    recipe = dataclasses.replace(world.DEFAULT, overlap=overlap)
    config = world.WorldConfig(
        model=model, capacity=world.full_capacity(model, "latent", 4), bank=4, recipe=recipe, vae_tile=TILE
    )
    weights, rng = tiny.parameters(model), np.random.default_rng(0)
    frames = rng.integers(0, 256, (5, tiny.SIZE, tiny.SIZE, 3), np.uint8)
    cameras = jax.tree.map(lambda x: jnp.repeat(x[None], len(frames), axis=0), tiny.camera())
    state = world.observe(config, weights, frames, None, cameras, jax.random.key(1))
    shown = jnp.asarray(frames, jnp.float32) / 127.5 - 1.0

    def codes(frames):
        tiled = vae_tiling.encode(model.vae, weights["vae"], frames, tile=TILE)
        whole = vae.encode(model.vae, weights["vae"], frames)
        assert jnp.abs(tiled - whole).max() > 1e-3
        return tiled

    tiled = codes(shown)
    np.testing.assert_allclose(state.context[:-1], tiled[-len(state.context) : -1], atol=1e-5)
    begins = tiled[-1] if overlap == "carry" else codes(shown[-1:])[0]
    np.testing.assert_allclose(state.context[-1], begins, atol=1e-5)
    state, output = world.segment(config, weights, state, tiny.path("yaw 20", 1)[0][: model.segment_frames])
    if overlap == "reencode":
        last = output.frames[-1:].astype(jnp.float32) / 127.5 - 1.0
        np.testing.assert_allclose(state.context[-1], codes(last)[0], atol=0.05)  # frames are rounded to bytes
    code = ones_code(model, weights, TILE)
    ones = jnp.ones((1 + 3 * model.vae.stride_time, tiny.SIZE, tiny.SIZE, 3))
    np.testing.assert_allclose(code, codes(ones), atol=1e-5)


def test_an_rgb_memory_is_encoded_in_tiles_too():
    model = tiny.quick()
    config = world.WorldConfig(
        model=model, memory="rgb", capacity=world.full_capacity(model, "rgb", 1), bank=4, vae_tile=TILE
    )
    weights = tiny.parameters(model)
    state = world.init(config, weights, tiny.image(), None, tiny.camera(), jax.random.key(1))
    cameras = tiny.path("yaw 20", 1)[0][: model.segment_frames]
    readout = read(config, weights, state, cameras)
    overlap = state.context_cameras[-1:].resized(tiny.SIZE, tiny.SIZE)
    rendered = rgb.render(state.memory, concatenate(overlap, cameras), config.recipe.footprint)
    tiled = vae_tiling.encode(model.vae, weights["vae"], rendered.features, tile=TILE)
    expected = jnp.where(readout.visible[:3, ..., None], tiled, 0)
    np.testing.assert_allclose(readout.features[:3], expected, atol=1e-5)

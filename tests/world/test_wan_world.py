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
from mirage_jax.models import config as model_config
from mirage_jax.models import vae
from mirage_jax.world.control import ones_code

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import tiny_world as tiny

SEGMENTS = 2


def wan_like():
    """The tiny model with text, 'ones' in place of the mask, and re-encoded overlaps."""
    base = tiny.model()
    segment = dataclasses.replace(base.segment, control=("readout", "ones"), overlap="reencode", preceding=2)
    return dataclasses.replace(
        base,
        dit=dataclasses.replace(base.dit, text_dim=6, text_tokens=3),
        side=dataclasses.replace(base.side, control_channels=segment.control_channels(tiny.CHANNELS)),
        segment=segment,
    )


CONFIG = dataclasses.replace(tiny.config(), model=wan_like())


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
    with pytest.raises(UserError, match="overlap"):
        dataclasses.replace(released.segment, overlap="sometimes")


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
    assert prepared["dit"] is params["dit"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tokens_are_kept_in_the_type_that_the_generator_computes_in(params, dtype):
    model = dataclasses.replace(CONFIG.model, dit=dataclasses.replace(CONFIG.model.dit, dtype=dtype))
    config = dataclasses.replace(CONFIG, model=model)
    state = jax.eval_shape(
        lambda p, key: world.init(config, p, tiny.image(), None, tiny.camera(), key), params, jax.random.key(0)
    )
    assert state.memory.features.dtype == dtype
    assert state.memory.points.dtype == "float32"

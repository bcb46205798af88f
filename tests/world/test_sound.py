"""What can be no video is an error in one sentence, never a black film that looks like a result."""

import types

import numpy as np
import pytest

from mirage_jax.errors import UserError
from mirage_jax.world import sound


def output(latents=None, frames=None, scale=1.0):
    rng = np.random.default_rng(0)
    return types.SimpleNamespace(
        latents=rng.normal(size=(2, 4, 4, 5)).astype(np.float32) if latents is None else latents,
        frames=rng.integers(0, 256, (8, 16, 16, 3), np.uint8) if frames is None else frames,
        diagnostics=types.SimpleNamespace(depth_scale=np.float32(scale)),
    )


@pytest.fixture(autouse=True)
def _plain(monkeypatch):
    monkeypatch.setattr(sound.jax, "device_get", lambda x: x)


def test_what_is_a_video_passes():
    assert sound.check_output(output(), "segment 1") == []


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_one_latent_that_is_no_number_is_enough(value):
    latents = np.ones((2, 4, 4, 5), np.float32) * np.arange(5)
    latents[1, 3, 3, 4] = value
    with pytest.raises(UserError, match="segment 1: its latents hold NaN or infinity"):
        sound.check_output(output(latents=latents), "segment 1")


def test_latents_all_equal_and_frames_of_one_colour():
    with pytest.raises(UserError, match=r"its latents are all 0\.5"):
        sound.check_output(output(latents=np.full((2, 4, 4, 5), 0.5)), "segment 1")
    with pytest.raises(UserError, match=r"all its frames are of one colour, \[0, 10, 20\]"):
        sound.check_output(
            output(frames=np.ones((8, 16, 16, 3), np.uint8) * np.array([0, 10, 20], np.uint8)), "segment 1"
        )


def test_frames_that_go_white_are_said():
    frames = output().frames
    frames[5:] = 255
    frames[6, 3, 3] = 200
    (warning,) = sound.check_output(output(frames=frames), "segment 4")
    assert warning.startswith("warning: segment 4: 3 of its 8 frames are white all over")


def test_depth_at_its_bound_is_said():
    for scale in (2.0, 0.5):
        (warning,) = sound.check_output(output(scale=scale), "segment 3 of 4")
        assert f"segment 3 of 4: new depth was brought to the memory's scale by {scale:g}, the most" in warning
    assert sound.check_output(output(scale=1.99), "segment 3") == []
    with pytest.raises(UserError, match="its depth holds NaN"):
        sound.check_output(output(scale=np.nan), "segment 3")


def state(**changes):
    values = {"context": np.ones((2, 4, 4, 5)), "points": np.ones((9, 4)), "features": np.ones((9, 5))} | changes
    return types.SimpleNamespace(context=values.pop("context"), memory=values)


def test_a_world_that_begins_with_nan_is_no_world():
    sound.check_state(state())
    with pytest.raises(UserError, match="begins with latents that hold NaN"):
        sound.check_state(state(context=np.full((2, 4, 4, 5), np.inf)))
    for name in ("points", "features"):
        with pytest.raises(UserError, match="the memory of the world begins with NaN"):
            sound.check_state(state(**{name: np.full((9, 4), np.nan)}))

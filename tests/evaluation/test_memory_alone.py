"""Memories without a generator, in a room whose surfaces are known; and the oracle's memory."""

import dataclasses

import numpy as np
import pytest
from sphere import SIZE, turning

from mirage_jax.evaluation import memory_alone, truth
from tests.world import tiny_world


@pytest.fixture(scope="module")
def model():
    base = tiny_world.video()
    coder = dataclasses.replace(base.vae, latent_channels=5, encoder_dim=4, decoder_dim=4, multipliers=(1, 2, 4))
    segment = dataclasses.replace(base.segment, latents=2)
    vae_alone = dict.fromkeys(("dit", "side", "heads", "lora"))
    return dataclasses.replace(base, height=SIZE, width=SIZE, vae=coder, segment=segment, **vae_alone)


@pytest.fixture(scope="module")
def params(model):
    return tiny_world.parameters(model)


def test_what_was_written_is_there_where_the_camera_stays(model, params):
    values, frames = memory_alone.score(model, params, turning(np.zeros(9)))
    for method in ("latent", "rgb"):
        assert values[method].values["visible"] == 1 and values[method].values["avoidable_holes"] == 0
        assert frames[method].shape == (8, SIZE, SIZE, 3)
    # The first segment renders the first picture again and again, which is this video: the same code.
    assert values["rgb"].values["feature_error"] < 0.1


def test_a_view_that_was_never_written_is_no_avoidable_hole(model, params):
    away = np.concatenate([np.zeros(9), np.full(8, 120.0)])
    values, _ = memory_alone.score(model, params, turning(away))
    assert values["latent"].values["visible"] == pytest.approx(0.5), "the second segment looks where nothing is"
    assert values["latent"].values["avoidable_holes"] == 0


def test_a_cell_whose_surface_was_written_and_shows_nothing_is_one(model, params, monkeypatch):
    read = memory_alone.read_latent

    def blind(*arguments):
        shown = read(*arguments)
        return shown.replace(visible=shown.visible.at[:, :, :2].set(False))

    monkeypatch.setattr(memory_alone, "read_latent", blind)
    values, _ = memory_alone.score(model, params, turning(np.zeros(17)))
    assert values["latent"].values["avoidable_holes"] == pytest.approx(0.5)


def test_moving_things_are_neither_written_nor_asked_for(model, params):
    clip = turning(np.zeros(17))
    moving = np.zeros_like(clip.dynamic)
    moving[:, :16] = True
    values, _ = memory_alone.score(model, params, dataclasses.replace(clip, dynamic=moving))
    assert values["latent"].values["visible"] == pytest.approx(0.5)
    assert values["latent"].values["avoidable_holes"] == 0


def test_the_oracle_remembers_the_true_frames_before_a_segment_and_no_others(model, params):
    clip = turning(np.linspace(0, 60, 17))
    coded = truth.coded_truth(model, params, clip)
    memory = truth.memory_of(model, 5 * 16, coded, np.arange(5) < 3)
    assert int(memory.size) == 3 * 16
    remembered = np.asarray(coded.latents[:3])
    np.testing.assert_array_equal(np.asarray(memory.features[:48]), remembered.reshape(48, -1))
    np.testing.assert_allclose(np.linalg.norm(np.asarray(memory.points[:48, :3]), axis=1), 5, rtol=0.05)

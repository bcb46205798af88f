"""Memories without a generator, in a room whose surfaces are known; and the oracle's memory."""

import dataclasses

import jax
import numpy as np
import pytest

from mirage_jax.data import PosedClip
from mirage_jax.evaluation import compare, memory_alone
from mirage_jax.models import config as model_config
from mirage_jax.models import vae

SIZE = 32


@pytest.fixture(scope="module")
def model():
    base = model_config.default()
    coder = dataclasses.replace(base.vae, latent_channels=5, encoder_dim=4, decoder_dim=4, multipliers=(1, 2, 4))
    segment = dataclasses.replace(base.segment, latents=2)
    return dataclasses.replace(base, height=SIZE, width=SIZE, vae=coder, segment=segment)


@pytest.fixture(scope="module")
def params(model):
    return {"vae": vae.init(model.vae, jax.random.key(0))}


def _turning(degrees):
    """A camera 90 degrees across that turns in place amid a sphere of 5 m; colours tell directions apart."""
    count = len(degrees)
    poses = np.tile(np.eye(4, dtype=np.float32), (count, 1, 1))
    for pose, yaw in zip(poses, np.radians(degrees), strict=True):
        pose[0, [0, 2]] = np.cos(yaw), np.sin(yaw)
        pose[2, [0, 2]] = -np.sin(yaw), np.cos(yaw)
    column, row = np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5)
    ray = np.stack([column / 16 - 1, row / 16 - 1, np.ones_like(row)], axis=-1)
    unit = ray / np.linalg.norm(ray, axis=-1, keepdims=True)
    directions = np.einsum("tij,hwj->thwi", poses[:, :3, :3], unit)
    return PosedClip(
        frames=np.round(127.5 + 127.5 * np.sin(3 * directions)).astype(np.uint8),
        depth=np.tile((5.0 * unit[..., 2]).astype(np.float32), (count, 1, 1)),
        intrinsics=np.tile(np.array([[16, 0, 16], [0, 16, 16], [0, 0, 1]], np.float32), (count, 1, 1)),
        cam2world=poses,
        dynamic=np.zeros((count, SIZE, SIZE), bool),
        caption="",
        source="sphere/1/turn",
    )


def test_what_was_written_is_there_where_the_camera_stays(model, params):
    values, frames = memory_alone.score(model, params, _turning(np.zeros(9)))
    for method in ("latent", "rgb"):
        assert values[method].values["visible"] == 1 and values[method].values["avoidable_holes"] == 0
        assert frames[method].shape == (8, SIZE, SIZE, 3)
    # The first segment renders the first picture again and again, which is this video: the same code.
    assert values["rgb"].values["feature_error"] < 0.1


def test_a_view_that_was_never_written_is_no_avoidable_hole(model, params):
    away = np.concatenate([np.zeros(9), np.full(8, 120.0)])
    values, _ = memory_alone.score(model, params, _turning(away))
    assert values["latent"].values["visible"] == pytest.approx(0.5), "the second segment looks where nothing is"
    assert values["latent"].values["avoidable_holes"] == 0


def test_a_cell_whose_surface_was_written_and_shows_nothing_is_one(model, params, monkeypatch):
    read = memory_alone.read_latent

    def blind(memory, cameras, footprint):
        shown = read(memory, cameras, footprint)
        return shown.replace(visible=shown.visible.at[:, :, :2].set(False))

    monkeypatch.setattr(memory_alone, "read_latent", blind)
    values, _ = memory_alone.score(model, params, _turning(np.zeros(17)))
    assert values["latent"].values["avoidable_holes"] == pytest.approx(0.5)


def test_moving_things_are_neither_written_nor_asked_for(model, params):
    clip = _turning(np.zeros(17))
    moving = np.zeros_like(clip.dynamic)
    moving[:, :16] = True
    values, _ = memory_alone.score(model, params, dataclasses.replace(clip, dynamic=moving))
    assert values["latent"].values["visible"] == pytest.approx(0.5)
    assert values["latent"].values["avoidable_holes"] == 0


def test_the_oracle_remembers_the_true_frames_before_a_segment_and_no_others(model, params):
    clip = _turning(np.linspace(0, 60, 17))
    coded = compare.coded_truth(model, params, clip)
    memory = compare.memory_of(model, 5 * 16, coded, np.arange(5) < 3)
    assert int(memory.size) == 3 * 16
    np.testing.assert_array_equal(np.asarray(memory.features[:48]), np.asarray(coded.latents[:3]).reshape(48, -1))
    np.testing.assert_allclose(np.linalg.norm(np.asarray(memory.points[:48, :3]), axis=1), 5, rtol=0.05)

"""Recovered cameras against those that pictures were rendered with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.evaluation import camera_control
from mirage_jax.geometry import Camera, se3
from tests import analytic

SIZE, SEED = 96, 3
# Metres right, down, forward, then degrees about the same axes; the scene is 5 m deep in the median.
AXES = [
    *[np.eye(6)[i] * step for i in range(3) for step in (0.3, -0.1)],
    *[np.eye(6)[i] * step for i in range(3, 6) for step in (5.0, -0.5)],
]
TOGETHER = [[0.2, -0.1, 0.1, 1.0, -2.0, 0.5], [-0.1, 0.1, 0.3, -2.0, 3.0, 1.0], [0.3, 0.0, -0.3, 0.5, -4.0, -2.0]]
OFFSETS = np.array([*AXES, *TOGETHER, np.zeros(6)], np.float32)


def _motion(offset):
    return np.asarray(se3.se3_exp(np.concatenate([offset[:3], np.deg2rad(offset[3:])]).astype(np.float32)))


@pytest.fixture(scope="module")
def scene():
    """One true render, and the renders from cameras at `OFFSETS` from its own."""
    clip = analytic.scene(SEED, frames=1, height=SIZE, width=SIZE)
    world, pose, k = analytic._world(np.random.default_rng(SEED), True), clip.cam2world[0], clip.intrinsics[0]
    frames = [analytic._render(world, None, pose @ _motion(offset), k, SIZE, SIZE)[0] for offset in OFFSETS]
    return clip, np.stack(frames)


def _errors(clip, frames, usable=True):
    count = len(frames)
    camera = Camera(
        jnp.tile(clip.intrinsics, (count, 1, 1)), jnp.tile(clip.cam2world, (count, 1, 1)), *clip.frames.shape[1:3]
    )
    truth, depth = np.tile(clip.frames, (count, 1, 1, 1)), np.tile(clip.depth, (count, 1, 1))
    result = camera_control.pose_errors(frames, truth, depth, np.broadcast_to(usable, depth.shape), camera)
    return jax.tree.map(np.asarray, result)


def _assert_recovered(clip, errors, offsets, share=0.1):
    """Rotation and translation to a share of the larger of them, a metre at 5 m as its angle; or to 0.05 degrees."""
    for offset, recovered in zip(offsets, errors.cam2world, strict=True):
        shown = np.linalg.inv(clip.cam2world[0].astype(np.float64)) @ recovered
        wrong = np.asarray(se3.se3_log((np.linalg.inv(_motion(offset).astype(np.float64)) @ shown).astype(np.float32)))
        size = max(np.linalg.norm(offset[:3]) / 5, np.linalg.norm(np.deg2rad(offset[3:])))
        assert np.linalg.norm(wrong[3:]) < max(share * size, np.deg2rad(0.05)), (offset, np.rad2deg(wrong[3:]))
        assert np.linalg.norm(wrong[:3]) / 5 < max(share * size, np.deg2rad(0.05)), (offset, wrong[:3])


def test_recovers_known_offsets_on_each_axis_and_sign(scene):
    clip, frames = scene
    errors = _errors(clip, frames)
    assert errors.found.all()
    _assert_recovered(clip, errors, OFFSETS)
    motions = np.stack([_motion(offset) for offset in OFFSETS])
    angle = np.linalg.norm(OFFSETS[:, 3:], axis=1)
    np.testing.assert_allclose(errors.rotation, angle, rtol=0.1, atol=0.1)
    np.testing.assert_allclose(errors.translation, np.linalg.norm(motions[:, :3, 3], axis=1), rtol=0.1, atol=0.01)
    median = np.median(clip.depth[clip.valid])
    np.testing.assert_allclose(errors.relative_translation, errors.translation / median, rtol=1e-5)


def test_the_same_pictures_have_no_error(scene):
    errors = _errors(scene[0], scene[0].frames)
    assert errors.found.all()
    assert max(errors.rotation[0], errors.translation[0]) < 1e-4
    assert errors.detail[0] > 0.999


def test_brightness_and_contrast_do_not_matter(scene):
    clip, frames = scene
    changed = np.clip(0.6 * frames + 40, 0, 255).astype(np.uint8)
    errors = _errors(clip, changed)
    assert errors.found.all()
    _assert_recovered(clip, errors, OFFSETS)


def test_what_moves_can_be_masked_and_a_little_of_it_need_not(scene):
    clip, frames = scene
    wrong = frames.copy()
    wrong[:, 30:60, 30:60] = np.random.default_rng(0).integers(0, 256, (30, 30, 3))
    usable = np.ones((SIZE, SIZE), bool)
    usable[18:72, 18:72] = False
    errors = _errors(clip, wrong, usable)
    assert errors.found.all()
    _assert_recovered(clip, errors, OFFSETS)
    wrong = frames.copy()
    wrong[:, 40:52, 40:52] = 0
    _assert_recovered(clip, _errors(clip, wrong), OFFSETS)


def test_what_shows_no_place_is_not_found(scene):
    clip, _ = scene
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (4, SIZE, SIZE, 3))
    flat = np.broadcast_to(clip.frames.mean((1, 2), keepdims=True), (1, SIZE, SIZE, 3))
    others = [analytic.scene(seed, frames=1, height=SIZE, width=SIZE).frames for seed in range(10, 22)]
    blurred = np.asarray(jax.image.resize(jax.image.resize(clip.frames, (1, 3, 3, 3), "linear"), flat.shape, "cubic"))
    pictures = np.concatenate([noise, flat, *others, np.clip(blurred, 0, 255)]).astype(np.uint8)
    errors = _errors(clip, pictures)
    assert not errors.found.any(), np.flatnonzero(errors.found)
    assert (errors.detail < camera_control.LEAST_DETAIL).sum() >= len(pictures) - 2


def test_a_truth_without_texture_or_depth_finds_nothing(scene):
    clip, _ = scene
    blank = np.full_like(clip.frames, 90)
    edge = blank.copy()
    edge[:, :, SIZE // 2 :] = 160
    for truth in (blank, edge):
        camera = Camera(jnp.asarray(clip.intrinsics), jnp.asarray(clip.cam2world), SIZE, SIZE)
        usable = np.ones(clip.depth.shape, bool)
        assert not camera_control.pose_errors(truth, truth, np.full_like(clip.depth, 3), usable, camera).found.any()
    nothing = _errors(clip, clip.frames, usable=False)
    assert not nothing.found.any()
    assert np.isfinite(nothing.rotation).all()


def test_each_frame_has_its_own_camera_whatever_the_others_are(scene):
    clip, frames = scene
    together, alone = _errors(clip, frames[:9]), _errors(clip, frames[8:9])
    assert together.rotation.shape == (9,)
    np.testing.assert_allclose(together.cam2world[8], alone.cam2world[0], atol=1e-4)


def test_worldscore_is_one_for_no_error_and_nothing_at_a_cap():
    score = camera_control.worldscore(np.array([0, 15, 40, 7.5, 0]), np.array([0, 0, 0, 0.25, 0.5]))
    np.testing.assert_allclose(score, [1, 0, 0, 0.5, 0])


def test_too_small_frames_are_refused(scene):
    camera = Camera(jnp.asarray(scene[0].intrinsics), jnp.asarray(scene[0].cam2world), 8, 8)
    frame, depth = np.zeros((1, 8, 8, 3)), np.ones((1, 8, 8))
    with pytest.raises(ValueError, match="at least 16x16, got 8x8"):
        camera_control.pose_errors(frame, frame, depth, depth > 0, camera)

"""The dynamic filter on an analytic scene: what moves is not remembered twice, what rests is not touched."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax.geometry import Camera
from mirage_jax.memory import comparison, latent
from mirage_jax.world import remember
from tests import analytic

SIZE, FRAMES = 24, 9


@jax.jit
def step(memory, features, depth, cameras):
    """Filter, retire and write, as a segment does."""
    shown = latent.read(memory, cameras)
    moving = remember.intruding(features, depth, shown)
    gone = remember.seen_through(memory, depth, cameras)
    known = jnp.isfinite(depth)
    return latent.write(latent.retire(memory, gone), features, depth, cameras, known & ~moving, ~known), moving, gone


def remembered(clip, error=0.0, name=0.0):
    """A clip's frames, one after another, with an error of log-depth and a fourth feature to know cells by.

    The memory, and for each frame which cells intrude and the features of the points that go.
    """
    cameras = Camera(jnp.asarray(clip.intrinsics), jnp.asarray(clip.cam2world), SIZE, SIZE)
    colours = np.where(clip.dynamic[..., None], 5.0, 2 * (clip.frames / 127.5 - 1))  # what moves has a look of its own
    names = np.broadcast_to(name, clip.depth.shape)[..., None]
    features = jnp.asarray(np.concatenate([colours, names], axis=-1), jnp.float32)
    depth = jnp.asarray(clip.depth * np.exp(error), jnp.float32)
    memory, steps = latent.create(FRAMES * SIZE * SIZE, 4), []
    for t in range(FRAMES):
        before = memory.features
        memory, intruding, gone = step(memory, features[t : t + 1], depth[t : t + 1], cameras[t : t + 1])
        steps.append((np.asarray(intruding[0]), np.asarray(before)[np.asarray(gone)]))
    return memory, steps


def balls(memory):
    held = np.asarray(memory.features)[: int(memory.size)]
    return int((held[:, :3] == 5.0).all(-1).sum())


def test_what_moves_is_not_remembered_twice():
    clip = analytic.scene(3, FRAMES, SIZE, SIZE, moving=True)
    memory, steps = remembered(clip)
    masks = clip.dynamic
    largest = max(mask.sum() for mask in masks)
    assert largest > 10 and sum(mask.sum() for mask in masks) > 4 * largest, "the ball is hardly seen"
    assert balls(memory) <= largest
    assert sum(intruding.sum() for intruding, _ in steps) > 2 * largest


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_a_scene_at_rest_loses_nothing(noise, seed):
    clip = analytic.scene(seed, FRAMES, SIZE, SIZE)
    _, steps = remembered(clip, noise * np.random.default_rng(0).standard_normal(clip.depth.shape))
    assert sum(len(gone) for _, gone in steps) == 0
    # Where a near surface comes into a cell, or the memory has a hole in it, the memory shows what is behind it.
    assert np.mean([cells for cells, _ in steps]) < 0.01


def test_depth_written_in_error_is_retired_and_nothing_else():
    clip, rng = analytic.scene(0, FRAMES, SIZE, SIZE), np.random.default_rng(0)
    wrong = np.isfinite(clip.depth) & (rng.random(clip.depth.shape) < 0.02)
    wrong[-1] = False  # nothing is seen after it
    memory, steps = remembered(clip, np.where(wrong, np.log(0.5), 0.0), 0.01 * wrong)  # looking as they should
    gone = np.concatenate([features for _, features in steps])[:, 3] > 0
    left = np.asarray(memory.features)[:, 3] > 0
    assert gone.all() and len(gone) > 0.5 * wrong.sum() and len(gone) + left.sum() <= wrong.sum()


def still_camera(frames=1):
    matrix = np.array([[8.0, 0, 4], [0, 8.0, 4], [0, 0, 1]], np.float32)
    return Camera(jnp.tile(matrix, (frames, 1, 1)), jnp.tile(jnp.eye(4), (frames, 1, 1)), 8, 8)


def wall(depth, value, camera):
    memory = latent.create(200, 2)
    return latent.write(memory, jnp.full((1, 8, 8, 2), value), depth, camera, jnp.ones((1, 8, 8), bool))


def test_gone_only_where_all_around_is_behind_and_no_frame_finds_it():
    camera = still_camera()
    memory = wall(jnp.full((1, 8, 8), 2.0), 0.0, camera)
    behind = jnp.full((1, 8, 8), 4.0).at[0, 3, 3].set(0.0).at[0, 7].set(jnp.inf)
    gone = np.asarray(remember.seen_through(memory, behind, camera))[:64].reshape(8, 8)
    expected = np.zeros((8, 8), bool)
    expected[1:-1, 1:-1] = True
    expected[2:5, 2:5] = False  # beside the unknown cell
    np.testing.assert_array_equal(gone, expected)
    both = jnp.concatenate([behind, jnp.full((1, 8, 8), 2.05)])
    assert not remember.seen_through(memory, both, still_camera(2)).any()
    two = still_camera(2)
    assert not remember.seen_through(memory, both[::-1], two).any()
    unknown = jnp.zeros((1, 8, 8))
    for frames in ([behind, unknown], [unknown, behind]):
        found = np.asarray(remember.seen_through(memory, jnp.concatenate(frames), two))[:64]
        np.testing.assert_array_equal(found.reshape(8, 8), expected)


def test_seen_through_only_by_more_than_the_noise_and_the_size_of_a_cell():
    camera = still_camera()
    memory = wall(jnp.full((1, 8, 8), 2.0), 0.0, camera)
    gone = lambda depth: int(remember.seen_through(memory, jnp.full((1, 8, 8), depth), camera).sum())  # noqa: E731
    size = 2.0 / 8.0
    assert gone(2.0 * np.exp(0.9 * comparison.DEPTH_TOLERANCE)) == 0
    assert gone(2.0 + 0.95 * comparison.SIZES * size) == 0 and 2.0 + 0.95 * comparison.SIZES * size > 2.0 * 1.2
    assert gone(2.0 + 1.05 * comparison.SIZES * size) == 36


def test_what_is_behind_the_camera_stays():
    memory = wall(jnp.full((1, 8, 8), 2.0), 0.0, still_camera())
    back = still_camera().replace(cam2world=jnp.diag(jnp.array([-1.0, 1, -1, 1]))[None])
    assert not remember.seen_through(memory, jnp.full((1, 8, 8), 50.0), back).any()


def test_sky_stays_and_intruders_need_both_signs():
    camera = still_camera()
    everywhere = jnp.ones((1, 8, 8), bool)
    sky = latent.write(
        latent.create(64, 2), jnp.zeros((1, 8, 8, 2)), jnp.ones((1, 8, 8)), camera, everywhere, everywhere
    )
    assert not remember.seen_through(sky, jnp.full((1, 8, 8), jnp.inf), camera).any()
    shown = latent.read(wall(jnp.full((1, 8, 8), 4.0), 0.0, camera), camera)
    other, same = jnp.ones((1, 8, 8, 2)), jnp.zeros((1, 8, 8, 2))
    near, far = jnp.full((1, 8, 8), 2.0), jnp.full((1, 8, 8), 8.0)
    assert remember.intruding(other, near, shown).all()
    alike = jnp.full((1, 8, 8, 2), 0.9 * remember.FEATURE_TOLERANCE)  # in root mean square, not in all
    for features, depth in ((same, near), (alike, near), (other, far), (other, jnp.full((1, 8, 8), 3.8))):
        assert not remember.intruding(features, depth, shown).any()

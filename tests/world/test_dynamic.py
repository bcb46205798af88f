"""The dynamic filter on an analytic scene: what moves is not remembered twice, what rests is not touched."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax.data import analytic
from mirage_jax.geometry import Camera
from mirage_jax.memory import latent
from mirage_jax.world import dynamic

SIZE, FRAMES = 24, 9


@jax.jit
def step(memory, features, depth, cameras):
    """Filter, retire and write, as a segment does."""
    shown = latent.read(memory, cameras)
    moving = dynamic.intruding(features, depth, shown)
    gone = dynamic.seen_through(memory, depth, cameras, near=0.05)
    known = jnp.isfinite(depth)
    return latent.write(latent.retire(memory, gone), features, depth, cameras, known & ~moving, ~known), moving, gone


def remembered(moving, noise=0.0):
    """A fixed camera's frames, one after another: the memory, and where the ball was in each frame."""
    clip = analytic.scene(3, FRAMES, SIZE, SIZE, moving=True)
    still = analytic.scene(3, FRAMES, SIZE, SIZE, moving=False)
    # The camera of the first frame for all: the ball of later frames is rendered from there.
    rng = np.random.default_rng(0)
    cameras = Camera(jnp.asarray(clip.intrinsics), jnp.asarray(clip.cam2world), SIZE, SIZE)
    shown = clip if moving else still
    features = jnp.asarray(shown.frames / 127.5 - 1, jnp.float32) * 2
    features = jnp.where(jnp.asarray(shown.dynamic)[..., None], 5.0, features)  # a look of its own
    depth = jnp.asarray(shown.depth * np.exp(noise * rng.standard_normal(shown.depth.shape)), jnp.float32)
    memory, steps = latent.create(FRAMES * SIZE * SIZE, 3), []
    for t in range(FRAMES):
        memory, intruding, gone = step(memory, features[t : t + 1], depth[t : t + 1], cameras[t : t + 1])
        steps.append((np.asarray(intruding[0]), int(gone.sum())))
    return memory, steps, np.asarray(clip.dynamic), features


def balls(memory):
    held = np.asarray(memory.features)[: int(memory.size)]
    return int((held == 5.0).all(-1).sum())


def test_what_moves_is_not_remembered_twice():
    memory, steps, masks, _ = remembered(moving=True)
    largest = max(mask.sum() for mask in masks)
    assert largest > 10 and sum(mask.sum() for mask in masks) > 4 * largest, "the ball is hardly seen"
    assert balls(memory) <= largest
    assert sum(intruding.sum() for intruding, _ in steps) > 2 * largest


@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_a_scene_at_rest_loses_nothing(noise):
    _, steps, _, _ = remembered(moving=False, noise=noise)
    held = FRAMES * SIZE * SIZE
    assert sum(gone for _, gone in steps) <= 0.002 * held
    assert sum(intruding.sum() for intruding, _ in steps) <= 0.01 * held


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
    gone = np.asarray(dynamic.seen_through(memory, behind, camera, near=0.05))[:64].reshape(8, 8)
    expected = np.zeros((8, 8), bool)
    expected[1:-1, 1:-1] = True
    expected[2:5, 2:5] = False  # beside the unknown cell
    np.testing.assert_array_equal(gone, expected)
    both = jnp.concatenate([behind, jnp.full((1, 8, 8), 2.05)])
    assert not dynamic.seen_through(memory, both, still_camera(2), near=0.05).any()
    near_noise = jnp.full((1, 8, 8), 2.0 * np.exp(0.9 * dynamic.DEPTH_TOLERANCE))
    assert not dynamic.seen_through(memory, near_noise, camera, near=0.05).any()


def test_sky_stays_and_intruders_need_both_signs():
    camera = still_camera()
    everywhere = jnp.ones((1, 8, 8), bool)
    sky = latent.write(
        latent.create(64, 2), jnp.zeros((1, 8, 8, 2)), jnp.ones((1, 8, 8)), camera, everywhere, everywhere
    )
    assert not dynamic.seen_through(sky, jnp.full((1, 8, 8), jnp.inf), camera, near=0.05).any()
    shown = latent.read(wall(jnp.full((1, 8, 8), 4.0), 0.0, camera), camera)
    other, same = jnp.ones((1, 8, 8, 2)), jnp.zeros((1, 8, 8, 2))
    near, far = jnp.full((1, 8, 8), 2.0), jnp.full((1, 8, 8), 8.0)
    assert dynamic.intruding(other, near, shown).all()
    for features, depth in ((same, near), (other, far), (other, jnp.full((1, 8, 8), 3.8))):
        assert not dynamic.intruding(features, depth, shown).any()

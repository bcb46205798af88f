import numpy as np
import pytest

from experiments.worlds import verify
from mirage_jax.data.clip import check
from mirage_jax.errors import UserError
from tests import analytic


def distance(points, world):
    """Signed distance of points `[..., 3]` to the nearest surface, positive in free space; and of what it is."""
    low, high = analytic._ROOM
    room = np.minimum(points - low, high - points).min(axis=-1)
    centre, half = world.box.mean(axis=0), np.diff(world.box, axis=0)[0] / 2
    outside = np.abs(points - centre) - half
    box = np.linalg.norm(np.maximum(outside, 0), axis=-1) + np.minimum(outside.max(axis=-1), 0)
    ball = np.linalg.norm(points - world.sphere, axis=-1) - analytic._SPHERE
    each = np.stack([room, box, ball])
    return each.min(axis=0), each.argmin(axis=0)


def test_rays_end_on_the_first_surface_they_meet():
    met = set()
    for seed in range(6):
        clip = analytic.scene(seed, frames=3, height=24, width=32)
        check(clip)
        world = analytic._world(np.random.default_rng(seed), True)
        u, v = np.meshgrid(np.arange(32) + 0.5, np.arange(24) + 0.5)
        k = clip.intrinsics[0]
        rays = np.stack([(u - k[0, 2]) / k[0, 0], (v - k[1, 2]) / k[1, 1], np.ones_like(u)], axis=-1)
        for pose, depth, valid in zip(clip.cam2world, clip.depth, clip.valid, strict=True):
            world_rays = rays @ pose[:3, :3].T
            at, surface = distance(world_rays[valid] * depth[valid][:, None] + pose[:3, 3], world)
            assert np.abs(at).max() < 1e-3
            met |= set(surface.tolist())
            for share in np.linspace(0.02, 0.98, 60):
                on_the_way, _ = distance(share * world_rays[valid] * depth[valid][:, None] + pose[:3, 3], world)
                assert (on_the_way > 0).all()
            sky = pose[:3, 3] + world_rays[~valid] * np.linspace(0.02, 50, 400)[:, None, None]
            inside = sky[..., 1] > analytic._ROOM[0, 1]
            at, _ = distance(sky, world)
            assert (at[inside] > 0).all()  # what sees the sky leaves through the ceiling
    assert met == {0, 1, 2}


@pytest.mark.parametrize("seed", range(3))
def test_warping_explains_the_pictures(seed):
    clip = analytic.scene(seed, frames=9, height=64, width=64, moving=True)
    reason, residuals = verify.verify(clip)
    assert reason is None and residuals["photometric"] < 0.02


def test_sky_and_moving_ball_are_optional():
    plain = analytic.scene(1, frames=5, height=24, width=24, sky=False)
    assert np.isfinite(plain.depth).all() and not plain.dynamic.any()
    full = analytic.scene(1, frames=5, height=24, width=24, moving=True)
    assert np.isinf(full.depth).any() and full.dynamic.any()
    assert np.isfinite(full.depth[full.dynamic]).all()
    changed = (full.frames != analytic.scene(1, frames=5, height=24, width=24).frames).any(axis=-1)
    assert not changed[~full.dynamic].any()


def test_seed_decides():
    a, b, c = (analytic.scene(seed, frames=5, height=8, width=8) for seed in (4, 4, 5))
    np.testing.assert_array_equal(a.frames, b.frames)
    assert (a.frames != c.frames).any()


def test_empty_scene():
    with pytest.raises(UserError, match="at least 1"):
        analytic.scene(0, frames=0)

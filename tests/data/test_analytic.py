import numpy as np
import pytest

from mirage_jax.data import analytic, verify
from mirage_jax.data.clip import check
from mirage_jax.errors import UserError


@pytest.mark.parametrize("seed", range(3))
def test_lifted_points_lie_on_the_scene(seed):
    """Every valid pixel, lifted with depth and pose, lies on a side of the room, the box or the ball."""
    clip = analytic.scene(seed, frames=5, height=24, width=32)
    check(clip)
    u, v = np.meshgrid(np.arange(32) + 0.5, np.arange(24) + 0.5)
    k = clip.intrinsics[0]
    rays = np.stack([(u - k[0, 2]) / k[0, 0], (v - k[1, 2]) / k[1, 1], np.ones_like(u)], axis=-1)
    low, high = analytic._ROOM
    on_room = 0
    for pose, depth, valid in zip(clip.cam2world, clip.depth, clip.valid, strict=True):
        points = (rays * depth[..., None])[valid] @ pose[:3, :3].T + pose[:3, 3]
        assert (points > low - 1e-3).all() and (points < high + 1e-3).all()
        on_room += (np.minimum(np.abs(points - low), np.abs(points - high)).min(axis=1) < 1e-3).mean() / len(clip)
    assert 0.5 < on_room < 1


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

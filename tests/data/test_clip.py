import dataclasses

import numpy as np
import pytest

from mirage_jax.data import analytic
from mirage_jax.data.clip import check


@pytest.fixture(scope="module")
def clip():
    return analytic.scene(0, frames=5, height=8, width=12)


def test_valid_is_finite_positive_depth(clip):
    depth = clip.depth.copy()
    depth[0, 0, :3] = [0, np.inf, 2]
    changed = dataclasses.replace(clip, depth=depth)
    np.testing.assert_array_equal(changed.valid[0, 0, :3], [False, False, True])
    assert set(changed.arrays()) == {"frames", "depth", "intrinsics", "cam2world", "dynamic", "valid"}


def test_slices_keep_time_together(clip):
    part = clip[1:3]
    assert len(part) == 2
    np.testing.assert_array_equal(part.frames, clip.frames[1:3])
    np.testing.assert_array_equal(part.cam2world, clip.cam2world[1:3])


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("frames", lambda x: x[..., :2], "frames have shape"),
        ("depth", lambda x: x[:, :-1], "depth is float32"),
        ("depth", lambda x: x.astype(np.float64), "depth is float64"),
        ("depth", lambda x: x * np.nan, "NaN"),
        ("depth", lambda x: -x, "negative"),
        ("intrinsics", lambda x: x * np.float32(np.inf), "not finite"),
        ("cam2world", lambda x: x * np.float32(2), "not rigid"),
        ("cam2world", lambda x: x * np.array([1, 1, -1, 1], np.float32), "determinant"),
        ("dynamic", lambda x: x.astype(np.uint8), "dynamic is uint8"),
    ],
)
def test_check_names_what_is_wrong(clip, name, change, message):
    check(clip)
    with (
        np.errstate(invalid="ignore"),
        pytest.raises(ValueError, match=message),
    ):
        check(dataclasses.replace(clip, **{name: change(getattr(clip, name))}))

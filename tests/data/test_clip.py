import dataclasses

import numpy as np
import pytest

from mirage_jax import data
from mirage_jax.data.clip import check, load, save, unpacked
from mirage_jax.errors import UserError
from tests import analytic


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


def test_sky_and_unknown_depth_are_not_valid():
    stored = {"depth": np.array([[0, np.inf, 2.5]], np.float16)}
    np.testing.assert_array_equal(unpacked("valid", stored, 3), [[False, False, True]])
    np.testing.assert_array_equal(unpacked("depth", stored, 3), np.array([[0, np.inf, 2.5]], np.float32))


@pytest.mark.parametrize("objects", [False, True])
def test_a_clip_file_keeps_what_a_data_set_keeps(tmp_path, objects):
    rng = np.random.default_rng(0)
    more = {
        "background": rng.integers(0, 256, (5, 6, 13, 3), np.uint8),
        "instances": rng.integers(0, 3, (5, 6, 13), np.uint8),
        "tracks": rng.normal(size=(5, 2, 3)).astype(np.float32),
    }
    clip = data.PosedClip(
        frames=rng.integers(0, 256, (5, 6, 13, 3), np.uint8),
        depth=rng.choice(np.array([0, 2.5, np.inf], np.float32), (5, 6, 13)),
        intrinsics=rng.normal(size=(5, 3, 3)).astype(np.float32),
        cam2world=np.tile(np.eye(4, dtype=np.float32)[[1, 2, 0, 3]], (5, 1, 1)),
        dynamic=rng.random((5, 6, 13)) < 0.5,
        caption="näher",
        source="posed/a/frame000000",
        **(more if objects else {}),
    )
    save(tmp_path / "clip.npz", clip)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.npz"]
    back = load(tmp_path / "clip.npz")
    assert set(back.arrays()) == set(clip.arrays())
    for name, value in clip.arrays().items():
        np.testing.assert_array_equal(getattr(back, name), value, err_msg=name)
        assert getattr(back, name).dtype == value.dtype
    assert (back.caption, back.source) == (clip.caption, clip.source)


def test_what_is_no_clip_file_is_named(clip, tmp_path):
    with pytest.raises(UserError, match=r"no clip file .*clip\.npz"):
        load(tmp_path / "clip.npz")
    (tmp_path / "clip.npz").write_bytes(b"no zip")
    with pytest.raises(UserError, match=r"clip\.npz: damaged or not a clip file"):
        load(tmp_path / "clip.npz")
    np.savez(tmp_path / "clip.npz", frames=clip.frames)
    with pytest.raises(UserError, match=r"clip\.npz: damaged or not a clip file"):
        load(tmp_path / "clip.npz")
    np.savez(tmp_path / "clip.npz", **clip.arrays(), caption="", source="")
    with pytest.raises(UserError, match=r"clip\.npz: damaged or not a clip file"):
        load(tmp_path / "clip.npz")

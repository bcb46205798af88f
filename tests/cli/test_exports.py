"""Exports are what our own readers, and those of others, read back."""

import numpy as np
import plyfile
import pytest

from experiments.posed_video import scenes
from experiments.shared import exports
from mirage_jax import viz
from mirage_jax.geometry import Camera, pose_files
from tests import analytic

HEIGHT, WIDTH = 48, 64


@pytest.fixture(scope="module")
def walk():
    clip = analytic.scene(1, frames=5, height=HEIGHT, width=WIDTH)
    rng = np.random.default_rng(0)
    lenses = clip.intrinsics.copy()
    lenses[3:, :2, :2] *= 1.25  # a zoom: two lenses
    return exports.Walk(
        frames=clip.frames,
        cameras=Camera(lenses, clip.cam2world, HEIGHT, WIDTH),
        points=rng.normal(size=(50, 3)).astype(np.float32),
        colours=rng.integers(0, 256, (50, 3), np.uint8),
        fps=15.0,
    )


@pytest.fixture(scope="module")
def folder(walk, tmp_path_factory):
    path = tmp_path_factory.mktemp("exports")
    for _, write in exports.WRITERS.values():
        write(walk, path)
    return path


@pytest.mark.parametrize(
    "place, lens",
    [
        ("colmap", True),
        ("colmap/sparse_text/0", True),
        ("nerfstudio", True),
        ("path/cameras.json", True),
        ("path/realestate.txt", True),
        ("path/camera_path.json", True),
        ("path/tum.txt", False),
        ("path/kitti.txt", False),
        ("path/poses.npy", False),
    ],
)
def test_every_path_is_read_back_as_it_was(folder, walk, place, lens):
    found = pose_files.load_path(folder / place, HEIGHT, WIDTH)
    np.testing.assert_allclose(found.cam2world, walk.cameras.cam2world, atol=2e-6)
    assert (found.intrinsics is not None) == lens
    if lens:
        np.testing.assert_allclose(found.intrinsics, walk.cameras.intrinsics, rtol=1e-6)


@pytest.mark.parametrize("place", ["colmap", "nerfstudio"])
def test_scenes_are_opened_with_their_pictures(folder, walk, place):
    (scene,) = scenes.find(folder / place)
    video = scene.open()
    pictures = np.stack([np.asarray(picture) for picture in video.pictures.read(range(5))])
    np.testing.assert_array_equal(pictures, walk.frames)


def test_points_are_read_back(folder, walk):
    for path in ("memory.ply", "nerfstudio/points.ply"):
        vertices = plyfile.PlyData.read(str(folder / path))["vertex"]
        np.testing.assert_array_equal(np.stack([vertices[a] for a in "xyz"], 1), walk.points)
        np.testing.assert_array_equal(np.stack([vertices[a] for a in ("red", "green", "blue")], 1), walk.colours)
    rows = (folder / "colmap/sparse_text/0/points3D.txt").read_text().splitlines()
    values = np.array([[float(word) for word in row.split()] for row in rows if not row.startswith("#")])
    np.testing.assert_array_equal(values[:, 1:7], np.concatenate([walk.points.astype(float), walk.colours], 1))
    data = (folder / "colmap/sparse/0/points3D.bin").read_bytes()
    assert len(data) == 8 + 50 * (8 + 24 + 3 + 8 + 8)


def test_the_video_has_every_frame(folder, walk):
    frames = viz.read_video(folder / "video.mp4")
    assert frames.shape == walk.frames.shape
    assert np.abs(frames.astype(int) - walk.frames).mean() < 10  # half the colours of a small, busy picture are lost


def test_of_a_long_walk_some_pictures_are_taken(walk, tmp_path, monkeypatch):
    monkeypatch.setattr(exports, "MOST_PICTURES", 3)
    exports.WRITERS["colmap"][1](walk, tmp_path)
    assert len(list((tmp_path / "colmap" / "images").iterdir())) == 3
    assert len(pose_files.load_path(tmp_path / "colmap", HEIGHT, WIDTH).cam2world) == 3


def test_nothing_remembered_is_written_too(walk, tmp_path):
    none = np.zeros((0, 3))
    exports.write_colmap(tmp_path / "c", walk.frames, walk.cameras, none, none.astype(np.uint8))
    assert (tmp_path / "c/sparse/0/points3D.bin").read_bytes() == b"\0" * 8

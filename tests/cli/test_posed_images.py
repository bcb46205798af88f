"""Several posed pictures as a start: found, fitted, ordered, and guessed depth brought to one scale."""

import json

import numpy as np
import PIL.Image
import pytest

from experiments.posed_video import posed_images
from experiments.shared import exports
from mirage_jax.errors import UserError
from mirage_jax.geometry import Camera, centre_cropped
from tests import analytic

SIZE = 32


@pytest.fixture(scope="module")
def clip():
    return analytic.scene(3, frames=7, height=48, width=64, sky=False)


@pytest.fixture(scope="module")
def scene(clip, tmp_path_factory):
    """The same pictures as a nerfstudio folder, a COLMAP folder, and one of nerfstudio's with depth."""
    root = tmp_path_factory.mktemp("scenes")
    camera = Camera(clip.intrinsics, clip.cam2world, 48, 64)
    points, colours = np.zeros((1, 3), np.float32), np.zeros((1, 3), np.uint8)
    exports.write_nerfstudio(root / "nerfstudio", clip.frames, camera, points, colours)
    exports.write_colmap(root / "colmap", clip.frames, camera, points, colours)
    exports.write_nerfstudio(root / "depth", clip.frames, camera, points, colours)
    content = json.loads((root / "depth" / "transforms.json").read_text())
    for index, frame in enumerate(content["frames"]):
        frame["depth_file_path"] = f"depth/{index}.png"
        (root / "depth" / "depth").mkdir(exist_ok=True)
        millimetres = np.round(1000 * clip.depth[index]).astype(np.uint16)
        PIL.Image.fromarray(millimetres).save(root / "depth" / f"depth/{index}.png")
    (root / "depth" / "transforms.json").write_text(json.dumps(content))
    return root


@pytest.mark.parametrize(
    "place", ["nerfstudio", "nerfstudio/transforms.json", "colmap", "colmap/sparse/0", "colmap/sparse/0/images.bin"]
)
def test_a_scene_is_found_by_its_folder_or_its_pose_file(scene, clip, place):
    posed = posed_images.load(scene / place, SIZE, SIZE)
    assert posed.frames.shape == (7, SIZE, SIZE, 3) and posed.depth is None
    wanted = centre_cropped(Camera(clip.intrinsics, clip.cam2world, 48, 64), SIZE, SIZE)
    np.testing.assert_allclose(posed.camera.cam2world, wanted.cam2world, atol=1e-5)
    np.testing.assert_allclose(posed.camera.intrinsics, wanted.intrinsics, rtol=1e-5)
    small = np.asarray(PIL.Image.fromarray(clip.frames[-1][:, 8:56]).resize((SIZE, SIZE), PIL.Image.Resampling.LANCZOS))
    assert np.abs(posed.frames[-1].astype(int) - small).mean() < 3


def test_depth_of_the_scene_comes_with_it_and_is_scaled_with_the_poses(scene, clip):
    plain = posed_images.load(scene / "depth", SIZE, SIZE)
    assert np.median(plain.depth) == pytest.approx(np.median(clip.depth), rel=0.2)
    twice = posed_images.load(scene / "depth", SIZE, SIZE, 2.0)
    np.testing.assert_allclose(twice.depth, 2 * plain.depth)
    np.testing.assert_allclose(twice.camera.cam2world[:, :3, 3], 2 * plain.camera.cam2world[:, :3, 3])
    np.testing.assert_array_equal(twice.camera.cam2world[:, :3, :3], plain.camera.cam2world[:, :3, :3])


def test_of_many_pictures_some_are_taken_the_first_and_last_among_them(scene, monkeypatch):
    every = posed_images.load(scene / "nerfstudio", SIZE, SIZE)
    monkeypatch.setattr(posed_images, "MOST", 3)
    some = posed_images.load(scene / "nerfstudio", SIZE, SIZE)
    np.testing.assert_array_equal(some.frames, every.frames[[0, 3, 6]])
    assert "3 posed pictures" in some.notes[0] and "of 7" in some.notes[0]


def test_each_picture_stands_still_for_a_latent_frame(scene):
    posed = posed_images.load(scene / "nerfstudio", SIZE, SIZE)
    video = posed_images.repeated(posed, 4)
    assert len(video.frames) == len(video.camera) == 1 + 6 * 4
    np.testing.assert_array_equal(video.frames[::4], posed.frames)
    np.testing.assert_array_equal(video.frames[1], video.frames[4])
    np.testing.assert_array_equal(posed_images.repeated(posed, 1).frames, posed.frames)


def test_what_is_no_scene_is_a_sentence(scene, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "poses.txt").write_text("no poses")
    for path, said in (
        (scene, "holds 3 scenes"),
        (tmp_path / "nowhere", "no file or folder"),
        (tmp_path / "empty", "holds no scene"),
        (tmp_path / "poses.txt", "is no pose file with its pictures"),
    ):
        with pytest.raises(UserError, match=said):
            posed_images.load(path, SIZE, SIZE)
    with pytest.raises(UserError, match="path_scale"):
        posed_images.load(scene / "nerfstudio", SIZE, SIZE, float("nan"))
    content = json.loads((scene / "depth" / "transforms.json").read_text())
    del content["frames"][2]["depth_file_path"]
    (scene / "depth" / "transforms.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="1 of 7 pictures have no depth"):
        posed_images.load(scene / "depth", SIZE, SIZE)

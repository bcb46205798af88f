"""Camera files that once could not be used as a path, or were no clear sentence: each with its right value."""

import pathlib
import re

import numpy as np
import pytest

from mirage_jax.errors import UserError
from mirage_jax.geometry import pose_files, trajectory_text

CASES = pathlib.Path(__file__).parent.parent / "cases"
FILES = CASES / "pose_files"


def path_of(name, size=(128, 128)):
    return pose_files.load_path(FILES / name, *size)


@pytest.mark.parametrize("name", ["native640.json", "nerf", "nerf/transforms.json", "colmap_txt"])
def test_cameras_of_640x427_are_a_path_for_frames_of_128x128(name):
    path = path_of(name)
    assert path.cam2world.shape == (33, 4, 4)
    np.testing.assert_allclose(path.cam2world[8, :3, 3], [0, 0, 1], atol=1e-5)
    # 427 rows become 128, and of the columns the 427 in the middle.
    np.testing.assert_allclose(path.intrinsics[0], [[153.4801, 0, 64], [0, 153.4801, 64], [0, 0, 1]], atol=1e-3)
    assert "64.0 degrees across images of 640x427, 45.3 across what 128x128 show of them" in path.notes[0]


def test_the_three_formats_give_one_path():
    paths = [path_of(name).cam2world for name in ("native640.json", "nerf", "colmap_txt")]
    for other in paths[1:]:
        np.testing.assert_allclose(other, paths[0], atol=1e-5)


def test_the_viewers_camera_path_keeps_its_angle_of_view():
    path = path_of("nerfstudio_camera_path.json")
    assert path.cam2world.shape == (9, 4, 4)
    # OpenGL looks along -z: what grows there is a step back.
    np.testing.assert_allclose(path.cam2world[2], np.array([[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 1], [0, 0, 0, 1]]))
    # 50 degrees from top to bottom are all kept by a square of the same height.
    focal = 64 / np.tan(np.radians(25))
    np.testing.assert_allclose(path.intrinsics[:, 0, 0], focal)
    np.testing.assert_allclose(path.intrinsics[:, 1, 1], focal)


def test_images_without_the_lines_of_their_points_are_counted():
    with pytest.raises(UserError, match="9 lines are of images and 0 of their points; expected a line of points"):
        path_of("colmap_without_point_lines")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("angle_0.json", "frame 0: 'camera_angle_x' is 0; expected an angle of view"),
        ("fl_x_huge.json", "frame 0: 'fl_x' holds NaN, infinity or a number past 1e[+]30"),
        ("w_dict.json", "frame 0: 'w' is {}; expected a whole number of at least 1 and at most 100000"),
        ("w_huge.json", "frame 0: 'w' is inf; expected a whole number"),
        ("w_list.json", r"frame 0: 'w' is \[1\]; expected a whole number"),
    ],
)
def test_what_is_no_number_is_one_sentence(name, message):
    with pytest.raises(UserError, match=rf"{re.escape(name)}: {message}"):
        path_of(f"mutants/{name}")
    with pytest.raises(UserError, match=message):
        pose_files.load(FILES / "mutants" / name)


def test_words_of_any_length_and_in_a_file():
    long = (CASES / "trajectory" / "over_255_bytes.txt").read_text()
    assert len(long) > 255 and len(trajectory_text.read(long)) == 14
    assert pose_files.is_text_of_words(CASES / "trajectory" / "words.txt")
    assert not pose_files.is_text_of_words(FILES / "colmap_txt" / "sparse" / "0" / "images.txt")

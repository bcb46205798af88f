"""What `generate` makes of a picture and a path, without a model: what it says, and the cameras it goes along."""

import pathlib
import re

import numpy as np
import PIL.Image
import pytest

from experiments.shared import inputs
from mirage_jax.errors import UserError
from mirage_jax.geometry import Camera

CASES = pathlib.Path(__file__).parent.parent / "cases"
START = Camera(
    intrinsics=np.array([[100.0, 0, 64], [0, 100, 64], [0, 0, 1]], np.float32),
    cam2world=np.array([[1, 0, 0, 5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], np.float32),
    height=128,
    width=128,
)


@pytest.fixture
def room(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (90, 160, 3), np.uint8)
    PIL.Image.fromarray(pixels).save(tmp_path / "room.png")
    return str(tmp_path / "room.png")


def lay(text, frames=None, scale=None, own_lens=True):
    source = inputs.read_trajectory(str(text), 128, 128, own_lens)
    return inputs.lay_path(source, START, frames, 4.0, scale)


def test_words_come_before_files_of_their_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("orbit", "there_and_back"):
        (tmp_path / name).mkdir()
    path, origin = lay("orbit")
    assert len(path) == 65 and origin == "from words"
    assert lay("there_and_back x0.5", 9)[1] == "from words"
    with pytest.raises(UserError, match="holds no camera file"):
        lay("./orbit")


def test_words_longer_than_a_file_name():
    text = (CASES / "trajectory" / "over_255_bytes.txt").read_text()
    path, _ = lay(text.strip(), 65)
    assert np.isfinite(path.cam2world).all()
    with pytest.raises(UserError, match="unknown word 'wander'"):
        lay("wander 1; " * 40)


def test_a_text_file_of_words(tmp_path):
    path, origin = lay(CASES / "trajectory" / "words.txt", 9)
    assert len(path) == 9 and "from the words in" in origin
    np.testing.assert_array_equal(path.cam2world, lay("forward 2; yaw 90; back", 9)[0].cam2world)
    (tmp_path / "a.txt").write_text("# a walk\nfoward 2\nback\n")
    with pytest.raises(UserError, match=r"a\.txt holds no cameras of a format known here, and as words: .*'forward'"):
        lay(tmp_path / "a.txt")


@pytest.mark.parametrize("text", ["path.json", "walk.npy", "folder/walk", "x" * 300 + ".json"])
def test_a_file_that_is_not_there_is_named(text):
    with pytest.raises(UserError, match="--trajectory: no file"):
        lay(text)


def test_a_file_starts_where_the_view_is_and_keeps_its_lens():
    path, origin = lay(CASES / "pose_files" / "native640.json")
    assert origin == "from a file, mirage-jax cameras (JSON): 33 poses"
    np.testing.assert_allclose(path.cam2world[0], START.cam2world)
    np.testing.assert_allclose(path.cam2world[8, :3, 3], [5, 0, 1], atol=1e-5)
    np.testing.assert_allclose(path.intrinsics[:, 0, 0], 153.48, atol=0.01)
    path, origin = lay(CASES / "pose_files" / "native640.json", 9, 3.0)
    assert origin.endswith(": 33 poses, resampled to 9, scaled by 3")
    np.testing.assert_allclose(path.cam2world[2, :3, 3], [5, 0, 3], atol=1e-5)
    path, _ = lay(CASES / "pose_files" / "native640.json", own_lens=False)
    np.testing.assert_array_equal(path.intrinsics[4], START.intrinsics)


@pytest.mark.parametrize("scale", [float("nan"), 0.0, -1.0, 1e9])
def test_a_scale_is_a_usual_number(scale):
    with pytest.raises(UserError, match="--path_scale"):
        lay(CASES / "pose_files" / "native640.json", scale=scale)


def test_a_scale_is_for_files():
    with pytest.raises(UserError, match="--path_scale is for camera files"):
        lay("yaw 9", scale=2.0)


def test_a_file_that_leads_too_far(tmp_path):
    poses = np.tile(np.eye(4), (3, 1, 1))
    poses[2, 0, 3] = 1e7
    np.save(tmp_path / "a.npy", poses)
    with pytest.raises(UserError, match=r"leads 1e\+07 units away; expected at most 1e\+06"):
        lay(tmp_path / "a.npy")
    lay(tmp_path / "a.npy", scale=0.01)


def test_the_view_angle_is_said_and_unusual_ones_are_warned_of(room):
    view = inputs.load_view(room, 128, 128)
    assert "the model sees 38.7 degrees of the view from left to right, 38.7 from top to bottom" in view.notes
    assert not any(note.startswith("warning") for note in view.notes)
    for fov, warned in ((130, False), (150, True), (10, True)):
        notes = inputs.load_view(room, 128, 128, fov=fov).notes
        assert any("outside 20 to 120 degrees" in note for note in notes) == warned, fov


def test_a_camera_file_tells_the_lens(room):
    view = inputs.load_view(room, 128, 128, lens=np.array([[153.48, 0, 64], [0, 153.48, 64], [0, 0, 1]]))
    assert view.camera.intrinsics[0, 0] == np.float32(153.48)
    assert not any("assumed" in note for note in view.notes)


def test_intrinsics_are_of_the_picture_as_it_is_in_the_file(tmp_path):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    pixels = np.random.default_rng(0).integers(0, 256, (90, 160, 3), np.uint8)
    PIL.Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif)
    depth = np.ones((90, 160), np.float32)
    np.save(tmp_path / "depth.npy", depth)
    view = inputs.load_view(
        str(tmp_path / "a.jpg"), 160, 90, intrinsics=[200, 210, 70, 40], depth=str(tmp_path / "depth.npy")
    )
    # What was 40 from the top is now 90 - 40 from the left, what was 70 from the left now 70 from the top.
    np.testing.assert_allclose(view.camera.intrinsics, [[210, 0, 50], [0, 200, 70], [0, 0, 1]])
    assert view.depth.shape == (160, 90)


@pytest.mark.parametrize(
    ("depth", "message"),
    [
        (
            np.full((90, 160), 2300, np.uint16),
            "its uint16 numbers, 2300 in the median, .*often millimetres",
        ),
        (np.full((90, 160), 5e4, np.float32), "50000 in the median, are taken as metres; 0.02 to 1000 is usual"),
        (np.full((90, 160), 1e-4, np.float32), "0.0001 in the median, are taken as metres"),
    ],
)
def test_metres_that_are_hardly_metres_are_warned_of(room, tmp_path, depth, message):
    np.save(tmp_path / "depth.npy", depth)
    notes = inputs.load_view(room, 128, 128, depth=str(tmp_path / "depth.npy")).notes
    (warning,) = [note for note in notes if note.startswith("warning")]
    assert re.search(message, warning)


def test_a_picture_of_one_colour_is_warned_of(tmp_path):
    PIL.Image.new("RGB", (64, 64), (9, 9, 9)).save(tmp_path / "a.png")
    assert any("of one colour" in note for note in inputs.load_view(str(tmp_path / "a.png"), 32, 32).notes)

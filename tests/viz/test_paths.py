"""Drawings of camera paths: right is right, ahead is up, whatever the world's axes."""

import numpy as np
import PIL.Image
import pytest

from experiments.shared import drawings
from mirage_jax.geometry import Camera, trajectory

INTRINSICS = np.array([[64.0, 0, 64], [0, 64.0, 48], [0, 0, 1]], np.float32)
GREEN, RED, BLUE = (44, 160, 44), (214, 39, 40), (0, 0, 255)
# A camera in a world with z up, that looks along world y.
Z_UP = np.array([[1, 0, 0, 5], [0, 0, 1, -3], [0, -1, 0, 2], [0, 0, 0, 1]], np.float32)


def draw(path, text, pose=Z_UP, **kwargs):
    start = Camera(intrinsics=INTRINSICS, cam2world=pose, height=96, width=128)
    drawings.plot_path(path, trajectory.parse(text, start=start, frames=9), **kwargs)
    with PIL.Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)[:-40]  # without the legend


def spot(picture, colour, panel):
    """Mean (column, row) of a colour in the left (0) or right (1) half."""
    middle = picture.shape[1] // 2
    half = picture[:, :middle] if panel == 0 else picture[:, middle:]
    where = np.argwhere(np.abs(half - colour).sum(-1) < 20)
    assert len(where) > 5
    return np.median(where[:, 1]), np.median(where[:, 0])


@pytest.mark.parametrize("pose", [np.eye(4, dtype=np.float32), Z_UP])
@pytest.mark.parametrize(
    ("text", "panel", "across", "up"),
    [
        ("right 2", 0, 1, 0),
        ("forward 2", 0, 0, 1),
        ("forward 2", 1, 1, 0),
        ("up 2", 1, 0, 1),
        ("left 2 & backward 2", 0, -1, -1),
    ],
)
def test_the_end_lies_where_the_move_went(tmp_path, text, panel, across, up, pose):
    picture = draw(tmp_path / "p.png", text, pose)
    start, end = spot(picture, GREEN, panel), spot(picture, RED, panel)
    moved = np.array([end[0] - start[0], start[1] - end[1]])
    assert np.array_equal(np.sign(np.where(np.abs(moved) < 30, 0, moved)), [across, up])


def test_frusta_open_in_the_direction_of_view(tmp_path):
    picture = draw(tmp_path / "p.png", "pause")
    ink = np.argwhere((picture.max(-1) - picture.min(-1) > 40) & (np.abs(picture - GREEN).sum(-1) > 20))
    green = spot(picture, GREEN, 0)
    left = ink[(ink[:, 1] < picture.shape[1] // 2) & (np.abs(ink[:, 1] - green[0]) < 60)]
    assert np.median(left[:, 0]) < green[1]  # ahead is up on the left panel


def test_points_are_drawn_in_their_colours(tmp_path):
    # A wall 4 ahead of the start, in the world with z up: y = 1.
    points = np.stack([np.linspace(4, 6, 400), np.full(400, 1.0), np.full(400, 2.0)], -1)
    picture = draw(tmp_path / "p.png", "forward 1", points=points, colors=np.tile(np.uint8(BLUE), (400, 1)))
    assert spot(picture, BLUE, 0)[1] < spot(picture, RED, 0)[1] < spot(picture, GREEN, 0)[1]
    assert spot(picture, BLUE, 1)[0] > spot(picture, RED, 1)[0]

"""Contact sheets and comparisons show the right frames in the right places."""

import numpy as np
import PIL.Image
import pytest

from mirage_jax import viz


def numbered(total, height=16, width=20, channel=0):
    """Frames whose grey level in one channel is their number."""
    frames = np.zeros((total, height, width, 3), np.uint8)
    frames[..., channel] = 100 + np.arange(total)[:, None, None]
    return frames


def cells(picture, channel=0):
    """Frame numbers of the cells of a sheet, row by row, found by their colour."""
    array = np.asarray(picture)
    others = [c for c in range(3) if c != channel]
    inside = (array[..., others] == 0).all(-1) & (array[..., channel] >= 100)
    rows = []
    for y in range(array.shape[0]):
        values = array[y, inside[y], channel]
        if values.size:
            change = np.flatnonzero(np.diff(values)) + 1
            row = [int(part[0]) - 100 for part in np.split(values, change)]
            if not rows or rows[-1] != row:
                rows.append(row)
    return rows


def test_one_video_fills_rows_with_evenly_spaced_frames(tmp_path):
    viz.contact_sheet(tmp_path / "s.png", numbered(33), columns=5, rows=2, cell_width=40)
    with PIL.Image.open(tmp_path / "s.png") as picture:
        assert cells(picture) == [[0, 4, 7, 11, 14], [18, 21, 25, 28, 32]]
        # Each cell is 20x16 magnified by two.
        inside = np.asarray(picture)[..., 0] >= 100
        inside &= np.asarray(picture)[..., 1] == 0
        assert inside.sum() == 10 * 40 * 32
        # The numbers stand above the cells: ink over each of the first row, none of it covered.
        top, left = np.argwhere(inside).min(axis=0)
        ink = (np.asarray(picture)[:top] < 100).all(-1)
        assert all(ink[:, x : x + 40].sum() > 8 for x in range(left, picture.width - 40, 44))


def test_short_videos_show_every_frame_once(tmp_path):
    viz.contact_sheet(tmp_path / "s.png", numbered(7), columns=4, rows=5)
    with PIL.Image.open(tmp_path / "s.png") as picture:
        assert cells(picture) == [[0, 1, 2, 3], [4, 5, 6]]


def test_several_videos_share_frame_numbers_in_labelled_rows(tmp_path):
    videos = {"latent": numbered(9), "a longer label": numbered(9, channel=1)}
    viz.contact_sheet(tmp_path / "s.png", videos, columns=3, cell_width=20)
    with PIL.Image.open(tmp_path / "s.png") as picture:
        assert cells(picture, 0) == cells(picture, 1) == [[0, 4, 8]]
        array = np.asarray(picture)
        red = np.argwhere((array[..., 0] >= 100) & (array[..., 1] == 0))
        green = np.argwhere((array[..., 1] >= 100) & (array[..., 0] == 0))
        assert red[:, 0].max() < green[:, 0].min()  # one row above the other
        label = array[green[:, 0].min() : green[:, 0].max(), : green[:, 1].min() - 4]
        assert (label < 100).all(-1).sum() > 50  # ink to the left of the row


def test_large_frames_are_scaled_down(tmp_path):
    viz.contact_sheet(tmp_path / "s.png", numbered(2, 200, 400), columns=2, cell_width=100)
    with PIL.Image.open(tmp_path / "s.png") as picture:
        assert picture.width < 220
        assert cells(picture) == [[0, 1]]


def test_side_by_side_keeps_every_pixel(tmp_path):
    videos = {"a": numbered(4), "none": numbered(4, channel=2), "a very long label indeed": numbered(4, channel=1)}
    frames = viz.side_by_side(videos)
    assert frames.dtype == np.uint8
    assert frames.shape[0] == 4
    assert frames.shape[1] % 2 == frames.shape[2] % 2 == 0
    starts = []
    for channel in (0, 2, 1):
        others = [c for c in range(3) if c != channel]
        for t in range(4):
            where = np.argwhere((frames[t][..., others] == 0).all(-1) & (frames[t][..., channel] == 100 + t))
            assert len(where) == 16 * 20
        starts.append(where[:, 1].min())
    assert starts == sorted(starts)


def test_videos_that_do_not_match_are_refused(tmp_path):
    for videos in ({"a": numbered(3), "b": numbered(4)}, {"a": numbered(3).astype(float)}, {}):
        with pytest.raises(ValueError, match=r"must be uint8 \[T, H, W, 3\] of one shape"):
            viz.side_by_side(videos)
        with pytest.raises(ValueError, match="of one shape"):
            viz.contact_sheet(tmp_path / "s.png", videos)
    assert not (tmp_path / "s.png").exists()

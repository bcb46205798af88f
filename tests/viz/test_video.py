"""Videos come back as they were written, up to what H.264 costs."""

import os
import subprocess
import sys

import av
import numpy as np
import pytest

from mirage_jax import viz
from mirage_jax.errors import UserError


def blocks(total, height, width):
    """Flat blocks of saturated colours that move, and a corner that counts the frames."""
    colours = np.array(
        [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [128, 128, 128], [255, 255, 255]], np.uint8
    )
    columns = np.arange(width)[None, :, None] // 16 + np.arange(height)[None, None, :] // 16
    index = (columns.transpose(0, 2, 1) + np.arange(total)[:, None, None] // 4) % len(colours)
    return colours[index]


def test_frames_come_back_in_number_order_and_colour(tmp_path):
    frames = blocks(20, 64, 96)
    viz.write_video(tmp_path / "v.mp4", frames, fps=12)
    again = viz.read_video(tmp_path / "v.mp4")
    assert again.dtype == np.uint8
    assert again.shape == frames.shape
    difference = np.abs(again.astype(int) - frames)
    # Inside the blocks colours are within a few levels: a wrong colour matrix is off by 20.
    assert difference[:, 6:10, 6:10].max() <= 4
    assert difference.mean() < 6
    assert os.listdir(tmp_path) == ["v.mp4"]


def test_the_file_is_what_players_expect(tmp_path):
    viz.write_video(tmp_path / "v.mp4", blocks(9, 32, 48), fps=12.5)
    with av.open(str(tmp_path / "v.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert float(stream.average_rate) == 12.5
        assert stream.frames == 9
        assert (stream.width, stream.height) == (48, 32)


@pytest.mark.parametrize(("height", "width"), [(33, 48), (32, 49), (17, 19)])
def test_odd_sizes_grow_by_one_row_or_column(tmp_path, height, width):
    frames = blocks(3, height, width)
    viz.write_video(tmp_path / "v.mp4", frames)
    again = viz.read_video(tmp_path / "v.mp4")
    assert again.shape == (3, height + height % 2, width + width % 2, 3)
    assert np.abs(again[:, :height, :width].astype(int) - frames).mean() < 12
    assert np.abs(again[:, :, -1].astype(int) - again[:, :, -2]).mean() < 12


def test_a_single_frame_is_a_video(tmp_path):
    viz.write_video(tmp_path / "v.mp4", blocks(1, 16, 16))
    assert viz.read_video(tmp_path / "v.mp4").shape == (1, 16, 16, 3)


def test_parts_that_came_frame_by_frame_are_joined_without_a_change(tmp_path):
    frames, parts = blocks(61, 34, 50), []
    for begin, end in ((0, 25), (25, 26), (26, 61)):
        parts.append(tmp_path / f"{begin}.mp4")
        with viz.video_writer(parts[-1], fps=12.5) as write:
            for index in range(begin, end, 5):
                write(frames[index : min(index + 5, end)])
    viz.join_videos(tmp_path / "whole.mp4", parts)
    alone = np.concatenate([viz.read_video(part) for part in parts])
    np.testing.assert_array_equal(viz.read_video(tmp_path / "whole.mp4"), alone)
    np.testing.assert_array_equal([len(viz.read_video(part)) for part in parts], [25, 1, 35])
    with av.open(str(tmp_path / "whole.mp4")) as container:
        stream = container.streams.video[0]
        assert float(stream.average_rate) == 12.5 and stream.frames == 61
        times = [float(frame.time) for frame in container.decode(video=0)]
    np.testing.assert_allclose(times, np.arange(61) / 12.5, atol=1e-4)
    (tmp_path / "0.mp4").write_bytes(b"no video")
    with pytest.raises(UserError, match=r"cannot read the video .*0\.mp4"):
        viz.join_videos(tmp_path / "again.mp4", parts)
    assert not (tmp_path / "again.mp4").exists()


def test_parts_that_last_no_whole_milliseconds_are_joined_frame_after_frame(tmp_path):
    """A file rounds what it says it lasts, of some parts and not of others."""
    rng, parts = np.random.default_rng(0), []
    for index in range(12):
        picture = rng.integers(0, 256, (32, 32, 3), np.uint8)
        parts.append(tmp_path / f"{index}.mp4")
        viz.write_video(parts[-1], np.stack([np.roll(picture, 2 * step, 1) for step in range(20)]), fps=15)
    viz.join_videos(tmp_path / "whole.mp4", parts)
    with av.open(str(tmp_path / "whole.mp4")) as container:
        times = [float(frame.time) for frame in container.decode(video=0)]
    np.testing.assert_allclose(times, np.arange(240) / 15, atol=1e-5)


def test_the_same_frames_are_the_same_video_in_every_process(tmp_path):
    """Whatever the encoder finds in memory that nobody wrote: glibc fills it as MALLOC_PERTURB_ says."""
    program = (
        "import sys, numpy as np; from mirage_jax import viz\n"
        "steps = np.random.default_rng(0).normal(0, 9, (61, 64, 64, 3)).cumsum(axis=0).cumsum(axis=1)\n"
        "viz.write_video(sys.argv[1], np.uint8(np.clip(steps + 128, 0, 255)))"
    )
    for fill in ("37", "201"):
        command = [sys.executable, "-c", program, str(tmp_path / f"{fill}.mp4")]
        subprocess.run(command, check=True, env=os.environ | {"MALLOC_PERTURB_": fill})
    assert (tmp_path / "37.mp4").read_bytes() == (tmp_path / "201.mp4").read_bytes()


def test_frames_of_another_size_end_a_video_and_leave_nothing(tmp_path):
    with pytest.raises(ValueError, match="must be uint8"), viz.video_writer(tmp_path / "v.mp4", fps=12) as write:
        write(blocks(3, 16, 16))
        write(blocks(3, 16, 32))
    with pytest.raises(ValueError, match="at least one frame"), viz.video_writer(tmp_path / "v.mp4", fps=12):
        pass
    assert os.listdir(tmp_path) == []


def test_what_is_not_a_video_is_a_user_error(tmp_path):
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(UserError, match=r"cannot read the video .*text\.mp4: Invalid data"):
        viz.read_video(tmp_path / "text.mp4")
    with pytest.raises(UserError, match=r"cannot read the video .*none\.mp4: No such file"):
        viz.read_video(tmp_path / "none.mp4")
    viz.write_video(tmp_path / "v.mp4", blocks(9, 16, 16))
    whole = (tmp_path / "v.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 3])
    with pytest.raises(UserError, match=r"cut\.mp4"):
        viz.read_video(tmp_path / "cut.mp4")
    with pytest.raises(UserError, match=r"expected a name that ends in \.mp4"):
        viz.write_video(tmp_path / "v.gif", blocks(1, 16, 16))


@pytest.mark.parametrize("shape", [(0, 8, 8, 3), (4, 8, 8), (4, 8, 8, 4)])
def test_frames_of_another_shape_are_refused_and_nothing_is_written(tmp_path, shape):
    with pytest.raises(ValueError, match=r"must be uint8 \[T, H, W, 3\]"):
        viz.write_video(tmp_path / "v.mp4", np.zeros(shape, np.uint8))
    with pytest.raises(ValueError, match="got float32"):
        viz.write_video(tmp_path / "v.mp4", np.zeros((2, 8, 8, 3), np.float32))
    assert os.listdir(tmp_path) == []


def test_damaged_frames_are_counted_not_read(tmp_path):
    """The decoder hides flipped bits behind frames that it makes up; they are no frames of the video."""
    rng = np.random.default_rng(0)
    frames = np.clip(np.cumsum(rng.normal(size=(9, 64, 64, 3)), axis=1) * 6 + 128, 0, 255).astype(np.uint8)
    viz.write_video(tmp_path / "a.mp4", frames)
    assert len(viz.read_video(tmp_path / "a.mp4")) == 9
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    for place in range(len(data) // 3, len(data) // 2, 400):
        data[place] ^= 0x10
    (tmp_path / "a.mp4").write_bytes(data)
    with pytest.raises(UserError, match=r"a\.mp4: the decoder found \d+ errors in its \d frames, .*damaged"):
        viz.read_video(tmp_path / "a.mp4")

"""Video files: H.264 in MP4, which plays everywhere."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import av.error
import av.logging
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from mirage_jax import io
from mirage_jax.errors import UserError

# BT.709 in the numbers of the H.264 standard; untagged files are played with one matrix by
# some players and with another by others, up to 20 grey levels apart.
_BT709 = 1
# Constant rate factor: near lossless to the eye; 0 is lossless, 51 the worst.
_QUALITY = "14"
_LOG_LEVEL = threading.Lock()  # which is one for the process
# What is logged as errors of videos that were cut from longer ones, and shows in no frame.
_HARMLESS = re.compile(r"mmco: unref short failure|co located POCs unavailable|number of reference frames")


def write_video(path: str | os.PathLike[str], frames: np.ndarray, *, fps: float = 16.0) -> None:
    """Writes frames as an H.264 MP4 (yuv420p, BT.709), atomically.

    The format has even sizes only: of an odd height or width the last row or column is doubled.

    Args:
      path: ends in `.mp4`.
      frames: `[T, H, W, 3]` uint8 RGB, at least one frame.
      fps: frames a second.

    Raises:
      UserError: if `path` cannot be written or does not end in `.mp4`.
      ValueError: if `frames` are not such an array.
    """
    if Path(path).suffix != ".mp4":
        raise UserError(f"cannot write a video to {path}; expected a name that ends in .mp4")
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise ValueError(f"video frames must be uint8 [T, H, W, 3], got {frames.dtype} {frames.shape}")
    frames = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")
    with io.atomic_path(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        rate = Fraction(fps).limit_denominator(1001)
        stream = container.add_stream("libx264", rate=rate, options={"crf": _QUALITY})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.color_range = ColorRange.MPEG
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709)))
        container.mux(stream.encode())


def read_video(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads all frames of a video of any format that FFmpeg knows.

    Returns:
      `[T, H, W, 3]` uint8 RGB.

    Raises:
      UserError: if the file cannot be read, holds no video, or is damaged.
    """
    frames = [frame.to_ndarray(format="rgb24") for frame in decoded(path)]
    if not frames:
        raise UserError(f"{path} holds a video of no frames")
    if len({frame.shape for frame in frames}) > 1:
        raise UserError(f"{path}: its frames differ in size; expected one")
    return np.stack(frames)


def decoded(path: str | os.PathLike[str]) -> Iterator[av.VideoFrame]:
    """The frames of a video, one after the other; those that a decoder made up in place of damage are no frames.

    Raises:
      UserError: if the file cannot be read or holds no video; after the last frame, if the decoder found errors.
    """
    seen, errors = 0, []
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UserError(f"{path} holds no video")
            # In this thread alone, so that what is logged is known to be of this video.
            container.streams.video[0].codec_context.thread_type = "NONE"
            frames = container.decode(video=0)
            while True:
                with _decoder_errors(errors):
                    frame = next(frames, None)
                if frame is None:
                    break
                seen += 1
                yield frame
    except UserError:
        raise
    except (av.error.FFmpegError, OSError) as error:
        raise UserError(f"cannot read the video {path}: {error.strerror or error}") from error
    except Exception as error:  # what FFmpeg makes of a stranger's file is of any kind
        raise UserError(f"cannot read the video {path}: {io.shown(error)}") from error
    if errors:
        found = f"{len(errors)} errors in its {seen} frames, the first: {io.shown(errors[0])}"
        raise UserError(f"{path}: the decoder found {found}; is it damaged?")


@contextlib.contextmanager
def _decoder_errors(found: list[str]) -> Iterator[None]:
    """Adds what FFmpeg logs as errors to `found`: it goes on after them, with frames that it makes up."""
    with _LOG_LEVEL:
        before = av.logging.get_level()
        av.logging.set_level(av.logging.ERROR)
        try:
            with av.logging.Capture() as logs:
                yield
        finally:
            av.logging.set_level(before)
    found += [text.strip() for level, _, text in logs if level <= av.logging.ERROR and not _HARMLESS.match(text)]

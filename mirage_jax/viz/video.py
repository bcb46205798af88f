"""Video files: H.264 in MP4, which plays everywhere."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
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
# Constant rate factor: near lossless to the eye; 0 is lossless, 51 the worst. Without macroblock trees, which read
# memory that nobody wrote: with them every process codes the same frames in another way.
_OPTIONS = {"crf": "14", "x264-params": "mbtree=0"}
_THREADS = 4  # of which the coded frames depend a little, and which would else be those of the machine
_REORDERED = 2  # frames that the encoder's are decoded ahead of their time
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
    with video_writer(path, fps=fps) as write:
        write(frames)


@contextlib.contextmanager
def video_writer(path: str | os.PathLike[str], *, fps: float) -> Iterator[Callable[[np.ndarray], None]]:
    """Yields a function that takes frames as `write_video` does, any number of times, all of one size.

    They are coded as they come. On leaving, the video is at `path`; if the body raises, it is as it was. Raises
    `UserError` or `ValueError` as `write_video` does.
    """
    if Path(path).suffix != ".mp4":
        raise UserError(f"cannot write a video to {path}; expected a name that ends in .mp4")
    with io.atomic_path(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=_OPTIONS)
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.thread_count = _THREADS
        context.color_range = ColorRange.MPEG
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        size = None

        def write(frames: np.ndarray) -> None:
            nonlocal size
            first, size = size is None, size or frames.shape[1:]
            fits = frames.ndim == 4 and frames.shape[1:] == size and size[-1] == 3 and 0 not in frames.shape
            if frames.dtype != np.uint8 or not fits:
                raise ValueError(f"video frames must be uint8 [T, H, W, 3], got {frames.dtype} {frames.shape}")
            frames = np.pad(frames, ((0, 0), (0, size[0] % 2), (0, size[1] % 2), (0, 0)), mode="edge")
            if first:
                stream.height, stream.width = frames.shape[1:3]
            for frame in frames:
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
                container.mux(stream.encode(picture.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709)))

        yield write
        if size is None:
            raise ValueError("a video has at least one frame")
        container.mux(stream.encode())


def join_videos(path: str | os.PathLike[str], parts: Sequence[str | os.PathLike[str]]) -> None:
    """Writes videos of `video_writer`, of one size and speed, as one after the other, atomically.

    Nothing is coded again: the frames are those of the parts to the bit. Raises `UserError` if a part cannot be read,
    or `path` not written.
    """
    with io.atomic_path(path) as temporary, av.open(str(temporary), "w", format="mp4") as joined:
        stream, count = None, 0
        for part in parts:
            begin = count
            try:
                with av.open(str(part)) as container:
                    source = container.streams.video[0]
                    stream = stream or joined.add_stream_from_template(source)
                    for packet in container.demux(source):
                        if packet.dts is None:  # the end
                            continue
                        # A part of one or two frames alone would be decoded later than the end of the part before it.
                        length = packet.duration  # what a part says it lasts is rounded to milliseconds
                        packet.pts, packet.dts = begin * length + packet.pts, (count - _REORDERED) * length
                        packet.stream = stream
                        joined.mux(packet)
                        count += 1
            except (av.error.FFmpegError, OSError) as error:
                raise UserError(f"cannot read the video {part}: {error.strerror or error}") from error


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


def frame_rate(path: str | os.PathLike[str]) -> float:
    """Frames a second of a video. Raises `UserError` if it is none, or does not say."""
    with io.foreign(path, "a video"), av.open(str(path)) as container:
        rate = container.streams.video[0].average_rate if container.streams.video else None
        if not rate:
            raise UserError(f"{path} holds no video that says its frames a second")
        return float(rate)


def decoded(path: str | os.PathLike[str]) -> Iterator[av.VideoFrame]:
    """The frames of a video, one after the other; those that a decoder made up in place of damage are no frames.

    Raises `UserError` if the file cannot be read or holds no video; after the last frame, if the decoder found errors.
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

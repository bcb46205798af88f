"""The pictures of a scene, in order: files, a video, or an array. Every reader gives PIL pictures of one size."""

from __future__ import annotations

import pathlib
import zlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import av
import av.error
import numpy as np
import PIL.Image

from experiments.posed_video import photos
from mirage_jax.errors import UserError
from mirage_jax.io import natural
from mirage_jax.viz import video

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi")

# What PIL raises for what is no picture, or for damage anywhere in one.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, zlib.error, PIL.Image.DecompressionBombError)


class Pictures(Protocol):
    """Pictures of one size."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        ...

    def read(self, wanted: Sequence[int]) -> Iterator[PIL.Image.Image]:
        """The pictures of some numbers, which ascend, in RGB.

        Raises:
          UserError: naming the file, if one is missing, damaged or of another size.
        """
        ...


def load(path: pathlib.Path) -> PIL.Image.Image:
    """A picture, decoded, in the mode of the file.

    Raises:
      UserError: if it is missing or cannot be read.
    """
    if not path.is_file():
        raise UserError(f"there is no picture {path}")
    try:
        with PIL.Image.open(path) as picture:
            picture.load()
            return picture
    except _DAMAGE as error:
        raise UserError(f"{path} is not a picture that can be read ({error})") from error


class Files:
    """Pictures in files of their own."""

    def __init__(self, paths: Sequence[pathlib.Path]):
        """Args: the files, in order, at least one."""
        self.paths = tuple(paths)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the first; raises `UserError` if that cannot be read."""
        first = load(self.paths[0])
        return first.height, first.width

    def read(self, wanted: Sequence[int]) -> Iterator[PIL.Image.Image]:
        """See `Pictures`."""
        size = self.size
        for index in wanted:
            if not self.paths[index].is_file():
                raise UserError(f"there is no picture {self.paths[index]}")
            picture = PIL.Image.fromarray(photos.read(self.paths[index], one_of_many=True).pixels)
            if (picture.height, picture.width) != size:
                found = f"{picture.width}x{picture.height} pixels"
                raise UserError(f"{self.paths[index]} has {found}, the first picture {size[1]}x{size[0]}")
            yield picture


class Video:
    """The pictures of a video file."""

    def __init__(self, path: pathlib.Path, count: int | None = None):
        """Args: the file, and how many pictures it must have, if that is known."""
        self.path, self.count = path, count

    @property
    def size(self) -> tuple[int, int]:
        """(height, width); raises `UserError` if it is no video."""
        try:
            with av.open(str(self.path)) as container:
                stream = container.streams.video[0]
                return stream.height, stream.width
        except (av.error.FFmpegError, OSError, IndexError) as error:
            raise UserError(f"{self.path} is not a video that can be read ({error})") from error

    def read(self, wanted: Sequence[int]) -> Iterator[PIL.Image.Image]:
        """See `Pictures`; reads to the end to see that there are as many as there must be."""
        left, seen = iter(wanted), 0
        following = next(left, None)
        for frame in video.decoded(self.path):
            if seen == following:
                yield frame.to_image()
                following = next(left, None)
            seen += 1
            if following is None and self.count is None:
                return
        if following is not None or seen != (self.count or seen):
            expected = self.count or f"more than {following}"
            raise UserError(f"{self.path} has {seen} pictures, expected {expected}, one for every camera")


class Stack:
    """Pictures that lie in one array."""

    def __init__(self, source: pathlib.Path, frames: np.ndarray):
        """Args: the file they come from, for messages, and uint8 `[T, H, W, 3]`."""
        if frames.dtype != np.uint8:
            raise UserError(f"{source}: its pictures are {frames.dtype}, expected uint8")
        self._frames = frames

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self._frames.shape[1], self._frames.shape[2]

    def read(self, wanted: Sequence[int]) -> Iterator[PIL.Image.Image]:
        """See `Pictures`."""
        for index in wanted:
            yield PIL.Image.fromarray(np.ascontiguousarray(self._frames[index]))


def find(*places: pathlib.Path) -> Files | Video:
    """The first of some places that is a folder with pictures, or, with the suffix of a video, a file.

    Raises:
      UserError: if none is.
    """
    for place in places:
        if place.is_dir() and (files := [x for x in place.iterdir() if x.suffix.lower() in SUFFIXES]):
            return Files(sorted(files, key=lambda file: natural(file.name)))
        for suffix in VIDEOS:
            if (file := place.with_name(place.name + suffix)).is_file():
                return Video(file)
    looked = " or ".join(str(place) for place in places)
    raise UserError(f"no pictures: expected a folder of pictures or a video (.mp4, .mov, ...) called {looked}")


def in_order(pictures: Files | Video | Stack, count: int, names: Sequence[str] = ()) -> Files | Video | Stack:
    """The pictures of `count` cameras: by name if there is a file for every name, else one after the other.

    Raises:
      UserError: if there are more or fewer of them.
    """
    if isinstance(pictures, Video):
        return Video(pictures.path, count)
    if isinstance(pictures, Files):
        by_stem = {path.stem: path for path in pictures.paths}
        if names and set(names) <= set(by_stem):
            return Files([by_stem[name] for name in names])
    if len(pictures) != count:
        where = f"{pictures.paths[0].parent}: " if isinstance(pictures, Files) else ""
        raise UserError(f"{where}there are {len(pictures)} pictures for {count} cameras, expected as many")
    return pictures

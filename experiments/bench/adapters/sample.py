"""One video that a benchmark asks for: what it is made of, and what its scorer finds of it."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image

from mirage_jax.errors import UserError
from mirage_jax.geometry import Camera
from mirage_jax.models.config import ModelConfig

NAME = "mirage_jax"
"""What scorers are to call the model."""

NOT_MADE = "not made yet"
"""What a result that is not there at all lacks."""

UNFINISHED = ".unfinished"
"""Folder of what is being written: scorers look into every other one."""


class Views(NamedTuple):
    """What a video starts from and where its camera goes.

    Attributes:
      image: uint8 `[H, W, 3]`, the first picture at the model's size.
      path: `Camera[T]` at that size, OpenCV axes, metres; the first one at the origin.
      size: rows and columns of the frames that are scored.
    """

    image: np.ndarray  # [H, W, 3]
    path: Camera
    size: tuple[int, int]


class Sample(abc.ABC):
    """One video that a benchmark asks for.

    Attributes:
      place: in the benchmark's list.
      frames: of its video, the first picture included.
      fault: a sentence, for an entry of the list that cannot be used; then only `place` and `label` hold.
    """

    place: int
    frames: int
    fault: str | None

    @property
    @abc.abstractmethod
    def label(self) -> str:
        """What to call it; no two samples of a list have the same."""

    @property
    @abc.abstractmethod
    def prompts(self) -> Sequence[str]:
        """Its texts, in the order of the video."""

    def prompt_of_segments(self, segments: int, segment_frames: int) -> np.ndarray:
        """Which of `prompts` goes to each segment of so many new frames, `[segments]`."""
        return np.zeros(segments, int)

    @abc.abstractmethod
    def missing(self) -> list[Path]:
        """Files it needs that are not there."""

    @abc.abstractmethod
    def views(self, model: ModelConfig) -> Views:
        """Raises `UserError` if a file of it is missing, damaged or holds something else."""

    @abc.abstractmethod
    def lacks(self, out: Path) -> str | None:
        """What its result in `out` lacks of what the scorer asks for: `NOT_MADE`, a sentence, or None for nothing."""

    @abc.abstractmethod
    def damaged(self, out: Path) -> list[str]:
        """Names of files of a finished result that are damaged; reads them all."""

    @abc.abstractmethod
    def save(self, out: Path, views: Views, frames: np.ndarray, fps: float) -> None:
        """Writes its result: it is all there, or `lacks` says so.

        Args:
          out: folder of all results.
          views: as `views` gave them.
          frames: uint8 `[T, h, w, 3]`, at the size that is scored.
          fps: of the video.
        """


def texts_of(entry: Any, names: Sequence[str]) -> str | None:
    """What is wrong with an entry that should be an object with these texts; None if nothing is."""
    if not isinstance(entry, dict):
        return f"expected an object, found {type(entry).__name__}"
    bad = [name for name in names if not isinstance(entry.get(name), str)]
    return f"expected a text {bad[0]!r}, found {entry.get(bad[0])!r}" if bad else None


def unfit_name(parts: Sequence[str]) -> str | None:
    """A sentence on the first of `parts` that cannot be the name of a file or folder; None if all can."""
    bad = [part for part in parts if part in ("", ".", "..") or "/" in part or "\0" in part]
    return f"{bad[0]!r} cannot be the name of a folder" if bad else None


def outside(names: Sequence[str]) -> str | None:
    """A sentence on the first of `names` that leads out of the folder it is relative to; None if none does."""
    away = [name for name in names if Path(name).is_absolute() or ".." in Path(name).parts]
    return f"{away[0]!r} leads out of the data set" if away else None


def without_doubles(samples: Sequence[Any]) -> list[Any]:
    """The samples, all of them dataclasses, where a later one of the same label has become one with a fault."""
    taken: dict[str, int] = {}
    kept = []
    for sample in samples:
        if sample.fault is None and sample.label in taken:
            fault = f"its result would take the place of entry {taken[sample.label]}'s"
            sample = dataclasses.replace(sample, fault=fault)
        elif sample.fault is None:
            taken[sample.label] = sample.place
        kept.append(sample)
    return kept


@contextlib.contextmanager
def whole_folder(out: Path, final: Path) -> Iterator[Path]:
    """Yields a folder to write to; on leaving, it is `final`, with all that is in it or not at all."""
    work = out / UNFINISHED / str(final.relative_to(out)).replace("/", "-")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    yield work
    for file in work.rglob("*.png"):
        with open(file, "rb") as opened:
            os.fsync(opened.fileno())
    final.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(final, ignore_errors=True)
    work.rename(final)


def write_pictures(folder: Path, frames: np.ndarray, *, digits: int, first: int = 0) -> None:
    """Writes `[T, H, W, 3]` uint8 as `000.png`, ...: so many digits or more, counted from `first`."""
    folder.mkdir(parents=True)
    digits = max(digits, len(str(first + len(frames) - 1)))
    for index, frame in enumerate(frames, first):
        PIL.Image.fromarray(frame).save(folder / f"{index:0{digits}d}.png")


def lacking_pictures(folder: Path, wanted: int) -> str | None:
    """What `folder` lacks of so many PNG files, as a sentence; None for as many."""
    there = sum(1 for _ in folder.glob("*.png"))
    return None if there == wanted else f"{there} frames, expected {wanted}"


def damaged_pictures(folder: Path) -> list[str]:
    """Names of PNG files in `folder` that are not whole."""
    bad = []
    for file in sorted(folder.glob("*.png")):
        try:
            with PIL.Image.open(file) as opened:
                opened.verify()
        except (OSError, SyntaxError, ValueError):
            bad.append(file.name)
    return bad


def existing(root: Path, *inside: str) -> Path:
    """`root / inside`, for the first of `inside` that is a folder; else `root`."""
    return next((root / part for part in inside if (root / part).is_dir()), root)


def require(file: Path, dataset: str | Path, expected: str) -> Path:
    """`file`, if it is there.

    Raises:
      UserError: naming what `--dataset` should be.
    """
    if not file.is_file():
        raise UserError(f"--dataset {dataset}: no file {file}; expected {expected}")
    return file


def write_stand_in(file: Path, rng: np.random.Generator) -> None:
    """Writes a picture of coloured tiles, 120x60 pixels: a stand-in for one of a benchmark's."""
    file.parent.mkdir(parents=True, exist_ok=True)
    tiles = rng.integers(0, 256, (6, 12, 3), np.uint8)
    PIL.Image.fromarray(tiles.repeat(10, axis=0).repeat(10, axis=1)).save(file)

"""Data sets of posed clips as a TFDS builder that writes ArrayRecord and never loads TensorFlow.

A data set on disk is a folder of splits, each a folder of parts; a part is one TFDS data set with its report. Parts can
be added at any time.

    data/doom/train/part-0000/clips/doom/1.0.0/...    records of one build
    data/doom/train/part-0000/report.json             what was built, rejected, with which versions
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import pathlib
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from mirage_jax.data.clip import OBJECT_FIELDS, PosedClip
from mirage_jax.errors import UserError
from mirage_jax.io import write_json

_VERSIONS = ("vizdoom", "tensorflow-datasets", "array-record", "av", "miniworld", "numpy", "pillow", "pyglet")


def features(frames: int, height: int, width: int, objects: int = 0) -> tfds.features.FeaturesDict:
    """How a `PosedClip` is stored. Depth keeps 11 bits (float16), the mask one bit a pixel.

    Args:
      frames, height, width: of all clips.
      objects: how many `tracks` all clips have; 0 for clips without `clip.OBJECT_FIELDS`.
    """

    def packed(shape: tuple[int, ...], dtype: Any) -> tfds.features.Tensor:
        return tfds.features.Tensor(shape=shape, dtype=dtype, encoding="zlib")

    return tfds.features.FeaturesDict(
        {
            "frames": packed((frames, height, width, 3), np.uint8),
            "depth": packed((frames, height, width), np.float16),
            "dynamic": packed((frames, height, (width + 7) // 8), np.uint8),
            "intrinsics": tfds.features.Tensor(shape=(frames, 3, 3), dtype=np.float32),
            "cam2world": tfds.features.Tensor(shape=(frames, 4, 4), dtype=np.float32),
            "caption": tfds.features.Text(),
            "source": tfds.features.Text(),
        }
        | (
            {
                "background": packed((frames, height, width, 3), np.uint8),
                "instances": packed((frames, height, width), np.uint8),
                "tracks": tfds.features.Tensor(shape=(frames, objects, 3), dtype=np.float32),
            }
            if objects
            else {}
        )
    )


def encode(clip: PosedClip) -> dict[str, Any]:
    """A clip as the values that `features` stores."""
    with np.errstate(over="ignore"):  # what float16 cannot hold is as far as the sky
        depth = clip.depth.astype(np.float16)
    return {
        "frames": clip.frames,
        "depth": depth,
        "dynamic": np.packbits(clip.dynamic, axis=-1),
        "intrinsics": clip.intrinsics,
        "cam2world": clip.cam2world,
        "caption": clip.caption,
        "source": clip.source,
    } | {name: array for name in OBJECT_FIELDS if (array := getattr(clip, name)) is not None}


class Clips(tfds.core.GeneratorBasedBuilder):
    """Whatever posed clips it is given, as one split."""

    VERSION = tfds.core.Version("1.0.0")
    name = "clips"
    url_infos: ClassVar[dict] = {}  # nothing is downloaded; TFDS would look for a checksum file with a package we lack

    def __init__(
        self,
        *,
        data_dir: str,
        dataset: str,
        split: str,
        shape: tuple[int, int, int],
        clips: Iterable[tuple[str, PosedClip]],
        description: str,
        licence: str,
        objects: int = 0,
    ):
        """Args: where to write, names of data set and split, `(T, H, W)`, keyed clips, what to say, `tracks`."""
        self._split, self._shape, self._clips, self._objects = split, shape, clips, objects
        self._description, self._licence = description, licence
        config = tfds.core.BuilderConfig(name=dataset, description=description)
        super().__init__(config=config, data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self._description,
            features=features(*self._shape, objects=self._objects),
            license=self._licence,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterable]:
        del dl_manager
        return {self._split: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for key, clip in self._clips:
            yield key, encode(clip)


def write_part(
    out: str | pathlib.Path,
    split: str,
    number: int,
    dataset: str,
    shape: tuple[int, int, int],
    clips: Callable[[pathlib.Path], Iterable[tuple[str, PosedClip]]],
    report: Callable[[float], dict[str, Any]],
    licence: str,
    description: str,
    objects: int = 0,
) -> pathlib.Path:
    """Writes one part of a split; it appears under its name only when it is whole, and else leaves nothing.

    Args:
      out: folder of the data set.
      split: name of the split.
      number: of the part.
      dataset: name of the data set.
      shape: `(T, H, W)` of all clips.
      clips: gives keys, which decide the order, and clips; it is called with a folder for what it must set aside, which
        is removed at the end.
      report: gives what to write into `report.json`, from the seconds that it took; it may raise to undo the build.
      licence, description: of the data.
      objects: how many `tracks` all clips have; 0 for clips without `clip.OBJECT_FIELDS`.

    Returns:
      The folder of the part.

    Raises:
      UserError: if the part exists; and whatever `clips` and `report` raise.
    """
    part = pathlib.Path(out) / split / f"part-{number:04d}"
    if part.exists():
        raise UserError(f"{part} exists already; give another --seed to add a part, or remove it")
    unfinished = part.with_name(f".{part.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a build that was killed
    scratch, begin = unfinished / "scratch", time.time()
    try:
        scratch.mkdir(parents=True)
        Clips(
            data_dir=str(unfinished),
            dataset=dataset,
            split=split,
            shape=shape,
            clips=clips(scratch),
            description=description,
            licence=licence,
            objects=objects,
        ).download_and_prepare()
        shutil.rmtree(scratch)
        write_json(unfinished / "report.json", report(time.time() - begin) | {"versions": _versions()})
        unfinished.rename(part)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        with contextlib.suppress(OSError):  # other parts are there
            part.parent.rmdir()
    return part


def set_aside(path: pathlib.Path, clip: PosedClip) -> None:
    """Keeps a clip in a file until it is known whether it will be used, in the precision in which it is stored."""
    np.savez(path, **encode(clip))


def taken_back(path: pathlib.Path) -> PosedClip:
    """The clip that was set aside there; the file goes."""
    with np.load(path, allow_pickle=False) as stored:
        values = {name: stored[name] for name in stored.files}
    path.unlink()
    width = values["frames"].shape[2]
    values["depth"] = values["depth"].astype(np.float32)
    values["dynamic"] = np.unpackbits(values["dynamic"], axis=-1, count=width).astype(bool)
    return PosedClip(**(values | {name: str(values[name]) for name in ("caption", "source")}))


def percentiles(residuals: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """The 50th, 90th and 100th percentile of every residual, over clips."""
    return {
        name: {str(q): round(float(np.percentile([row[name] for row in residuals], q)), 6) for q in (50, 90, 100)}
        for name in (residuals[0] if residuals else ())
    }


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {p: importlib.metadata.version(p) for p in _VERSIONS}

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
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from mirage_jax.data.clip import PosedClip, packed
from mirage_jax.errors import UserError
from mirage_jax.io import write_json

_VERSIONS = ("vizdoom", "tensorflow-datasets", "array-record", "av", "miniworld", "numpy", "pillow", "pyglet")


def _features(frames: int, height: int, width: int, objects: int) -> tfds.features.FeaturesDict:
    """How clips of a size, and with so many `tracks`, are stored."""
    size = (frames, height, width)
    arrays = {
        "frames": ((*size, 3), np.uint8),
        "depth": (size, np.float16),
        "dynamic": ((frames, height, (width + 7) // 8), np.uint8),
    }
    if objects:
        arrays |= {"background": ((*size, 3), np.uint8), "instances": (size, np.uint8)}
    fields = {name: tfds.features.Tensor(shape=x, dtype=dtype, encoding="zlib") for name, (x, dtype) in arrays.items()}
    small = {"intrinsics": (frames, 3, 3), "cam2world": (frames, 4, 4)}
    small |= {"tracks": (frames, objects, 3)} if objects else {}
    fields |= {name: tfds.features.Tensor(shape=shape, dtype=np.float32) for name, shape in small.items()}
    return tfds.features.FeaturesDict(fields | {name: tfds.features.Text() for name in ("caption", "source")})


class Records(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Whatever examples it is given, as one split."""

    url_infos: ClassVar[dict] = {}  # nothing is downloaded; TFDS would look for a checksum file with a package we lack

    def __init__(
        self,
        *,
        data_dir: str,
        split: str,
        features: tfds.features.FeaturesDict,
        examples: Iterable[tuple[str, Mapping[str, Any]]],
        description: str,
        licence: str | None = None,
        dataset: str | None = None,
    ):
        """Args: where to write, the split's name, what is stored, keyed examples, what to say, the data set's name."""
        self._split, self._features, self._examples = split, features, examples
        self._description, self._licence = description, licence
        config = tfds.core.BuilderConfig(name=dataset, description=description) if dataset else None
        super().__init__(config=config, data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self, description=self._description, features=self._features, license=self._licence
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterable]:
        del dl_manager
        return {self._split: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        yield from self._examples


class Clips(Records):
    """Whatever posed clips it is given, as one split."""

    VERSION = tfds.core.Version("1.0.0")
    name = "clips"


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
            features=_features(*shape, objects=objects),
            examples=((key, packed(clip)) for key, clip in clips(scratch)),
            description=description,
            licence=licence,
        ).download_and_prepare()
        shutil.rmtree(scratch)
        write_json(unfinished / "report.json", report(time.time() - begin) | {"versions": _versions()})
        unfinished.rename(part)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        with contextlib.suppress(OSError):  # other parts are there
            part.parent.rmdir()
    return part


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {p: importlib.metadata.version(p) for p in _VERSIONS}

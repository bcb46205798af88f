"""Clips coded once by a VAE: latents and geometry on the latent grid, for training the parts that follow.

    data/latents/train/latents/1.0.0/...      ArrayRecord, made by TFDS

`depth` is inf at the sky and 0 where unknown; lengths are metres.
"""

from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import grain
import numpy as np
import tensorflow_datasets as tfds

from mirage_jax.errors import UserError

_VERSION = tfds.core.Version("1.0.0")


class Latents(tfds.core.GeneratorBasedBuilder):
    """Whatever coded clips it is given, as one split."""

    VERSION = _VERSION
    name = "latents"
    url_infos: ClassVar[dict] = {}  # nothing is downloaded; TFDS would look for a checksum file with a package we lack

    def __init__(self, *, data_dir: str, split: str, shape: tuple[int, int, int, int], samples: Iterable):
        """Args: where to write, the name of the split, `(t, h, w, C)`, and the samples as dicts of arrays."""
        self._split, self._shape, self._samples = split, shape, samples
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        frames, height, width, _ = self._shape

        def packed(shape: tuple[int, ...], dtype: Any) -> tfds.features.Tensor:
            return tfds.features.Tensor(shape=shape, dtype=dtype, encoding="zlib")

        return tfds.core.DatasetInfo(
            builder=self,
            description="Video clips coded by a VAE, with geometry on the latent grid.",
            features=tfds.features.FeaturesDict(
                {
                    "latents": packed(self._shape, np.float16),
                    "depth": packed((frames, height, width), np.float16),
                    "dynamic": packed((frames, height, width), np.uint8),
                    "intrinsics": tfds.features.Tensor(shape=(frames, 3, 3), dtype=np.float32),
                    "cam2world": tfds.features.Tensor(shape=(frames, 4, 4), dtype=np.float32),
                    "source": tfds.features.Text(),
                }
            ),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterable]:
        del dl_manager
        return {self._split: self._generate_examples()}

    def _generate_examples(self) -> Iterable:
        for index, sample in enumerate(self._samples):
            yield f"{index:07d}", sample


def write(
    out: str | os.PathLike[str], split: str, shape: tuple[int, int, int, int], samples: Iterable[Mapping[str, Any]]
) -> pathlib.Path:
    """Writes one split; it appears under its name only when it is whole.

    Args:
      out: folder of the data set.
      split: name of the split; an existing one is an error.
      shape: `(t, h, w, C)` of the latents.
      samples: dicts with `latents`, `depth`, `dynamic`, `intrinsics`, `cam2world`, `source`.

    Raises:
      UserError: if the split exists.
    """
    folder = pathlib.Path(out) / split
    if folder.exists():
        raise UserError(f"{folder} exists already; remove it or give another --out")
    unfinished = folder.with_name(f".{split}.{os.getpid()}")
    try:
        Latents(data_dir=str(unfinished), split=split, shape=shape, samples=samples).download_and_prepare()
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def load_source(path: str | os.PathLike[str], split: str) -> Any:
    """A random-access source of the samples of a split.

    Raises:
      UserError: if there is no such split at `path`.
    """
    folder = pathlib.Path(path) / split / Latents.name / str(_VERSION)
    if not folder.is_dir():
        raise UserError(f"{path}: no coded split {split!r} there (looked for {folder})")
    return tfds.builder_from_directory(str(folder)).as_data_source(split=split)


def clips(
    source: Any, *, batch_size: int, seed: int, share: int = 0, shares: int = 1, workers: int = 0
) -> grain.IterDataset:
    """Endless shuffled batches of whole coded clips: deterministic, and checkpointable through its iterator.

    The shares, one after the other, are the batch that a single share would be, in the same order.

    Args:
      source: of `load_source`.
      batch_size: samples of a batch over all shares.
      seed: of the order.
      share, shares: which part of every batch to give, out of how many.
      workers: processes that read; 0 reads in this one.

    Raises:
      UserError: if the batch does not divide into the shares, or there are too few samples for it.
    """
    if batch_size % shares:
        raise UserError(f"batch_size {batch_size} does not divide into {shares} shares")
    local = batch_size // shares
    if len(source) < batch_size:
        raise UserError(f"{len(source)} coded clips are too few for a batch of {batch_size}")
    dataset = (
        _Share(grain.MapDataset.source(source).seed(seed).shuffle().repeat(), local, share, shares)
        .map(_arrays)
        .batch(local, drop_remainder=True)
        .to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4))
    )
    return dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers)) if workers else dataset


class _Share(grain.MapDataset):
    """Of every `size * shares` elements of a data set, the `size` from `size * share` on."""

    def __init__(self, parent: grain.MapDataset, size: int, share: int, shares: int):
        super().__init__(parent)
        self._size, self._share, self._shares = size, share, shares

    def __len__(self) -> int:
        return len(self._parent) // self._shares

    def __getitem__(self, index: Any) -> Any:
        batch, place = divmod(index, self._size)
        return self._parent[(batch * self._shares + self._share) * self._size + place]


def _arrays(sample: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The sample without its text, which does not go to a device."""
    return {name: np.asarray(value) for name, value in sample.items() if name != "source"}

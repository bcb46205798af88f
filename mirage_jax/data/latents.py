"""Clips coded once by a VAE: latents and geometry on the latent grid, for training the parts that follow.

    data/latents/train/part-0000-of-0002/latents/2.0.0/...      ArrayRecord, made by TFDS, one shard

Shards can be made by different machines, in any order; a split is whole when all are there. `depth` is inf at the sky
and 0 where unknown; lengths are metres. Cameras are those of all frames of the video, on the latent grid. A data set
made with pixels has the frames that the latent frames end at (`frames`, `pixel_depth`, `pixel_dynamic`).
"""

from __future__ import annotations

import functools
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, SupportsIndex

import grain
import numpy as np
import tensorflow_datasets as tfds

from mirage_jax.data import pipeline, tolerance
from mirage_jax.data.joined import Joined
from mirage_jax.data.text_embeddings import TextEmbeddings
from mirage_jax.errors import UserError

CELLS = ("latents", "depth", "dynamic", "intrinsics", "cam2world", "text")
"""What a sample has on the latent grid."""
NAME = "latents"
"""Of the TFDS data sets."""

_TEXTS = ("source", "caption", tolerance.SKIPPED)


class Source:
    """Random access to the samples of all shards of a split, one shard after the other. Pickles as its folders."""

    def __init__(self, folders: Sequence[pathlib.Path], split: str):
        """Args: TFDS folders of the shards, in order, and the split's name."""
        self._folders, self._split = tuple(folders), split
        self._samples = Joined([tfds.builder_from_directory(str(x)).as_data_source(split=split) for x in self._folders])

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        return {"caption": b"", **self._samples[index]}

    def __repr__(self) -> str:
        return f"{self._folders[0]} ({len(self._folders)} shards)"

    def __reduce__(self):
        return Source, (self._folders, self._split)


def load_source(path: str | os.PathLike[str], split: str) -> Source:
    """A random-access source of the samples of a split.

    Raises `UserError` if there is no such split at `path`, a shard is missing, or one cannot be opened.
    """
    root = pathlib.Path(path) / split
    found = sorted(root.glob(f"part-*-of-*/{NAME}/*"))
    if not found:
        raise UserError(f"{path}: no coded split {split!r} there (looked in {root})")
    parts = [re.fullmatch(r"part-(\d+)-of-(\d+)", folder.parent.parent.name) for folder in found]
    wanted = int(parts[0][2])
    if missing := sorted(set(range(wanted)) - {int(part[1]) for part in parts}):
        raise UserError(f"{root}: {len(missing)} of {wanted} shards are missing, the first is {missing[0]}")
    try:
        return Source(found, split)
    except Exception as error:  # TFDS and its storage raise many kinds
        raise UserError(f"{root}: a shard cannot be opened ({' '.join(str(error).split())[:200]})") from error


def clips(
    source: Any,
    *,
    batch_size: int,
    seed: int,
    parts: Sequence[int] = (0,),
    count: int = 1,
    workers: int = 0,
    skipped: tolerance.Skipped | None = None,
    texts: TextEmbeddings | None = None,
    text_dropout: float = 0.0,
    fields: Sequence[str] | None = None,
) -> grain.IterDataset:
    """Endless shuffled batches of whole coded clips: deterministic, and checkpointable through its iterator.

    The parts, in their order, are the batch that a single process would read.

    Args:
      source: of `load_source`.
      batch_size: samples of a whole batch.
      seed: of the order.
      parts, count, workers, skipped: as in `pipeline.clips`.
      texts: embeddings of all captions and of the empty prompt: batches then have `text [B, tokens, dim]`.
      text_dropout: probability with which a caption is replaced by the empty prompt.
      fields: what the batches have; None for everything but texts.

    Raises:
      UserError: if the batch does not divide into the parts, there are too few samples for it, or the empty prompt is
        missing where it is needed.
    """
    if len(source) < batch_size:
        raise UserError(f"{len(source)} coded clips are too few for a batch of {batch_size}")
    if texts is not None and text_dropout and "" not in texts:
        raise UserError(f"{texts.path}: text_dropout is {text_dropout:g}, but the file holds no empty prompt")
    shuffled = grain.MapDataset.source(source if skipped is None else tolerance.Tolerant(source))
    shuffled = shuffled.seed(seed).shuffle().repeat()
    if texts is not None:
        shuffled = shuffled.random_map(_WithText(texts, text_dropout))
    chosen = shuffled.map(functools.partial(_arrays, fields=fields))
    return pipeline.batches(chosen, batch_size, parts, count, threads=1, workers=workers, skipped=skipped)


class _WithText:
    """Adds the embedding of a sample's caption, or now and then of the empty prompt."""

    def __init__(self, texts: TextEmbeddings, dropout: float):
        self._texts, self._dropout = texts, dropout

    def __call__(self, sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        caption = sample["caption"].decode() if rng.random() >= self._dropout else ""
        return sample | {"text": self._texts[caption]}


def _arrays(sample: Mapping[str, Any], fields: Sequence[str] | None) -> dict[str, np.ndarray]:
    """The sample without its texts, which do not go to a device; what was skipped is taken out later."""
    names = [name for name in sample if name not in _TEXTS and (fields is None or name in fields)]
    kept = {name: np.asarray(sample[name]) for name in names}
    return kept | {name: np.asarray(sample[name]) for name in (tolerance.SKIPPED,) if name in sample}

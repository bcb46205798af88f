"""Clips coded once by a trained VAE, as shards of a data set: what `mirage_jax.data.latents` reads."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from experiments.worlds import builder
from mirage_jax.data import latents
from mirage_jax.errors import UserError
from mirage_jax.models.config import ModelConfig
from mirage_jax.training import encode

MIRROR = np.diag([-1.0, 1.0, 1.0, 1.0]).astype(np.float32)


def coded_clips(
    model: ModelConfig,
    params: Any,
    source: Any,
    *,
    mirrored: bool,
    pixels: bool = False,
    shard: int = 0,
    shards: int = 1,
) -> Iterator[dict[str, Any]]:
    """The samples of one shard of the latent data set (see `mirage_jax.data.latents`).

    Args:
      model, params: with a VAE.
      source: random access to posed clips (`mirage_jax.data.load_source`).
      mirrored: also give each clip left-right mirrored, in a mirrored world.
      pixels: also give what an RGB memory is made of.
      shard, shards: clips `shard`, `shard + shards`, ...
    """
    for index in range(shard, len(source), shards):
        clip = source.clip(index)
        for flip in (False, True) if mirrored else (False,):
            shown = mirror(clip) if flip else clip
            yield (
                encode.code(model, params, shown)
                | (pixels_of(model, shown) if pixels else {})
                | {
                    "caption": clip.caption,
                    "source": f"{clip.source}/mirrored" if flip else clip.source,
                }
            )


def mirror(clip: Any) -> Any:
    """The same clip seen in a mirror: pictures flipped, the world's x axis reversed (rotations stay proper)."""
    width = clip.frames.shape[2]
    intrinsics = clip.intrinsics.copy()
    intrinsics[:, 0, 2] = width - intrinsics[:, 0, 2]
    return dataclasses.replace(
        clip,
        frames=clip.frames[:, :, ::-1],
        depth=clip.depth[:, :, ::-1],
        dynamic=clip.dynamic[:, :, ::-1],
        intrinsics=intrinsics,
        cam2world=MIRROR @ clip.cam2world @ MIRROR,
    )


def pixels_of(model: ModelConfig, clip: Any) -> dict[str, np.ndarray]:
    """The frames that the latent frames end at, at full size."""
    at = slice(None, None, model.vae.stride_time)
    return {
        "frames": clip.frames[at],
        "pixel_depth": clip.depth[at].astype(np.float16),
        "pixel_dynamic": clip.dynamic[at].astype(np.uint8),
    }


class Latents(builder.Records):
    """Whatever coded clips it is given, as one split."""

    VERSION = tfds.core.Version("2.0.0")
    name = latents.NAME


def _features(shape: tuple[int, int, int, int], pixels: tuple[int, int] | None) -> tfds.features.FeaturesDict:
    cells = {"latents": (shape, np.float16), "depth": (shape[:3], np.float16), "dynamic": (shape[:3], np.uint8)}
    if pixels:
        size = (shape[0], *pixels)
        cells |= {"frames": ((*size, 3), np.uint8), "pixel_depth": (size, np.float16)}
        cells |= {"pixel_dynamic": (size, np.uint8)}
    return tfds.features.FeaturesDict(
        {name: tfds.features.Tensor(shape=size, dtype=dtype, encoding="zlib") for name, (size, dtype) in cells.items()}
        | {
            "intrinsics": tfds.features.Tensor(shape=(None, 3, 3), dtype=np.float32),
            "cam2world": tfds.features.Tensor(shape=(None, 4, 4), dtype=np.float32),
            "caption": tfds.features.Text(),
            "source": tfds.features.Text(),
        }
    )


def shard_folder(out: str | os.PathLike[str], split: str, shard: int, shards: int) -> pathlib.Path:
    """Where a shard of a split lies."""
    return pathlib.Path(out) / split / f"part-{shard:04d}-of-{shards:04d}"


def write(
    out: str | os.PathLike[str],
    split: str,
    shape: tuple[int, int, int, int],
    samples: Iterable[Mapping[str, Any]],
    shard: int = 0,
    shards: int = 1,
    pixels: tuple[int, int] | None = None,
) -> pathlib.Path:
    """Writes one shard of a split; it appears under its name only when it is whole.

    Args:
      out: folder of the data set.
      split: name of the split.
      shape: `(t, h, w, C)` of the latents.
      samples: dicts with `latents`, `depth`, `dynamic`, `intrinsics`, `cam2world`, `caption`, `source`,
        and with `pixels` those named at the top.
      shard, shards: which one this is, out of how many.
      pixels: `(H, W)` of the clips, for a data set with pixels.

    Raises:
      UserError: if the shard exists, or the split is there with another number of shards.
    """
    folder = shard_folder(out, split, shard, shards)
    if folder.exists():
        raise UserError(f"{folder} exists already; remove it or give another --out")
    others = sorted(x for x in folder.parent.glob("part-*-of-*") if not x.name.endswith(f"-of-{shards:04d}"))
    if others:
        raise UserError(f"{others[0]} belongs to another number of shards than {shards}; remove it or give that number")
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        Latents(
            data_dir=str(unfinished),
            split=split,
            features=_features(shape, pixels),
            examples=((f"{index:07d}", sample) for index, sample in enumerate(samples)),
            description="Video clips coded by a VAE, with geometry on the latent grid.",
        ).download_and_prepare()
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder

"""Codes a data set of clips once with a trained VAE, for the stages that train on latents."""

from __future__ import annotations

import itertools
import os
import pathlib
from collections.abc import Iterator

import tqdm

from experiments.worlds import coded
from mirage_jax import data, weights
from mirage_jax.errors import UserError


def code(
    checkpoint: str | os.PathLike[str] | None,
    clips: str | os.PathLike[str],
    out: str | os.PathLike[str],
    split: str,
    *,
    mirrored: bool,
    pixels: bool,
    count: int = 1,
    only: int | None = None,
) -> Iterator[pathlib.Path]:
    """Writes the shards of a coded split, one a step; those that are there already stay.

    Args:
      checkpoint: model with the VAE; None is the one that ships.
      clips: data set of posed clips.
      out: folder of the coded data set.
      split: of both.
      mirrored, pixels: as in `coded.coded_clips`.
      count: shards of the whole.
      only: number of the one that is coded; None is all.

    Raises:
      UserError: if the numbers of shards make no sense, or there is no such model or data set.
    """
    if count < 1 or (only is not None and not 0 <= only < count):
        raise UserError(f"--shards {count}, --shard {only}: expected at least one shard, numbered from 0 to shards - 1")
    wanted = range(count) if only is None else (only,)
    left = [i for i in wanted if not coded.shard_folder(out, split, i, count).exists()]
    for shard in sorted(set(wanted) - set(left)):
        print(f"shard {shard} of {count} is there already")
    if not left:
        return
    model, params = weights.load(checkpoint, ("vae",))
    source = data.load_source(clips, split)
    if len(source) < count:
        raise UserError(f"--shards {count}: {clips} has only {len(source)} clips in split {split!r}")
    for shard in left:
        samples = coded.coded_clips(model, params, source, mirrored=mirrored, pixels=pixels, shard=shard, shards=count)
        first = next(samples)
        total = len(range(shard, len(source), count)) * (2 if mirrored else 1)
        shown = tqdm.tqdm(itertools.chain([first], samples), f"shard {shard}", total=total, unit="clip", mininterval=5)
        size = first["frames"].shape[1:3] if pixels else None
        yield coded.write(out, split, first["latents"].shape, shown, shard, count, size)

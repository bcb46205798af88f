"""Builds a data set: rendered clips, or rendered clips coded by a trained VAE.

    python -m experiments.build_dataset --dataset doom --out data/doom --split train --clips 450
    python -m experiments.build_dataset --dataset latents --source data/doom --checkpoint runs/vae/model \\
        --out data/latents --split train --mirrored

Each call for `doom` adds one part, named by its seed, to a split; parts are read together.
"""

from __future__ import annotations

import itertools
import pathlib
import sys
import time
from collections.abc import Iterator

import tqdm
from absl import flags

from experiments import cli
from mirage_jax import data, weights
from mirage_jax.data import builder, latents
from mirage_jax.data.doom import paths
from mirage_jax.errors import UserError
from mirage_jax.training import encode

_DATASET = flags.DEFINE_enum("dataset", "doom", ["doom", "latents"], "Which data set to build.")
_OUT = flags.DEFINE_string("out", None, "Folder of the data set; splits and parts are made below it.", required=True)
_SPLIT = flags.DEFINE_string("split", "train", "train, validation or test: splits differ in their maps.")
_CLIPS = flags.DEFINE_integer("clips", 100, "How many clips to render in this part.")
_FRAMES = flags.DEFINE_integer("frames", 65, "Frames of a clip, 4k + 1.")
_SIZE = flags.DEFINE_integer("size", 128, "Side of the square frames in pixels.")
_SEED = flags.DEFINE_integer("seed", 0, "Decides everything random, and names the part.")
_KINDS = flags.DEFINE_list("kinds", list(paths.KINDS), "Kinds of camera path, spread evenly over the clips.")
_WORKERS = flags.DEFINE_integer("workers", 2, "Processes that render; the result does not depend on it.")


_SOURCE = flags.DEFINE_string("source", "data/doom", "For latents: the rendered data set to code.")
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "For latents: model folder with the VAE; default: the shipped one."
)
_MIRRORED = flags.DEFINE_bool("mirrored", False, "For latents: also code every clip left-right mirrored.")
_SHARDS = flags.DEFINE_integer("shards", 1, "For latents: parts of the data set, which are coded one by one.")
_SHARD = flags.DEFINE_integer("shard", None, "For latents: code this shard only (0 to shards - 1); default: all.")


def main(_) -> None:
    """Builds one part or split and prints where it is."""
    cli.prepare_output(_OUT.value)
    if _DATASET.value == "latents":
        for folder in _code():
            print(f"wrote {folder}")
    else:
        print(f"wrote {_render()}")


def _code() -> Iterator[pathlib.Path]:
    """Codes a split of `--source` with the VAE of `--checkpoint`, shard by shard; those that are there stay."""
    count, only = _SHARDS.value, _SHARD.value
    if count < 1 or (only is not None and not 0 <= only < count):
        raise UserError(f"--shards {count}, --shard {only}: expected at least one shard, numbered from 0 to shards - 1")
    wanted = range(count) if only is None else (only,)
    left = [i for i in wanted if not latents.shard_folder(_OUT.value, _SPLIT.value, i, count).exists()]
    for shard in sorted(set(wanted) - set(left)):
        print(f"shard {shard} of {count} is there already")
    if not left:
        return
    model, params = weights.load(_CHECKPOINT.value)
    source = data.load_source(_SOURCE.value, _SPLIT.value)
    if len(source) < count:
        raise UserError(f"--shards {count}: {_SOURCE.value} has only {len(source)} clips in split {_SPLIT.value!r}")
    for shard in left:
        samples = encode.coded_clips(model, params, source, mirrored=_MIRRORED.value, shard=shard, shards=count)
        first = next(samples)
        total = len(range(shard, len(source), count)) * (2 if _MIRRORED.value else 1)
        shown = tqdm.tqdm(itertools.chain([first], samples), f"shard {shard}", total=total, unit="clip", mininterval=5)
        yield latents.write(_OUT.value, _SPLIT.value, first["latents"].shape, shown, shard, count)


def _render() -> pathlib.Path:
    """Renders one part."""
    begin, done = time.time(), 0

    def progress(rendered) -> None:
        nonlocal done
        done += 1
        rate = done / (time.time() - begin)
        outcome = "failed" if rendered.clip is None else rendered.clip.source
        print(
            f"{done}/{_CLIPS.value} {outcome}, {(_CLIPS.value - done) / rate:.0f} s left", file=sys.stderr, flush=True
        )

    part = builder.build_doom(
        _OUT.value,
        _SPLIT.value,
        clips=_CLIPS.value,
        seed=_SEED.value,
        frames=_FRAMES.value,
        size=_SIZE.value,
        kinds=_KINDS.value,
        workers=_WORKERS.value,
        progress=progress,
    )
    return part


if __name__ == "__main__":
    cli.run(main)

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

import tqdm
from absl import flags

from experiments import cli
from mirage_jax import data, weights
from mirage_jax.data import builder, latents
from mirage_jax.data.doom import paths
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


def main(_) -> None:
    """Builds one part or split and prints where it is."""
    cli.prepare_output(_OUT.value)
    if _DATASET.value == "latents":
        print(f"wrote {_code()}")
    else:
        print(f"wrote {_render()}")


def _code() -> pathlib.Path:
    """Codes a split of `--source` with the VAE of `--checkpoint`."""
    model, params = weights.load(_CHECKPOINT.value)
    source = data.load_source(_SOURCE.value, _SPLIT.value)
    samples = encode.coded_clips(model, params, source, mirrored=_MIRRORED.value)
    first = next(samples)
    total = len(source) * (2 if _MIRRORED.value else 1)
    shown = tqdm.tqdm(itertools.chain([first], samples), total=total, unit="clip", mininterval=5)
    return latents.write(_OUT.value, _SPLIT.value, first["latents"].shape, shown)


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

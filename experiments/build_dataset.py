"""Renders a data set: `python -m experiments.build_dataset --dataset doom --out data/doom --split train --clips 450`.

Each call adds one part, named by its seed, to a split; parts are read together.
"""

from __future__ import annotations

import sys
import time

from absl import flags

from experiments import cli
from mirage_jax.data import builder

_DATASET = flags.DEFINE_enum("dataset", "doom", ["doom"], "Which data set to build.")
_OUT = flags.DEFINE_string("out", None, "Folder of the data set; splits and parts are made below it.", required=True)
_SPLIT = flags.DEFINE_string("split", "train", "train, validation or test: splits differ in their maps.")
_CLIPS = flags.DEFINE_integer("clips", 100, "How many clips to render in this part.")
_FRAMES = flags.DEFINE_integer("frames", 65, "Frames of a clip, 4k + 1.")
_SIZE = flags.DEFINE_integer("size", 128, "Side of the square frames in pixels.")
_SEED = flags.DEFINE_integer("seed", 0, "Decides everything random, and names the part.")
_WORKERS = flags.DEFINE_integer("workers", 2, "Processes that render; the result does not depend on it.")


def main(_) -> None:
    """Builds one part and prints where it is."""
    cli.prepare_output(_OUT.value)
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
        workers=_WORKERS.value,
        progress=progress,
    )
    print(f"wrote {part}")


if __name__ == "__main__":
    cli.run(main)

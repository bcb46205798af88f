"""Makes the videos of the WorldScore benchmark, laid out for its public scorer.

    python -m experiments.worldscore --dataset WorldScore-Dataset --checkpoint models/wan22 --out out/worldscore

Stopped at any time, the same command goes on; `--part 0/8` .. `--part 7/8` share the work. A sample that cannot be made
is named, the others go on, and the command ends with an error. `--check` runs no model: it looks through the data set
and what is finished. `--dry_run` tries the layout without a model.

The data set is WorldScore-Dataset, as the benchmark's download.py unpacks it. To score: copy OUT/mirage_jax.yaml to the
scorer's config/model_configs/, put mirage_jax under "videogen" in its worldscore/benchmark/utils/modeltype.py, and run
its worldscore/run_evaluate.py --model_name mirage_jax.
"""

from __future__ import annotations

import math

from absl import flags

from experiments.bench.adapters import command
from experiments.shared import cli
from experiments.worldscore import paths, samples
from mirage_jax.errors import UserError

flags.adopt_module_key_flags(command)
_SPLIT = flags.DEFINE_list("split", list(paths.SPLITS), "Splits to make.")
_FRAMES = flags.DEFINE_integer(
    "frames", paths.FRAMES, "Frames of one move of the camera, first and last included; a video has one to three."
)
_RESOLUTION = flags.DEFINE_list(
    "resolution",
    None,
    "W,H of the frames that are scored, on which the focal length is 500 pixels. Default: the model's, or 512,512 and "
    "its like in area for smaller models, since the scorer scales all frames to that.",
)
_CAMERA_SPEED = flags.DEFINE_float(
    "camera_speed", 1.0, "Scene units (metres, for a model with metric depth) of a push; the scorer divides them out."
)


def main(_) -> None:
    """Makes them, or checks."""
    settings = _settings()

    def read(dataset: str) -> list[samples.Sample]:
        splits = dict.fromkeys(_SPLIT.value)
        return [sample for split in splits for sample in command.thinned(samples.read(dataset, split, settings))]

    def decisive(model) -> dict:
        size = list(settings.size(model)[::-1])
        return {"frames": settings.frames, "camera_speed": settings.speed, "resolution": size}

    def register(out, model, _) -> str:
        return f"the scorer's entry of them is {samples.write_model_config(out, settings, model)}"

    command.run(command.Benchmark(read, samples.write_sample_dataset, decisive, register))


def _settings() -> samples.Settings:
    if _FRAMES.value < 2:
        raise UserError(f"--frames is {_FRAMES.value}, expected at least 2 a move")
    if not (math.isfinite(_CAMERA_SPEED.value) and _CAMERA_SPEED.value > 0):
        raise UserError(f"--camera_speed is {_CAMERA_SPEED.value}, expected a number above 0")
    if unknown := [split for split in _SPLIT.value if split not in paths.SPLITS]:
        raise UserError(f"--split: unknown {unknown[0]!r}, expected some of {', '.join(paths.SPLITS)}")
    words, size = _RESOLUTION.value, None
    if words is not None:
        if len(words) != 2 or not all(word.strip().isdigit() and int(word) >= 16 for word in words):
            raise UserError(f"--resolution {','.join(words)}: expected W,H in pixels, at least 16 each")
        size = int(words[1]), int(words[0])
    return samples.Settings(_FRAMES.value, _CAMERA_SPEED.value, size)


if __name__ == "__main__":
    cli.run(main)

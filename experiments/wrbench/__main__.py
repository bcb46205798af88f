"""Makes the videos of WRBench, in which the camera looks away and comes back, laid out for its public scorer.

    python -m experiments.wrbench --dataset WRBench --checkpoint models/wan22 --out out/wrbench
    python -m experiments.wrbench --dry_run --out out/wrbench_try

Stopped at any time, the same command goes on; `--part 0/8` .. `--part 7/8` share the work. A sample that cannot be made
is named, the others go on, and the command ends with an error. `--check` runs no model: it looks through the data set
and what is finished. `--dry_run` tries the layout without a model.

The data set is a checkout of WRBench: prompts and first frames are in its folder src/wrbench/data/natural25. To score:
wrbench eval run --manifest OUT/videos.json --out-dir OUT/scores.
"""

from __future__ import annotations

from absl import flags

from experiments.bench.adapters import command
from experiments.shared import cli
from experiments.wrbench import samples
from mirage_jax.errors import UserError

flags.adopt_module_key_flags(command)
_CAMERAS = flags.DEFINE_list("cameras", list(samples.CAMERAS), "Cameras to see every event with.")
_FRAMES = flags.DEFINE_integer("frames", samples.FRAMES, "Frames of a video, its first picture included.")


def main(_) -> None:
    """Makes them, or checks."""
    if _FRAMES.value < 4:
        raise UserError(f"--frames is {_FRAMES.value}, expected at least 4: two to look away and two to come back")
    cameras = list(dict.fromkeys(_CAMERAS.value))
    if unknown := [camera for camera in cameras if camera not in samples.CAMERAS]:
        raise UserError(f"--cameras: unknown {unknown[0]!r}, expected some of {', '.join(samples.CAMERAS)}")
    if not cameras:
        raise UserError("--cameras names none")

    def register(out, model, chosen) -> str:
        file, count = samples.write_list(out, chosen)
        return f"the scorer's list of {count} finished videos is {file}"

    benchmark = command.Benchmark(
        read=lambda dataset: command.thinned(samples.read(dataset, cameras, _FRAMES.value)),
        write_sample_dataset=samples.write_sample_dataset,
        decisive=lambda model: {"frames": _FRAMES.value},
        register=register,
    )
    command.run(benchmark)


if __name__ == "__main__":
    cli.run(main)

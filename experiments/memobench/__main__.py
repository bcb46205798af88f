"""Makes the videos of MemoBench, in which a thing leaves the view and comes back, laid out for its public scorer.

    python -m experiments.memobench --dataset MemoBench --checkpoint models/wan22 --out MemoBench/output/mirage_jax
    python -m experiments.memobench --dry_run --out out/memobench_try

Stopped at any time, the same command goes on; `--part 0/8` .. `--part 7/8` share the work. A sample that cannot be made
is named, the others go on, and the command ends with an error. `--check` runs no model: it looks through the data set
and what is finished. `--dry_run` tries the layout without a model.

The data set is a checkout of MemoBench with its data in the folder data. To score, in that checkout: python
evaluation/run_eval.py --mode both --gen_root_syn OUT/Synthetic --gen_root_real OUT/Real; for evaluation/compute_ors.py
and evaluation/vqa/llm-vqa.py, first put the two folders into their MODEL_CONFIGS.
"""

from __future__ import annotations

from absl import flags

from experiments.bench.adapters import command
from experiments.memobench import samples
from experiments.shared import cli
from mirage_jax.errors import UserError

flags.adopt_module_key_flags(command)
_SPLIT = flags.DEFINE_list("split", list(samples.UNITS), "Splits to make.")
_FRAMES = flags.DEFINE_integer(
    "frames", samples.FRAMES, "Frames of a video; poses of the true camera are spread evenly over them."
)
_PATH_SCALE = flags.DEFINE_float(
    "path_scale", None, "Metres of a unit of the cameras' positions; default 0.01 for synthetic clips, 1 for real ones."
)


def main(_) -> None:
    """Makes them, or checks."""
    splits, scale = list(dict.fromkeys(_SPLIT.value)), _PATH_SCALE.value
    if _FRAMES.value < samples.LEAST_FRAMES:
        raise UserError(f"--frames is {_FRAMES.value}, expected at least {samples.LEAST_FRAMES}")
    if unknown := [split for split in splits if split not in samples.UNITS]:
        raise UserError(f"--split: unknown {unknown[0]!r}, expected some of {', '.join(samples.UNITS)}")
    if scale is not None and not 1e-6 <= scale <= 1e6:  # NaN is not
        raise UserError(f"--path_scale is {scale:g}, expected metres a unit from 1e-6 to 1e6")

    def read(dataset: str) -> list[samples.Sample]:
        found = (samples.read(dataset, split, _FRAMES.value, scale) for split in splits)
        return [sample for of_split in found for sample in command.thinned(of_split)]

    benchmark = command.Benchmark(
        read=read,
        write_sample_dataset=samples.write_sample_dataset,
        decisive=lambda model: {"frames": _FRAMES.value, "path_scale": scale},
        register=lambda out, model, chosen: "give the scorer its folders Synthetic and Real",
    )
    command.run(benchmark)


if __name__ == "__main__":
    cli.run(main)

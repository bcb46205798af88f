"""Measures one thing: `python -m experiments.benchmark --suite NAME --out DIR`.

Writes `NAME.json` (every figure), `NAME.md` (the table), and what ran beside them. A suite is a
module with `measure() -> dict` and `markdown(record) -> str`; it is added by a line below. Its OPTIONS name the flags
that `measure` takes as arguments, and `stage_config`, which gives the config of a training stage by name.
"""

from __future__ import annotations

import importlib
from typing import Any

from absl import flags

from experiments.shared import cli
from mirage_jax.io import write_json, write_text

SUITES = {
    "lasting": "experiments.bench.memory.lasting",
    "memory": "experiments.bench.memory_speed",
    "memory_quality": "experiments.bench.memory_quality",
    "merge": "experiments.bench.memory.merging",
    "moving": "experiments.bench.memory.moving",
    "compile": "experiments.bench.full_size.compiled",
    "explore": "experiments.bench.explore",
    "dit_ratio": "experiments.bench.full_size.ratio",
    "endless": "experiments.bench.memory.endless",
    "end_to_end": "experiments.bench.end_to_end_speed",
    "full_size": "experiments.bench.full_size.segment",
    "input": "experiments.bench.input_speed",
    "photographs": "experiments.bench.photographs",
    "rollout": "experiments.bench.rollout_speed",
    "step_cache": "experiments.bench.step_cache",
    "train_scale": "experiments.bench.full_size.train_scale",
}

_SUITE = flags.DEFINE_enum("suite", None, sorted(SUITES), "What to measure.")
_OUT = flags.DEFINE_string(
    "out",
    None,
    "Folder for the results; suites compile, merge, moving, rollout and train_scale go on from what is there.",
)
_SCALE = flags.DEFINE_enum(
    "scale",
    "full",
    ["full", "tiny"],
    "For suite full_size: the 5B model, or one for a CPU; for rollout: its size too, or the default model's only; for "
    "explore: the default model, or the mock.",
)
_CLIPS = flags.DEFINE_string(
    "clips",
    None,
    "For suite input: the data set of clips (data/doom); for merge and moving: the held-out set (data/evaluation).",
)
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "For suites endless, merge, moving and photographs: the model; default: the one that ships."
)
_SEGMENTS = flags.DEFINE_integer("segments", 2000, "For suite endless: how many to walk.", lower_bound=2)
_ROWS = flags.DEFINE_integer(
    "rows", None, "For suites compile and train_scale: at most so many of the missing rows; default all.", lower_bound=0
)
_LATENTS = flags.DEFINE_string("latents", "data/latents", "For suite input: the data set of coded clips.")


def main(_) -> None:
    """Measures, writes and prints."""
    out = cli.prepare_output(_OUT.value)
    name = _SUITE.value
    suite = importlib.import_module(SUITES[name])
    options = {
        "out": out,
        "scale": _SCALE.value,
        "clips": _CLIPS.value or ("data/doom" if name == "input" else "data/evaluation"),
        "checkpoint": _CHECKPOINT.value,
        "segments": _SEGMENTS.value,
        "most": _ROWS.value,
        "latents": _LATENTS.value,
        "stage_config": _stage_config,
    }
    record = suite.measure(**{option: options[option] for option in getattr(suite, "OPTIONS", ())})
    table = suite.markdown(record)
    cli.write_run_config(out, cli.flag_values())
    write_json(out / f"{name}.json", record)
    write_text(out / f"{name}.md", table)
    print(table)


def _stage_config(name: str) -> Any:
    """The config of a training stage by the name of its file."""
    return importlib.import_module(f"experiments.configs.{name}").get_config()


if __name__ == "__main__":
    flags.mark_flags_as_required(["suite", "out"])
    cli.run(main)

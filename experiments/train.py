"""Trains one stage of a model: `python -m experiments.train --config experiments/configs/NAME.py --workdir DIR`.

Any field can be set on the command line: `--config.steps=200 --config.model.dit.dim=512`. A run that
was stopped goes on from its last checkpoint when the same command is given again.
"""

from __future__ import annotations

from absl import flags
from ml_collections import config_flags

from experiments import cli
from mirage_jax.training import loop, stages

_CONFIG = config_flags.DEFINE_config_file("config", None, "Python file with get_config(), the run in numbers.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, metrics, previews, the trained model.")


def main(_) -> None:
    """Trains."""
    workdir = cli.prepare_output(_WORKDIR.value)
    config = _CONFIG.value
    cli.write_run_config(workdir, config)
    model = loop.train(stages.make(config), config, workdir)
    print(f"trained model: {model}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    cli.run(main)

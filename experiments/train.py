"""Trains one stage of a model: `python -m experiments.train --config experiments/configs/NAME.py --workdir DIR`.

Any field can be set on the command line: `--config.steps=200 --config.model.dit.dim=512`. A run that
was stopped goes on from its last checkpoint when the same command is given again; SIGTERM, SIGUSR1 and Ctrl-C save
first and end it with exit code 75. Several processes, on one machine or many, run the same command: `launch/` starts
them, and `experiments/shared/processes.py` says how they find each other.
"""

from __future__ import annotations

import os
import sys

from absl import flags
from ml_collections import config_flags

from experiments.shared import cli, processes
from mirage_jax.errors import Stopped
from mirage_jax.training import loop, stages

_CONFIG = config_flags.DEFINE_config_file("config", None, "Python file with get_config(), the run in numbers.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, metrics, previews, the trained model.")
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, if the launcher's variables are not set."
)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which process this is, from 0.")
_PROCESS_COUNT = flags.DEFINE_integer("process_count", None, "How many processes there are.")


def main(_) -> None:
    """Trains."""
    group = processes.find(os.environ, _COORDINATOR.value, _PROCESS_ID.value, _PROCESS_COUNT.value)
    with processes.started(group, cli.exit_code) as group:
        workdir = cli.prepare_output(_WORKDIR.value)
        config = _CONFIG.value
        if group.first:
            cli.write_run_config(workdir, config)
        try:
            loop.check(config)  # a stage may take minutes to make
            model = loop.train(stages.make(config), config, workdir)
        except Stopped as stopped:
            print(stopped, flush=True)
            sys.exit(cli.STOPPED)
        print(f"trained model: {model}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    cli.run(main)

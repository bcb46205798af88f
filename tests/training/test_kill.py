"""A training run that is killed with no warning, and one that is told to stop, go on as if nothing had happened.

`make test-faults` does more of this, with several processes.
"""

import json
import pathlib
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "launch"))
import tiny

from experiments.configs import default_heads
from mirage_jax import weights
from mirage_jax.training import loop, stages

ROOT = pathlib.Path(__file__).parent.parent.parent
STEPS = 16
SMALL = {"widths": (4, 4, 4), "blocks": (1, 1, 1), "attention_heads": 1}

# The command, which gets a signal when it reads the batch of a step; what it saved before is still being written.
COMMAND = """
import os, runpy, sys
from mirage_jax.training import loop

step, number = map(int, sys.argv[1:3])
read = loop._next

def read_and_be_hurt(batches, at, *rest):
    if at == step:
        os.kill(os.getpid(), number)
    return read(batches, at, *rest)

loop._next = read_and_be_hurt
sys.argv = ["train", *sys.argv[3:]]
runpy.run_module("experiments.train", run_name="__main__")
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kill")
    tiny.make(folder)
    return folder


def _train(prepared, workdir):
    """To the end, in this process."""
    config = default_heads.get_config()
    config.update(tiny.settings(prepared, STEPS))
    config.model.heads.update(SMALL)
    loop.train(stages.make(config), config, workdir)


def _train_until(step, number, prepared, workdir):
    """The command in a process of its own, hurt at a step; its exit code, stdout and stderr."""
    small = [f"--config.model.heads.{name}={value}" for name, value in SMALL.items()]
    flags = [f"--workdir={workdir}", *tiny.flags(prepared, STEPS), *small]
    command = [sys.executable, "-c", COMMAND, str(step), str(int(number)), *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def _losses(workdir):
    rows = [json.loads(line) for line in (workdir / "losses.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows}


def test_killed_and_told_to_stop_ends_with_the_same_curve_and_the_same_weights(prepared, tmp_path, capsys):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    _train(prepared, whole)

    code, _, error = _train_until(6, signal.SIGKILL, prepared, broken)
    assert code == -signal.SIGKILL, error
    assert max(_losses(broken)) == 5 and not (broken / "model").exists()

    code, said, error = _train_until(8, signal.SIGTERM, prepared, broken)
    assert code == 75, error
    assert max(_losses(broken)) == 8 and not (broken / "model").exists()
    assert f"{broken}: told to stop, saved step 8; the same command goes on from there" in said
    assert (broken / "checkpoints" / "8").is_dir()

    capsys.readouterr()
    _train(prepared, broken)
    assert "resumed at step 8\n" in capsys.readouterr().out
    assert _losses(broken) == _losses(whole)
    assert sorted(_losses(broken)) == list(range(1, STEPS + 1))
    ends = [weights.load(workdir / "model")[1]["heads"] for workdir in (whole, broken)]
    jax.tree.map(np.testing.assert_array_equal, *ends)

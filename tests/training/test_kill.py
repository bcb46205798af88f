"""A training run that is killed with no warning, and one that is told to stop, go on as if nothing had happened.

`make test-faults` does more of this, with several processes.
"""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "launch"))
import tiny

from mirage_jax import weights

ROOT = pathlib.Path(__file__).parent.parent.parent
STEPS = 40
SMALL = ["--config.model.heads.widths=(8,8,16)", "--config.model.heads.blocks=(1,1,1)"]  # tests do not optimise


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kill")
    tiny.make(folder)
    return folder


def _start(prepared, workdir):
    """The command of the heads' stage, with every source of its randomness fixed by the config."""
    command = [sys.executable, "-m", "experiments.train", f"--workdir={workdir}", *tiny.flags(prepared, STEPS), *SMALL]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _losses(workdir):
    file = workdir / "losses.jsonl"
    whole = file.read_text().splitlines(keepends=True) if file.exists() else []
    rows = [json.loads(line) for line in whole if line.endswith("\n")]
    return {row["step"]: row["loss"] for row in rows}


def test_killed_and_told_to_stop_ends_with_the_same_curve_and_the_same_weights(prepared, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run = _start(prepared, whole)
    assert run.wait(timeout=600) == 0, run.stderr.read()

    moments = sorted(random.Random(0).sample(range(6, STEPS - 10), 2))
    for moment, number in zip(moments, (signal.SIGKILL, signal.SIGTERM), strict=True):
        run = _start(prepared, broken)
        while max(_losses(broken), default=0) < moment:
            assert run.poll() is None, run.stderr.read()
            time.sleep(0.01)
        os.kill(run.pid, number)
        said, _ = run.communicate(timeout=60)
        assert not (broken / "model").exists()
        if number == signal.SIGTERM:
            last = max(_losses(broken))
            assert run.returncode == 75
            assert f"{broken}: told to stop, saved step {last}; the same command goes on from there" in said
            assert (broken / "checkpoints" / str(last)).is_dir()
    run = _start(prepared, broken)
    assert run.wait(timeout=600) == 0, run.stderr.read()
    assert f"resumed at step {last}\n" in run.stdout.read()

    assert _losses(broken) == _losses(whole)
    assert sorted(_losses(broken)) == list(range(1, STEPS + 1))
    ends = [weights.load(workdir / "model")[1]["heads"] for workdir in (whole, broken)]
    jax.tree.map(np.testing.assert_array_equal, *ends)

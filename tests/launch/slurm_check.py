"""`make test-slurm`: launch/slurm.sbatch on a SLURM cluster of two node daemons on this machine.

Not a file that `make test` collects: it needs SLURM's packages, root to install them, and some minutes.
"""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import tiny

from mirage_jax import weights

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
CLUSTER = ROOT / "tests/launch/slurm_cluster.sh"
STEPS = 60


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """Runs a command of the cluster; gives what it prints."""
    folder = tmp_path_factory.mktemp("cluster")
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "MIRAGE", "XLA"))}
    variables |= {"SLURM_CONF": str(folder / "slurm.conf"), "PYTHON": sys.executable, "JAX_PLATFORMS": "cpu"}

    def call(*command):
        return subprocess.run(
            command, env=variables, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, timeout=600
        ).stdout.strip()

    try:
        subprocess.run([CLUSTER, "start", folder], check=True, timeout=600)
        yield call
    finally:
        subprocess.run([CLUSTER, "stop", folder], check=True, timeout=600)
        pids = [file.read_text().strip() for file in folder.glob("*.pid")]
        assert not any(pathlib.Path(f"/proc/{pid}").exists() for pid in pids), "daemons left"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    tiny.make(folder)
    return folder


def last_step(workdir):
    file = workdir / "losses.jsonl"
    whole = file.read_text().splitlines(keepends=True) if file.exists() else []
    return max((json.loads(line)["step"] for line in whole if line.endswith("\n")), default=0)


def wait_for(what, condition, log, seconds=3600):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what}:\n{log.read_text() if log.exists() else 'no log'}"
        time.sleep(0.1)


def test_a_job_that_is_preempted_twice_ends_like_one_that_is_not(slurm, prepared, tmp_path):
    whole, workdir = tmp_path / "whole", tmp_path / "run"
    alone = [ROOT / "launch/local.py", "--processes=2", "--restarts=5", "--", sys.executable, "-m", "experiments.train"]
    subprocess.run([*alone, f"--workdir={whole}", *tiny.flags(prepared, STEPS)], cwd=ROOT, check=True)

    output = f"--output={tmp_path}/%j.log"
    arguments = [f"--workdir={workdir}", *tiny.flags(prepared, STEPS)]
    job = slurm("sbatch", "--parsable", output, "launch/slurm.sbatch", *arguments)
    log = tmp_path / f"{job}.log"

    def shows(text):
        return text in slurm("scontrol", "show", "job", job)

    # Told to stop: saves, puts itself back into the queue, goes on.
    wait_for("the first steps", lambda: last_step(workdir) >= 8, log)
    slurm("scancel", f"--signal={signal.SIGTERM.name}", job)
    wait_for("the second start", lambda: shows("JobState=RUNNING") and shows("Restarts=1"), log)
    text = log.read_text()
    saved = int(re.search(r"told to stop, saved step (\d+)", text)[1])
    assert f"[job {job}, start 1] saved; back into the queue" in text
    assert (workdir / "checkpoints" / str(saved)).is_dir()

    # Taken away by SLURM itself.
    wait_for("steps of the second start", lambda: last_step(workdir) >= saved + 8, log)
    slurm("scontrol", "requeue", job)
    wait_for("the end", lambda: shows("JobState=COMPLETED") or shows("JobState=FAILED"), log)

    text = log.read_text()
    assert shows("JobState=COMPLETED") and shows("Restarts=2") and shows("ExitCode=0:0"), text
    assert f"[job {job}, start 3] finished" in text
    resumed = [int(step) for step in re.findall(r"resumed at step (\d+)", text)]
    assert len(resumed) == 2 and resumed[0] == saved and saved <= resumed[1] < STEPS

    rows = [json.loads(line) for line in (workdir / "losses.jsonl").read_text().splitlines()]
    expected = [json.loads(line) for line in (whole / "losses.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    np.testing.assert_allclose([row["loss"] for row in rows], [row["loss"] for row in expected], rtol=1e-6)
    ends = [weights.load(folder / "model")[1]["heads"] for folder in (workdir, whole)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), *ends)
    starts = [json.loads(line) for line in (workdir / "starts.jsonl").read_text().splitlines()]
    assert [start["processes"] for start in starts] == [2, 2, 2]


def test_wrong_input_ends_the_job_and_cancelling_does_not_requeue_it(slurm, prepared, tmp_path):
    output = f"--output={tmp_path}/%j.log"
    arguments = [f"--workdir={tmp_path}/wrong", *tiny.flags(prepared, STEPS), "--config.batch_size=3"]
    wrong = slurm("sbatch", "--parsable", output, "launch/slurm.sbatch", *arguments)
    wait_for("the end", lambda: "JobState=FAILED" in slurm("scontrol", "show", "job", wrong), tmp_path / f"{wrong}.log")
    assert "not starting it again" in (tmp_path / f"{wrong}.log").read_text()
    assert "ExitCode=2:0" in slurm("scontrol", "show", "job", wrong)

    arguments = [f"--workdir={tmp_path}/run", *tiny.flags(prepared, 100_000)]
    job = slurm("sbatch", "--parsable", output, "launch/slurm.sbatch", *arguments)
    wait_for("the first steps", lambda: last_step(tmp_path / "run") >= 2, tmp_path / f"{job}.log")
    slurm("scancel", job)
    wait_for(
        "the end", lambda: job not in slurm("squeue", "--noheader", "--format=%i").split(), tmp_path / f"{job}.log"
    )
    state = slurm("scontrol", "show", "job", job)
    assert "JobState=CANCELLED" in state and "Restarts=0" in state

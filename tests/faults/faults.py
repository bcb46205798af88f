"""Two connected processes under `launch/local.py`, hurt ten times: the run ends as if nothing had happened.

`make test-faults` runs it (minutes); the name keeps it out of `make test`. What landed where is printed at the end.
"""

import contextlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "launch"))
import tiny

from mirage_jax import weights
from mirage_jax.training import manifest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
STEPS = 150
PATIENCE = 3600  # seconds until what does not end counts as hung, however busy the machine is
LAST_SAVES = ("--config.checkpoint_every=3", "--config.keep_checkpoints=3")

# Whom to hurt, with what, and when: at a random step, in the middle of a save, or a random time after a new start.
FAULTS = [
    ("one", signal.SIGKILL, "step"),
    ("all", signal.SIGKILL, "save"),
    ("one", signal.SIGTERM, "step"),
    ("one", signal.SIGKILL, "save"),
    ("all", signal.SIGKILL, "start"),
    ("all", signal.SIGTERM, "save"),
    ("all", signal.SIGKILL, "step"),
    ("one", signal.SIGTERM, "save"),
    ("one", signal.SIGKILL, "start"),
    ("all", signal.SIGKILL, "save"),
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    tiny.make(folder)
    return folder


@pytest.fixture(scope="module")
def whole(prepared, tmp_path_factory):
    """A run that nothing happened to."""
    workdir = tmp_path_factory.mktemp("whole")
    run = launch(prepared, workdir)
    assert run.wait(timeout=PATIENCE) == 0, log(workdir)
    return workdir


def launch(prepared, workdir, *further, processes=2, devices=1):
    command = [ROOT / "launch/local.py", f"--processes={processes}", f"--devices={devices}", "--pause=0.1"]
    command += ["--restarts=20", "--", sys.executable, "-m", "experiments.train", f"--workdir={workdir}"]
    workdir.mkdir(exist_ok=True)
    with (workdir / "log").open("a") as file:
        return subprocess.Popen(
            [*command, *tiny.flags(prepared, STEPS), *LAST_SAVES, *further], cwd=ROOT, stdout=file, stderr=file
        )


def log(workdir):
    return (workdir / "log").read_text()


def losses(workdir):
    file = workdir / "losses.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    return {row["step"]: row["loss"] for row in rows}


def children(run):
    """Processes that the launcher has started and that still run, in the order of their numbers."""
    found = []
    for pid in pathlib.Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split():
        try:
            if pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found.append(int(pid))
        except FileNotFoundError:
            continue
    return sorted(found)


def unfinished(workdir):
    return sorted(path.name for path in (workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*"))


def complete(workdir):
    steps = [path for path in (workdir / "checkpoints").glob("*") if path.name.isdecimal()]
    return max((int(path.name) for path in steps if manifest.first_fault(path) is None), default=None)


def wait(run, workdir, condition, seconds=PATIENCE):
    end = time.monotonic() + seconds
    while not condition():
        assert run.poll() is None, f"the launcher ended with {run.poll()}\n{log(workdir)}"
        assert time.monotonic() < end, log(workdir)
        time.sleep(0.002)


def final_state(workdir):
    with ocp.StandardCheckpointer() as checkpointer:
        path = workdir / "checkpoints" / str(STEPS) / "state"
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        shapes = jax.tree.map(
            lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=here),
            checkpointer.metadata(path).item_metadata.tree,
        )
        return jax.tree.map(np.asarray, checkpointer.restore(path, shapes))


def test_ten_faults_end_with_the_same_parameters_bit_for_bit(prepared, whole, tmp_path):
    chance = random.Random(0)
    workdir = tmp_path / "broken"
    run = launch(prepared, workdir)
    moments = sorted(chance.sample(range(5, STEPS - 15), len(FAULTS)))
    landed = []
    try:
        for (whom, number, when), moment in zip(FAULTS, moments, strict=True):
            if when == "start":
                wait(run, workdir, lambda: len(children(run)) == 2)
                time.sleep(chance.uniform(0.3, 8))
            else:
                wait(run, workdir, lambda at=moment: max(losses(workdir), default=0) >= at)
            if when == "save":
                wait(run, workdir, lambda: unfinished(workdir))
            victims = children(run)
            before = list(victims)
            if whom == "one":
                victims = [chance.choice(victims)]
            for pid in victims:
                os.kill(pid, number)
            half = unfinished(workdir)
            wait(run, workdir, lambda gone=before: not set(gone) & set(children(run)))
            newest = complete(workdir)
            starts = log(workdir).count("training ")
            landed.append(
                f"{number.name} of {whom} at {when}: after step {max(losses(workdir), default=0)}, unfinished {half}, "
                f"newest whole checkpoint then {newest}"
            )
            # What the next start takes is the newest whole checkpoint, however much of a newer one is there.
            if newest is not None and when != "start":
                wait(run, workdir, lambda n=starts: log(workdir).count("training ") > n)
                resumed = re.findall(r"resumed at step (\d+)", log(workdir))
                landed[-1] += f", resumed at {resumed[-1]}"
                assert int(resumed[-1]) == newest, landed[-1]
        assert run.wait(timeout=PATIENCE) == 0, log(workdir)
    finally:
        print("\n".join(landed))
        if run.poll() is None:
            run.kill()
            run.wait()

    assert sum("unfinished ['" in line for line in landed) >= 2  # some landed inside a save
    assert losses(workdir) == losses(whole)
    jax.tree.map(np.testing.assert_array_equal, final_state(workdir), final_state(whole))
    models = [weights.load(path / "model")[1] for path in (workdir, whole)]
    jax.tree.map(np.testing.assert_array_equal, *models)
    record = json.loads((workdir / "record.json").read_text())
    assert record["restarts"] >= 8 and record["steps"] == STEPS and record["processes"] == 2
    assert "[process 1/2]" in log(workdir)


def test_a_flipped_byte_is_refused_by_name_and_the_run_ends_the_same(prepared, whole, tmp_path):
    workdir = tmp_path / "flipped"
    shutil.copytree(whole, workdir)
    shutil.rmtree(workdir / "model")
    newest = workdir / "checkpoints" / str(STEPS)
    data = max(newest.glob("state/**/d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(data.read_bytes())
    content[len(content) // 3] ^= 1
    data.write_bytes(content)
    assert launch(prepared, workdir).wait(timeout=PATIENCE) == 0, log(workdir)
    assert f"checkpoint {newest} is refused: {data.relative_to(newest)} does not have the checksum" in log(workdir)
    assert f"resumed at step {STEPS - 3}" in log(workdir)
    jax.tree.map(np.testing.assert_array_equal, final_state(workdir), final_state(whole))


def test_goes_on_with_other_processes_mesh_and_workers(prepared, whole, tmp_path):
    workdir = tmp_path / "elsewhere"
    shutil.copytree(whole, workdir)
    shutil.rmtree(workdir / "model")
    shutil.rmtree(workdir / "checkpoints" / str(STEPS))
    mesh = ("--config.mesh.data=1", "--config.mesh.fsdp=2", "--config.workers=2")
    assert launch(prepared, workdir, *mesh, processes=1, devices=2).wait(timeout=PATIENCE) == 0, log(workdir)
    assert f"resumed at step {STEPS - 3}" in log(workdir)
    assert "by 2 processes with 0 data workers each, now there are 1 with 2: data position" in log(workdir)
    assert sorted(losses(workdir)) == sorted(losses(whole))


def test_a_peer_that_hangs_is_given_up_and_the_run_goes_on(prepared, whole, tmp_path):
    """A process that stops without dying sends no sign of life; the others notice, end, and all start again."""
    workdir = tmp_path / "hung"
    run = launch(prepared, workdir)
    try:
        wait(run, workdir, lambda: max(losses(workdir), default=0) >= 20)
        os.kill(children(run)[1], signal.SIGSTOP)
        assert run.wait(timeout=PATIENCE) == 0, log(workdir)
    finally:
        if run.poll() is None:
            run.kill()
            run.wait()
    assert "stopped sending heartbeats" in log(workdir)
    assert losses(workdir) == losses(whole)


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="needs the right to mount a tmpfs")
@pytest.mark.parametrize("when", ["between saves", "in a save"])
def test_a_full_disk_ends_in_one_sentence_and_room_lets_it_go_on(prepared, whole, tmp_path, when):
    workdir = tmp_path / "small"
    workdir.mkdir()
    # Room for three checkpoints of 13 MB, a fourth on its way, and the model.
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "none", workdir]).returncode:
        pytest.skip("cannot mount a tmpfs here")
    try:
        (workdir / "log").symlink_to(tmp_path / "log")  # what is said must not need room on the full disk
        filler = workdir / "filler"
        run = launch(prepared, workdir)
        wait(run, workdir, lambda: complete(workdir))
        if when == "in a save":
            wait(run, workdir, lambda: unfinished(workdir))
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"0" * 4096)
        filler_log = run.wait(timeout=PATIENCE)
        text = log(workdir)
        filler.unlink()
        assert filler_log == 2, text
        assert "No space left on device" in text or "disk is full" in text, text
        left = complete(workdir)
        assert left is not None
        again = launch(prepared, workdir)
        assert again.wait(timeout=PATIENCE) == 0, log(workdir)
        assert losses(workdir) == losses(whole)
    finally:
        if run.poll() is None:
            run.kill()
            run.wait()
        subprocess.run(["umount", "--lazy", workdir], check=True)

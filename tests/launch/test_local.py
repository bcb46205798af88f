"""The local launcher: who gets what, what counts as a failure, and that nothing is left behind."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PATIENCE = 600  # seconds until what does not end counts as hung, however busy the machine is

# Every process writes a line "id:start" to LOG and then does what BODY says; `start` counts its own starts from 1.
PROGRAM = """
import os, pathlib, signal, subprocess, sys, time
me = os.environ["MIRAGE_PROCESS_ID"]
log = pathlib.Path(os.environ["LOG"])
with log.open("a") as file:
    file.write(me + chr(10))
start = log.read_text().split().count(me)
"""


def launch(tmp_path, body, *options, **variables):
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return subprocess.Popen(
        [ROOT / "launch/local.py", "--pause=0", *options, "--", sys.executable, "-c", PROGRAM + body],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment | {"LOG": str(tmp_path / "log")} | variables,
    )


def outcome(tmp_path, body, *options, **variables):
    """(exit code, number of starts of each process, stdout, stderr)."""
    run = launch(tmp_path, body, *options, **variables)
    out, err = run.communicate(timeout=PATIENCE)
    log = (tmp_path / "log").read_text().split() if (tmp_path / "log").exists() else []
    return run.returncode, [log.count(name) for name in sorted(set(log))], out, err


def wait_for(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_all_finish(tmp_path):
    assert outcome(tmp_path, "", "--processes=3")[:2] == (0, [1, 1, 1])


def test_processes_get_one_coordinator_and_their_virtual_devices(tmp_path):
    names = ("MIRAGE_COORDINATOR", "MIRAGE_PROCESS_COUNT", "XLA_FLAGS")
    body = f"""sys.stdout.write(f"{{me}} {{' '.join(os.environ[name] for name in {names})}}\\n")"""  # in one piece
    flags = "--xla_force_host_platform_device_count=2 --xla_dump_to=x"
    _, _, out, _ = outcome(tmp_path, body, "--processes=2", "--devices=4", XLA_FLAGS=flags)
    rows = sorted(line.split() for line in out.splitlines())
    assert [row[0] for row in rows] == ["0", "1"]
    assert rows[0][1] == rows[1][1] and rows[0][1].startswith("127.0.0.1:")
    devices = "--xla_force_host_platform_device_count=4"
    late = [f"--xla_cpu_collective_call_{what}_timeout_seconds=3600" for what in ("warn_stuck", "terminate")]
    assert all(row[2:] == ["2", "--xla_dump_to=x", devices, *late] for row in rows)


def test_gpus_are_shared_out(tmp_path):
    body = """sys.stdout.write(f"{me} {os.environ['CUDA_VISIBLE_DEVICES']}\\n")"""  # in one piece
    _, _, out, _ = outcome(tmp_path, body, "--processes=2", CUDA_VISIBLE_DEVICES="4,5,6,7")
    assert sorted(out.splitlines()) == ["0 4,5", "1 6,7"]
    code, _, _, err = outcome(tmp_path, body, "--processes=3", CUDA_VISIBLE_DEVICES="4,5,6,7")
    assert code == 2 and "4 GPUs cannot be shared equally by 3 processes" in err


def test_one_that_is_killed_takes_the_others_along_and_all_start_again(tmp_path):
    body = """
if start <= 2:
    if me == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.exit(1)  # what a peer does that finds it gone
"""
    code, starts, _, err = outcome(tmp_path, body, "--processes=2")
    assert (code, starts) == (0, [3, 3])
    assert err.count("again") == 2


def test_gives_up_after_so_many_failures(tmp_path):
    code, starts, _, err = outcome(tmp_path, "sys.exit(3)", "--processes=2", "--restarts=2")
    assert (code, starts) == (1, [3, 3])
    assert "exit 3; giving up after 3 failures" in err


def test_stops_that_saved_are_not_failures(tmp_path):
    body = "sys.exit(75 if start <= 4 else 0)"
    assert outcome(tmp_path, body, "--processes=2", "--restarts=0")[:2] == (0, [5, 5])


def test_wrong_input_is_not_tried_again(tmp_path):
    body = "sys.exit(2 if me == '0' else 1)"
    assert outcome(tmp_path, body, "--processes=2")[:2] == (2, [1, 1])


def test_wrong_input_is_not_tried_again_when_its_peer_is_seen_to_end_first(tmp_path):
    body = "time.sleep(1 if me == '0' else 0); sys.exit(2 if me == '0' else 1)"
    assert outcome(tmp_path, body, "--processes=2")[:2] == (2, [1, 1])


def test_what_a_peer_says_of_a_killed_process_is_not_wrong_input(tmp_path):
    body = """
if start == 1:
    if me == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(1)
    sys.exit(2)
"""
    assert outcome(tmp_path, body, "--processes=2")[:2] == (0, [2, 2])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_passed_on_and_waited_for(tmp_path, number):
    body = """
def save(number, frame):
    time.sleep(0.5)
    with log.open("a") as file:
        file.write("saved" + me + chr(10))
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
with log.open("a") as file:
    file.write("ready" + chr(10))
time.sleep(6000)
"""
    run = launch(tmp_path, body, "--processes=2")
    wait_for(lambda: (tmp_path / "log").exists() and (tmp_path / "log").read_text().count("ready") == 2)
    run.send_signal(number)
    _, err = run.communicate(timeout=PATIENCE)
    assert run.returncode == 75, err
    log = (tmp_path / "log").read_text().split()
    assert sorted(log) == ["0", "1", "ready", "ready", "saved0", "saved1"]


def test_one_that_does_not_save_in_time_is_killed(tmp_path):
    body = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
with log.open("a") as file:
    file.write("ready" + chr(10))
time.sleep(6000)
"""
    run = launch(tmp_path, body, "--processes=2", "--grace=0.5")
    wait_for(lambda: (tmp_path / "log").exists() and (tmp_path / "log").read_text().count("ready") == 2)
    run.send_signal(signal.SIGTERM)
    run.communicate(timeout=PATIENCE)
    assert run.returncode == 75


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
@pytest.mark.parametrize("victim", ["processes", "launcher"])
def test_nothing_survives(tmp_path, victim):
    body = """
helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(6000)"]) if me == "0" else None
with log.open("a") as file:
    file.write(f"pid{os.getpid()}" + (f" pid{helper.pid}" if helper else "") + chr(10))
time.sleep(6000)
"""
    run = launch(tmp_path, body, "--processes=2", "--restarts=0")
    wait_for(lambda: (tmp_path / "log").exists() and (tmp_path / "log").read_text().count("pid") == 3)
    lines = [line.split() for line in (tmp_path / "log").read_text().splitlines() if line.startswith("pid")]
    owners = [int(words[0][3:]) for words in lines]
    helpers = [int(word[3:]) for words in lines for word in words[1:]]
    for pid in [run.pid] if victim == "launcher" else owners:
        os.kill(pid, signal.SIGKILL)
    run.wait(timeout=PATIENCE)
    left = owners if victim == "launcher" else owners + helpers
    wait_for(lambda: not any(_alive(pid) for pid in left))
    for pid in helpers:  # the launcher itself can no longer end what belongs to its processes
        if _alive(pid):
            os.kill(pid, signal.SIGKILL)


def _alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False

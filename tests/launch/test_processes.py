"""Every engine's variables lead to the right process; half a set never passes for a whole one."""

import io
import json
import os
import pathlib
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirage_jax.errors import UserError
from mirage_jax.training import hostlist, processes

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent

OURS = {"MIRAGE_COORDINATOR": "10.0.0.1:4321", "MIRAGE_PROCESS_ID": "3", "MIRAGE_PROCESS_COUNT": "8"}
# As printed by `srun env` on SLURM 22.05: three nodes, two tasks on each, the second task of the second node.
SLURM = {
    "SLURM_JOB_ID": "70001",
    "SLURM_STEP_ID": "0",
    "SLURM_JOB_NODELIST": "gpu[007-010]",
    "SLURM_STEP_NODELIST": "gpu[008-010]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x3)",
    "SLURM_NTASKS": "6",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
}
JOBSET = {
    "JOBSET_NAME": "mirage",
    "JOBSET_REPLICATED_JOB": "node",
    "JOBSET_JOB_INDEX": "1",
    "JOBSET_JOB_COUNT": "2",
    "JOBSET_PODS_PER_JOB": "4",
    "JOB_COMPLETION_INDEX": "2",
}
TPU = {"TPU_WORKER_ID": "2", "TPU_WORKER_HOSTNAMES": "tpu-0.mirage,tpu-1.mirage,tpu-2.mirage,tpu-3.mirage"}
SLICES = {
    "MEGASCALE_COORDINATOR_ADDRESS": "mirage-slice-0-0.mirage",
    "MEGASCALE_NUM_SLICES": "2",
    "MEGASCALE_SLICE_ID": "1",
}


def test_nothing_set_is_one_process():
    assert processes.find({"HOME": "/root"}) == processes.Processes("single", 1, 0, None, None)


def test_our_variables():
    found = processes.find(OURS)
    assert (found.source, found.count, found.index, found.coordinator) == ("variables", 8, 3, "10.0.0.1:4321")


def test_flags_win_over_everything():
    found = processes.find(OURS | SLURM, coordinator="host:1", process_id=0, process_count=2)
    assert (found.source, found.count, found.index, found.coordinator) == ("flags", 2, 0, "host:1")


def test_ours_win_over_the_engines_and_an_engine_over_nothing():
    assert processes.find(OURS | SLURM | TPU | JOBSET).source == "variables"
    assert processes.find(TPU | SLICES | JOBSET).source == "tpu"
    assert processes.find(SLURM | OURS | {"MIRAGE_PROCESSES": "single"}).source == "single"


def test_slurm():
    found = processes.find(SLURM)
    assert (found.source, found.count, found.index) == ("slurm", 6, 3)
    host, port = found.coordinator.split(":")
    assert host == "gpu008"
    assert 61440 <= int(port) < 65536


def test_slurm_ports_are_one_for_all_tasks_and_differ_by_step_and_job():
    def port(**changes):
        return processes.find(SLURM | changes).coordinator

    assert port(SLURM_PROCID="0") == port(SLURM_PROCID="5")
    assert len({port(), port(SLURM_STEP_ID="1"), port(SLURM_JOB_ID="70002")}) == 3


def test_slurm_shares_out_the_gpus_of_a_node_among_its_tasks():
    def devices(**changes):
        return processes.find(SLURM | changes).local_devices

    assert devices() is None
    assert devices(SLURM_GPUS_ON_NODE="8", CUDA_VISIBLE_DEVICES="0,1,2,3,4,5,6,7") == (4, 5, 6, 7)
    assert devices(SLURM_GPUS_ON_NODE="2") == (1,)
    assert devices(SLURM_GPUS_ON_NODE="2", CUDA_VISIBLE_DEVICES="1") is None  # bound by --gpus-per-task
    assert devices(SLURM_GPUS_ON_NODE="8", SLURM_STEP_TASKS_PER_NODE="1(x6)", SLURM_LOCALID="0") is None
    assert devices(SLURM_GPUS_ON_NODE="4", SLURM_STEP_TASKS_PER_NODE="1,4,1") == (1,)
    with pytest.raises(UserError, match="SLURM_GPUS_ON_NODE=3"):
        devices(SLURM_GPUS_ON_NODE="3")


def test_a_batch_script_and_a_shell_in_an_allocation_are_one_process():
    batch = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NTASKS": "2"}
    assert processes.find(batch | {"SLURM_JOB_NODELIST": "gpu[1-2]"}).count == 1


def test_a_step_of_one_task_needs_no_coordinator():
    found = processes.find(SLURM | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_STEP_TASKS_PER_NODE": "1"})
    assert (found.count, found.coordinator) == (1, None)


def test_jobset():
    found = processes.find(JOBSET)
    assert (found.source, found.count, found.index) == ("jobset", 8, 6)
    assert found.coordinator == "mirage-node-0-0.mirage:8476"
    assert processes.find(JOBSET | {"JOBSET_SUBDOMAIN": "net"}).coordinator == "mirage-node-0-0.net:8476"


def test_tpu_pods_leave_the_coordinator_to_jax():
    found = processes.find(TPU)
    assert (found.source, found.count, found.index, found.coordinator) == ("tpu", 4, 2, None)
    found = processes.find(TPU | SLICES)
    assert (found.count, found.index, found.coordinator) == (8, 6, None)


def test_a_tpu_vm_is_left_to_jax_altogether():
    found = processes.find({"MIRAGE_PROCESSES": "tpu"})
    assert (found.source, found.count, found.index, found.coordinator) == ("tpu", None, None, None)


@pytest.mark.parametrize(
    ("whole", "optional"),
    [
        (OURS, set()),
        (SLURM, {"SLURM_STEP_ID", "SLURM_STEP_TASKS_PER_NODE", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_JOB_NODELIST"}),
        (JOBSET, set()),
        (TPU, set()),
        (TPU | SLICES, set()),
    ],
)
def test_a_missing_variable_is_named(whole, optional):
    for name in whole.keys() - optional:
        part = {key: value for key, value in whole.items() if key != name}
        if name == "TPU_WORKER_HOSTNAMES" and "MEGASCALE_SLICE_ID" not in whole:
            continue  # TPU_WORKER_ID alone: what some images of a TPU VM set
        if name == "SLURM_STEP_NODELIST":
            assert processes.find(part).coordinator.startswith("gpu007:")  # that of the job stands in
            continue
        with pytest.raises(UserError, match=name):
            processes.find(part)


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        (OURS | {"MIRAGE_PROCESS_ID": "8"}, "MIRAGE_PROCESS_ID=8 but MIRAGE_PROCESS_COUNT=8"),
        (OURS | {"MIRAGE_PROCESS_ID": "-1"}, "MIRAGE_PROCESS_ID=-1"),
        (OURS | {"MIRAGE_PROCESS_COUNT": "two"}, "MIRAGE_PROCESS_COUNT=two"),
        (OURS | {"MIRAGE_PROCESS_COUNT": "0"}, "MIRAGE_PROCESS_COUNT=0"),
        (OURS | {"MIRAGE_COORDINATOR": "10.0.0.1"}, "MIRAGE_COORDINATOR=10.0.0.1"),
        ({"MIRAGE_PROCESSES": "gpu"}, "MIRAGE_PROCESSES=gpu"),
        (SLURM | {"SLURM_PROCID": "6"}, "SLURM_PROCID=6 but SLURM_NTASKS=6"),
        (SLURM | {"SLURM_STEP_NODELIST": "gpu[1-"}, r"SLURM_STEP_NODELIST=gpu\[1-"),
        (SLURM | {"SLURM_GPUS_ON_NODE": "2", "SLURM_STEP_TASKS_PER_NODE": "x"}, "SLURM_STEP_TASKS_PER_NODE=x"),
        (JOBSET | {"JOB_COMPLETION_INDEX": "4"}, "JOB_COMPLETION_INDEX=4 but JOBSET_PODS_PER_JOB=4"),
        (JOBSET | {"JOBSET_JOB_INDEX": "2"}, "JOBSET_JOB_INDEX=2 but JOBSET_JOB_COUNT=2"),
        (TPU | {"TPU_WORKER_ID": "4"}, "TPU_WORKER_ID=4"),
        (TPU | SLICES | {"MEGASCALE_SLICE_ID": "2"}, "MEGASCALE_SLICE_ID=2"),
    ],
)
def test_a_contradiction_is_named(variables, named):
    with pytest.raises(UserError, match=named):
        processes.find(variables)


def test_half_the_flags_are_refused_even_where_variables_would_do():
    with pytest.raises(UserError, match="--coordinator"):
        processes.find(OURS, process_id=0, process_count=2)


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("node1", ["node1"]),
        ("node[1-3]", ["node1", "node2", "node3"]),
        ("n[08-10,2]-ib,login", ["n08-ib", "n09-ib", "n10-ib", "n2-ib", "login"]),
        ("a,b[1,3]", ["a", "b1", "b3"]),
        ("r[0-1]n[0-1]", ["r0n0", "r0n1", "r1n0", "r1n1"]),
        ("127.0.0.[2-3]", ["127.0.0.2", "127.0.0.3"]),
    ],
)
def test_host_lists(text, hosts):
    assert hostlist.expand(text, "X") == hosts


@given(st.lists(st.integers(0, 999), min_size=1, max_size=6), st.integers(1, 4))
def test_host_lists_hold_what_was_put_in(numbers, width):
    text = "n[" + ",".join(f"{n:0{width}d}" for n in numbers) + "]"
    assert hostlist.expand(text, "X") == [f"n{n:0{width}d}" for n in numbers]


@pytest.mark.parametrize("text", ["", "a,", "a[", "a]", "a[]", "a[1-]", "a[x]", "a b"])
def test_no_host_list(text):
    with pytest.raises(UserError, match="X="):
        hostlist.expand(text, "X")


def test_counts():
    assert hostlist.expand_counts("2(x3),1", "X") == [2, 2, 2, 1]


def test_a_labelled_stream_writes_whole_lines_and_of_a_bar_its_end():
    plain = io.StringIO()
    labelled = processes._Labelled(plain, "[1] ")
    for piece in ("two ", "words\nnext", "\n", "\r 10%", "\r 20%", "\r100%\r", "\n", "\n", "rest"):
        labelled.write(piece)
    assert plain.getvalue() == "[1] two words\n[1] next\n[1] 100%\n[1] \n"


PROGRAM = """
import json, os, sys
from absl import logging
from mirage_jax.errors import UserError
from mirage_jax.training import processes
import jax
from jax.experimental import multihost_utils

def code(error):
    return 2 if isinstance(error, UserError) else 1

try:
    with processes.started(processes.find(os.environ), code) as group:
        ids = multihost_utils.process_allgather(jax.numpy.int32(group.index))
        # One write, lines of its own: the peer's Gloo writes to the same pipe, and Python may not buffer.
        sys.stdout.write("\\n" + json.dumps([group.index, ids.tolist(), jax.device_count()]) + "\\n")
        sys.stdout.flush()
        print("a line", file=sys.stderr)
        logging.warning("a warning")
        if group.index == 1:
            raise UserError("only this one")
        while True:  # waits for the peer that left
            multihost_utils.process_allgather(jax.numpy.int32(0))
except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(code(error))
"""


def test_two_processes_meet_say_who_speaks_and_do_not_wait_for_one_that_failed():
    command = [ROOT / "launch/local.py", "--processes", "2", "--devices", "2", "--", sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, env=os.environ)
    assert done.returncode == 2, done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[0")]
    assert said == [[0, [0, 1], 4]]
    lines = done.stderr.splitlines()
    assert "a line" in lines and "[process 1/2] a line" in lines
    assert "[process 1/2] error: only this one" in lines
    assert any(line.startswith("[process 1/2] WARNING") for line in lines)

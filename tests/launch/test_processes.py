"""Every engine's variables lead to the right process; half a set never passes for a whole one."""

import io
import json
import os
import pathlib
import subprocess
import sys

import jax
import pytest
from jax._src import clusters

from experiments.shared import processes
from mirage_jax.errors import UserError

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
POD = {"JOB_COMPLETION_INDEX": "2"}  # of an indexed Kubernetes job
TPU = {"TPU_WORKER_ID": "2", "TPU_WORKER_HOSTNAMES": "tpu-0.mirage,tpu-1.mirage,tpu-2.mirage,tpu-3.mirage"}
SLICES = {
    "MEGASCALE_COORDINATOR_ADDRESS": "mirage-slice-0-0.mirage",
    "MEGASCALE_NUM_SLICES": "2",
    "MEGASCALE_SLICE_ID": "1",
}


def test_nothing_set_is_one_process():
    assert processes.find({"HOME": "/root"}) == processes.Processes("single", 1, 0, None, ())


def test_our_variables():
    found = processes.find(OURS)
    assert (found.source, found.count, found.index, found.coordinator) == ("variables", 8, 3, "10.0.0.1:4321")


def test_flags_win_over_everything():
    found = processes.find(OURS | SLURM, coordinator="host:1", process_id=0, process_count=2)
    assert (found.source, found.count, found.index, found.coordinator) == ("flags", 2, 0, "host:1")


def test_ours_win_over_the_engines_and_an_engine_over_nothing():
    assert processes.find(OURS | SLURM | TPU | POD).source == "variables"
    assert processes.find(TPU | SLICES | POD).source == "tpu"
    assert processes.find(SLURM | OURS | {"MIRAGE_PROCESSES": "single"}).source == "single"
    assert processes.find(POD | {"MIRAGE_PROCESSES": "single"}).source == "single"


def test_slurm_leaves_the_coordinator_to_jax():
    found = processes.find(SLURM)
    assert (found.source, found.count, found.index, found.coordinator) == ("slurm", 6, 3, None)


@pytest.fixture
def connect(monkeypatch):
    """Connects with these variables, up to the door of JAX's network; gives what JAX would go through it with.

    That is coordinator, number of processes, number of this one, and its devices.
    """
    monkeypatch.setattr(processes, "_label_output", lambda *_: None)

    def call(variables, jax_index=None):
        for name in [name for name in os.environ if name.startswith(("SLURM_", "JAX_COORDINATOR", "CUDA_"))]:
            monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        gone_through = []

        def initialize(**asked):
            names = ("coordinator_address", "num_processes", "process_id", "local_device_ids")
            answer = tuple(asked[name] for name in names)
            method = asked["cluster_detection_method"]
            if method != "deactivate":
                detect = clusters.ClusterEnv.auto_detect_unset_distributed_params
                answer = detect(*answer, method, asked["initialization_timeout"])
            gone_through.append(answer)

        found = processes.find(os.environ)
        monkeypatch.setattr(jax.distributed, "initialize", initialize)
        monkeypatch.setattr(jax, "process_count", lambda: gone_through[0][1])
        monkeypatch.setattr(jax, "process_index", lambda: gone_through[0][2] if jax_index is None else jax_index)
        with processes.started(found, lambda error: 1) as group:
            assert (group.count, group.index) == gone_through[0][1:3]
        return gone_through[0]

    return call


def test_jax_finds_in_a_slurm_step_what_was_checked(connect):
    coordinator, count, index, devices = connect(SLURM)
    host, port = coordinator.split(":")
    assert (host, count, index, devices) == ("gpu008", 6, 3, [])
    assert 61440 <= int(port) < 65536


def test_a_task_of_a_whole_slurm_node_has_all_of_its_gpus(connect):
    node = {"SLURM_GPUS_ON_NODE": "8", "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}
    alone = {"SLURM_STEP_TASKS_PER_NODE": "1(x6)", "SLURM_LOCALID": "0"}
    assert connect(SLURM | node)[3] == [4, 5, 6, 7]
    assert connect(SLURM | node | alone)[3] == []  # no restriction; JAX by itself would take the first alone


def test_slurm_ports_are_one_for_all_tasks_and_differ_by_step_and_job(connect):
    def port(**changes):
        return connect(SLURM | changes)[0]

    assert port(SLURM_PROCID="0") == port(SLURM_PROCID="5")
    assert len({port(), port(SLURM_STEP_ID="1"), port(SLURM_JOB_ID="70002")}) == 3


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("node1", "node1"),
        ("node[1-3]", "node1"),
        ("n[08-10,2],login", "n08"),
        ("a,b[1,3]", "a"),
        ("n08-ib,n09-ib", "n08-ib"),
        ("127.0.0.[2-3]", "127.0.0.2"),
    ],
)
def test_the_first_host_of_a_slurm_step_is_its_coordinator(connect, hosts, first):
    assert connect(SLURM | {"SLURM_STEP_NODELIST": hosts})[0].startswith(f"{first}:")


def test_jax_and_the_variables_must_agree(connect):
    with pytest.raises(UserError, match="variables of slurm say process 3 of 6, JAX found process 2 of 6"):
        connect(SLURM, jax_index=2)


def test_told_processes_are_told_to_jax(connect):
    assert connect(OURS) == ("10.0.0.1:4321", 8, 3, None)


def test_slurm_shares_out_the_gpus_of_a_node_among_its_tasks():
    def devices(**changes):
        return processes.find(SLURM | changes).local_devices

    assert devices() == ()
    assert devices(SLURM_GPUS_ON_NODE="8", CUDA_VISIBLE_DEVICES="0,1,2,3,4,5,6,7") == (4, 5, 6, 7)
    assert devices(SLURM_GPUS_ON_NODE="2") == (1,)
    assert devices(SLURM_GPUS_ON_NODE="2", CUDA_VISIBLE_DEVICES="1") == ()  # bound by --gpus-per-task
    assert devices(SLURM_GPUS_ON_NODE="8", SLURM_STEP_TASKS_PER_NODE="1(x6)", SLURM_LOCALID="0") == ()
    assert devices(SLURM_GPUS_ON_NODE="4", SLURM_STEP_TASKS_PER_NODE="1,4,1") == (1,)
    with pytest.raises(UserError, match="SLURM_GPUS_ON_NODE=3"):
        devices(SLURM_GPUS_ON_NODE="3")


def test_a_batch_script_and_a_shell_in_an_allocation_are_one_process():
    batch = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NTASKS": "2"}
    assert processes.find(batch | {"SLURM_JOB_NODELIST": "gpu[1-2]"}).count == 1


def test_a_step_of_one_task_needs_no_coordinator():
    found = processes.find(SLURM | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_STEP_TASKS_PER_NODE": "1"})
    assert (found.count, found.coordinator) == (1, None)


def test_a_pod_of_an_indexed_job_must_be_told_who_it_is():
    with pytest.raises(UserError, match=r"MIRAGE_COORDINATOR is not set, though JOB_COMPLETION_INDEX=2 is .*=single"):
        processes.find(POD)
    assert processes.find(POD | OURS).index == 3


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
        (SLURM, {"SLURM_STEP_ID", "SLURM_STEP_TASKS_PER_NODE", "SLURM_NODEID", "SLURM_JOB_NODELIST"}),
        (TPU, set()),
        (TPU | SLICES, set()),
    ],
)
def test_a_missing_variable_is_named(whole, optional):
    for name in whole.keys() - optional:
        part = {key: value for key, value in whole.items() if key != name}
        if name == "TPU_WORKER_HOSTNAMES" and "MEGASCALE_SLICE_ID" not in whole:
            continue  # TPU_WORKER_ID alone: what some images of a TPU VM set
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
        (SLURM | {"SLURM_JOB_ID": "x"}, "SLURM_JOB_ID=x"),
        (SLURM | {"SLURM_STEP_ID": "x"}, "SLURM_STEP_ID=x"),
        (SLURM | {"SLURM_GPUS_ON_NODE": "2", "SLURM_STEP_TASKS_PER_NODE": "x"}, "SLURM_STEP_TASKS_PER_NODE=x"),
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


# The last two are lists that SLURM never writes and of which JAX would take another host than is meant.
@pytest.mark.parametrize(
    "text", ["", "a,", "a[", "gpu[1-", "a]", "a[]", "a[1-]", "a[x]", "a b", "n[08-10]-ib", "r[0-1]n[0-1]"]
)
def test_no_host_list(text):
    with pytest.raises(UserError, match="SLURM_STEP_NODELIST"):
        processes.find(SLURM | {"SLURM_STEP_NODELIST": text})


def test_counts():
    assert processes._counts({"X": "2(x3),1"}, "X") == [2, 2, 2, 1]


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
from experiments.shared import processes
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
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 2, done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[0")]
    assert said == [[0, [0, 1], 4]]
    lines = done.stderr.splitlines()
    assert "a line" in lines and "[process 1/2] a line" in lines
    assert "[process 1/2] error: only this one" in lines
    assert any(line.startswith("[process 1/2] WARNING") for line in lines)

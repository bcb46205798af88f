"""Which process of a run this is, found from flags or from what the engine that started it left in the environment.

Every launcher in `launch/` meets the commands here. `find` reads the variables and nothing else, `start` connects the
processes, before JAX looks for devices. In this order:

1. `--coordinator`, `--process_id`, `--process_count`
2. `MIRAGE_PROCESSES=single` (work alone, whatever else is set) or `=tpu` (a TPU VM, which JAX asks about itself)
3. `MIRAGE_COORDINATOR`, `MIRAGE_PROCESS_ID`, `MIRAGE_PROCESS_COUNT`
4. TPU pods on GKE: `TPU_WORKER_ID`, `TPU_WORKER_HOSTNAMES`, and `MEGASCALE_*` for several slices
5. a SLURM step (`srun`)
6. a JobSet on Kubernetes: `JOBSET_*`, as `launch/gke/gpu.yaml` sets them, with `JOB_COMPLETION_INDEX`
7. otherwise one process

A set of which a part is missing or contradicts another part is an error, never a guess: a process that wrongly believes
itself alone would write over the files of its peers.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import io
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TextIO

import jax
from absl import logging

from mirage_jax.errors import UserError
from mirage_jax.training import hostlist

START_TIMEOUT = 300  # seconds for all processes to appear: nodes boot, images are pulled
LOST_AFTER = 100  # seconds without a sign of life until a process counts as lost
FINISH_TIMEOUT = 1800  # seconds that a finished process waits for its peers: process 0 writes the model
LAST_WORDS = 20.0  # seconds that a failed process 0 leaves the others, which may be compiling, to end by themselves

_JOBSET_PORT = 8476
_SLURM_PORTS = range(61440, 65536)  # above the ports that Linux hands out by itself


@dataclasses.dataclass(frozen=True)
class Processes:
    """The processes of a run, as seen from one of them.

    Attributes:
      source: what said so: `flags`, `variables`, `tpu`, `slurm`, `jobset` or `single`.
      count: how many there are; None where JAX finds out (`tpu`).
      index: which one this is, from 0; None where JAX finds out.
      coordinator: `host:port` of process 0; None where JAX finds out, or for one process.
      local_devices: those of this machine's devices that belong to this process; None for all that it can see.
    """

    source: str
    count: int | None = 1
    index: int | None = 0
    coordinator: str | None = None
    local_devices: tuple[int, ...] | None = None

    @property
    def first(self) -> bool:
        """Whether this process speaks for all: writes records, shows progress."""
        return self.index == 0


def find(
    variables: Mapping[str, str],
    coordinator: str | None = None,
    process_id: int | None = None,
    process_count: int | None = None,
) -> Processes:
    """Finds out which process this is.

    Args:
      variables: the environment.
      coordinator: `--coordinator`, `host:port`.
      process_id: `--process_id`.
      process_count: `--process_count`.

    Raises:
      UserError: if a set of flags or variables is partial or contradicts itself; it names the flag or variable.
    """
    flags = {"--coordinator": coordinator, "--process_id": process_id, "--process_count": process_count}
    given = {name: str(value) for name, value in flags.items() if value is not None}
    if given:
        return _explicit("flags", given, *flags)
    wish = variables.get("MIRAGE_PROCESSES", "")
    if wish == "single":
        return Processes("single")
    if wish == "tpu":
        return Processes("tpu", count=None, index=None)
    if wish:
        raise UserError(f"MIRAGE_PROCESSES={wish}: expected 'single' or 'tpu', or no such variable")
    if any(name in variables for name in _OURS):
        return _explicit("variables", variables, *_OURS)
    if any(name in variables for name in ("TPU_WORKER_HOSTNAMES", *_MEGASCALE)):
        return _tpu(variables)
    if any(name in variables for name in ("SLURM_STEP_ID", "SLURM_STEP_NODELIST")):
        return _slurm(variables)
    if "JOB_COMPLETION_INDEX" in variables or any(name in variables for name in _JOBSET):
        return _jobset(variables)
    return Processes("single")


@contextlib.contextmanager
def started(processes: Processes, exit_code: Callable[[BaseException], int]) -> Iterator[Processes]:
    """Connects the processes of a run for the body of a `with`, and yields them with what JAX found out filled in.

    Until the end of the program, only process 0 prints to stdout, and every line that another one writes to stderr says
    which process speaks. A program whose body raised ends without waiting for its peers, which may be waiting for it;
    the engine that started them ends them. Must come before anything touches a device.

    Args:
      processes: from `find`.
      exit_code: the code with which a program that raises this exception ends. SystemExit is an orderly end.

    Raises:
      UserError: if the processes do not all appear within `START_TIMEOUT` seconds.
    """
    if processes.count == 1:
        yield processes
        return
    try:
        yield _connect(processes)
    except SystemExit:
        raise
    except BaseException as error:
        # The last to be registered runs first, so before JAX's shutdown. The coordinator goes last: without it the
        # others are aborted before they have said what is wrong.
        atexit.register(_leave, exit_code(error), LAST_WORDS if processes.index == 0 else 0.0)
        raise


def _connect(processes: Processes) -> Processes:
    if processes.index is not None:
        _label_output(processes.index, processes.count)
    explicit = processes.coordinator is not None
    try:
        jax.distributed.initialize(
            coordinator_address=processes.coordinator,
            num_processes=processes.count if explicit else None,
            process_id=processes.index if explicit else None,
            local_device_ids=processes.local_devices,
            cluster_detection_method="deactivate" if explicit else None,
            initialization_timeout=START_TIMEOUT,
            heartbeat_timeout_seconds=LOST_AFTER,
            shutdown_timeout_seconds=FINISH_TIMEOUT,
        )
    except (RuntimeError, ValueError) as error:
        where = f"the coordinator {processes.coordinator}" if explicit else "the other TPU workers"
        who = f"process {processes.index} of {processes.count}" if explicit else "this TPU worker"
        raise UserError(f"{who} (found from: {processes.source}) could not join {where}: {error}") from error
    if processes.index is None:
        processes = dataclasses.replace(processes, count=jax.process_count(), index=jax.process_index())
        _label_output(processes.index, processes.count)
    return processes


def _leave(code: int, after: float) -> None:
    """Ends the program in so many seconds; what other modules would do at exit waits for peers or is not worth it."""
    for child in multiprocessing.active_children():
        child.kill()
    sys.stdout.flush()
    sys.stderr.flush()
    time.sleep(after)
    os._exit(code)


_OURS = ("MIRAGE_COORDINATOR", "MIRAGE_PROCESS_ID", "MIRAGE_PROCESS_COUNT")
_MEGASCALE = ("MEGASCALE_COORDINATOR_ADDRESS", "MEGASCALE_NUM_SLICES", "MEGASCALE_SLICE_ID")
_JOBSET = ("JOBSET_NAME", "JOBSET_REPLICATED_JOB", "JOBSET_JOB_INDEX", "JOBSET_JOB_COUNT", "JOBSET_PODS_PER_JOB")


def _explicit(source: str, given: Mapping[str, str], coordinator: str, index: str, count: str) -> Processes:
    _need_all(given, (coordinator, index, count))
    address = given[coordinator]
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isdigit() and 0 < int(port) < 65536):
        raise UserError(f"{coordinator}={address}: expected host:port")
    return _checked(source, given, index, count, address)


def _tpu(variables: Mapping[str, str]) -> Processes:
    """Pods of GKE, where hosts and ids are in the variables; JAX reads them itself, coordinator included."""
    _need_all(variables, ("TPU_WORKER_ID", "TPU_WORKER_HOSTNAMES"))
    hosts = [host for host in variables["TPU_WORKER_HOSTNAMES"].split(",") if host]
    worker = _number(variables, "TPU_WORKER_ID")
    if worker >= len(hosts):
        raise UserError(f"TPU_WORKER_ID={worker} but TPU_WORKER_HOSTNAMES lists {len(hosts)}")
    slices, slice_id = 1, 0
    if any(name in variables for name in _MEGASCALE):
        _need_all(variables, _MEGASCALE)
        slices, slice_id = (_number(variables, name) for name in ("MEGASCALE_NUM_SLICES", "MEGASCALE_SLICE_ID"))
        if slice_id >= slices:
            raise UserError(f"MEGASCALE_SLICE_ID={slice_id} but MEGASCALE_NUM_SLICES={slices}")
    return Processes("tpu", count=slices * len(hosts), index=slice_id * len(hosts) + worker)


def _slurm(variables: Mapping[str, str]) -> Processes:
    """One task of an `srun`; a batch script or a shell in an allocation has no step and never comes here."""
    _need_all(variables, ("SLURM_JOB_ID", "SLURM_PROCID", "SLURM_NTASKS"))
    nodes = "SLURM_STEP_NODELIST" if "SLURM_STEP_NODELIST" in variables else "SLURM_JOB_NODELIST"
    _need_all(variables, (nodes,))
    hosts = hostlist.expand(variables[nodes], nodes)
    # A requeued job keeps its number, and the ports of two steps of one job differ.
    port = _SLURM_PORTS[
        (_number(variables, "SLURM_JOB_ID") + 997 * _number(variables, "SLURM_STEP_ID", 0)) % len(_SLURM_PORTS)
    ]
    processes = _checked("slurm", variables, "SLURM_PROCID", "SLURM_NTASKS", f"{hosts[0]}:{port}")
    return dataclasses.replace(processes, local_devices=_slurm_devices(variables))


def _slurm_devices(variables: Mapping[str, str]) -> tuple[int, ...] | None:
    """This task's equal share of the node's GPUs; None if there are none to share or SLURM has bound them already."""
    tasks = hostlist.expand_counts(variables.get("SLURM_STEP_TASKS_PER_NODE", "1"), "SLURM_STEP_TASKS_PER_NODE")
    node = _number(variables, "SLURM_NODEID", 0)
    gpus = _number(variables, "SLURM_GPUS_ON_NODE", 0)
    visible = len(variables["CUDA_VISIBLE_DEVICES"].split(",")) if variables.get("CUDA_VISIBLE_DEVICES") else gpus
    here = tasks[node] if node < len(tasks) else 1
    if gpus == 0 or here == 1 or visible < gpus:
        return None
    if gpus % here:
        raise UserError(f"SLURM_GPUS_ON_NODE={gpus} cannot be shared equally by the {here} tasks on this node")
    _need_all(variables, ("SLURM_LOCALID",))
    share, local = gpus // here, _number(variables, "SLURM_LOCALID")
    return tuple(range(local * share, (local + 1) * share))


def _jobset(variables: Mapping[str, str]) -> Processes:
    """A pod of a JobSet with indexed jobs: `<jobset>-<replicated job>-<job>-<pod>.<subdomain>` is its stable name."""
    _need_all(variables, ("JOB_COMPLETION_INDEX", *_JOBSET), "MIRAGE_PROCESSES=single lets every pod work alone")
    name, group = variables["JOBSET_NAME"], variables["JOBSET_REPLICATED_JOB"]
    job, jobs, pod, pods = (
        _number(variables, key)
        for key in ("JOBSET_JOB_INDEX", "JOBSET_JOB_COUNT", "JOB_COMPLETION_INDEX", "JOBSET_PODS_PER_JOB")
    )
    if job >= jobs:
        raise UserError(f"JOBSET_JOB_INDEX={job} but JOBSET_JOB_COUNT={jobs}")
    if pod >= pods:
        raise UserError(f"JOB_COMPLETION_INDEX={pod} but JOBSET_PODS_PER_JOB={pods}")
    count = jobs * pods
    subdomain = variables.get("JOBSET_SUBDOMAIN", name)
    coordinator = f"{name}-{group}-0-0.{subdomain}:{_JOBSET_PORT}" if count > 1 else None
    return Processes("jobset", count=count, index=job * pods + pod, coordinator=coordinator)


def _checked(source: str, given: Mapping[str, str], index: str, count: str, coordinator: str) -> Processes:
    i, n = _number(given, index), _number(given, count)
    if not i < n:
        raise UserError(f"{index}={i} but {count}={n}: expected ids from 0 to {max(n - 1, 0)}")
    return Processes(source, count=n, index=i, coordinator=coordinator if n > 1 else None)


def _need_all(given: Mapping[str, str], names: tuple[str, ...], hint: str = "") -> None:
    missing = [name for name in names if not given.get(name)]
    if missing:
        there = ", ".join(f"{name}={given[name]}" for name in names if given.get(name)) or "the rest of this set"
        raise UserError(f"{missing[0]} is not set, though {there} is" + (f" ({hint})" if hint else ""))


def _number(given: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = given.get(name, "" if default is None else str(default))
    if not text.isdecimal():
        raise UserError(f"{name}={text}: expected a whole number, 0 or more")
    return int(text)


def _label_output(index: int, count: int | None) -> None:
    """Silences stdout and labels stderr, except on process 0."""
    if index == 0:
        return
    sys.stdout = open(os.devnull, "w")
    sys.stderr = _Labelled(sys.stderr, f"[process {index}/{count}] ")
    handler = logging.get_absl_handler()
    if handler is not None:
        handler.python_handler.stream = sys.stderr


class _Labelled(io.TextIOBase):
    """A text stream that writes whole lines, each with a label; of a line that is drawn again and again, the last."""

    def __init__(self, stream: TextIO, label: str):
        self._stream, self._label, self._line = stream, label, ""

    def write(self, text: str) -> int:
        *whole, rest = (self._line + text).split("\n")
        for line in whole:
            self._stream.write(f"{self._label}{_last_drawn(line)}\n")
        self._line = _last_drawn(rest)
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()


def _last_drawn(line: str) -> str:
    return line.rstrip("\r").rpartition("\r")[2]

"""Which process of a run this is, found from flags or from what the engine that started it left in the environment.

Every launcher in `launch/` meets the commands here. `find` reads the variables and nothing else, `started` connects the
processes, before JAX looks for devices. In this order:

1. `--coordinator`, `--process_id`, `--process_count`
2. `MIRAGE_PROCESSES=single` (work alone, whatever else is set) or `=tpu` (a TPU VM, which JAX asks about itself)
3. `MIRAGE_COORDINATOR`, `MIRAGE_PROCESS_ID`, `MIRAGE_PROCESS_COUNT`
4. TPU pods on GKE: `TPU_WORKER_ID`, `TPU_WORKER_HOSTNAMES`, and `MEGASCALE_*` for several slices
5. a SLURM step (`srun`)
6. otherwise one process

For 4 and 5 it is `jax.distributed` that finds the coordinator. Here their variables are checked first: a set of which a
part is missing or contradicts another part is an error, never a guess, because a process that wrongly believes itself
alone would write over the files of its peers. GPU nodes on Kubernetes get the variables of 3 from the manifest
(`launch/gke/gpu.yaml`): JAX's own way there needs the `kubernetes` client in the image and the right to list pods.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import io
import multiprocessing
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TextIO

import jax
from absl import logging

from mirage_jax.errors import UserError

START_TIMEOUT = 300  # seconds for all processes to appear: nodes boot, images are pulled
LOST_AFTER = 100  # seconds without a sign of life until a process counts as lost
FINISH_TIMEOUT = 1800  # seconds that a finished process waits for its peers: process 0 writes the model
LAST_WORDS = 20.0  # seconds that a failed process 0 leaves the others, which may be compiling, to end by themselves

_SLURM_PORTS = range(61440, 65536)  # those that JAX takes: above the ports that Linux hands out by itself
_RANGES = r"\d+(-\d+)?(,\d+(-\d+)?)*"
_HOSTS = re.compile(rf"[\w.-]+(\[{_RANGES}\])?(,[\w.-]+(\[{_RANGES}\])?)*")  # as SLURM writes them and JAX reads them


@dataclasses.dataclass(frozen=True)
class Processes:
    """The processes of a run, as seen from one of them.

    Attributes:
      source: what said so: `flags`, `variables`, `tpu`, `slurm` or `single`.
      count: how many there are; None where JAX finds out (a TPU VM).
      index: which one this is, from 0; None where JAX finds out.
      coordinator: `host:port` of process 0; None where JAX finds out, or for one process.
      local_devices: those of this machine's devices that belong to this process; none for all that it can see.
    """

    source: str
    count: int | None = 1
    index: int | None = 0
    coordinator: str | None = None
    local_devices: tuple[int, ...] = ()

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
    if "JOB_COMPLETION_INDEX" in variables:  # a pod of an indexed Kubernetes job
        _need_all(variables, ("JOB_COMPLETION_INDEX", *_OURS), "MIRAGE_PROCESSES=single lets every pod work alone")
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
    told = processes.coordinator is not None
    if processes.source == "slurm":
        os.environ.setdefault("JAX_COORDINATOR_PORT", str(_slurm_port(os.environ)))
    try:
        jax.distributed.initialize(
            coordinator_address=processes.coordinator,
            num_processes=processes.count if told else None,
            process_id=processes.index if told else None,
            # An empty list is every device. Left out, JAX gives every task of SLURM one GPU, whatever it has.
            local_device_ids=list(processes.local_devices) if processes.source == "slurm" else None,
            cluster_detection_method="deactivate" if told else "slurm" if processes.source == "slurm" else None,
            initialization_timeout=START_TIMEOUT,
            heartbeat_timeout_seconds=LOST_AFTER,
            shutdown_timeout_seconds=FINISH_TIMEOUT,
        )
    except (RuntimeError, ValueError) as error:
        where = f"the coordinator {processes.coordinator}" if told else "its peers"
        who = f"process {processes.index} of {processes.count}" if processes.index is not None else "this TPU worker"
        raise UserError(f"{who} (found from: {processes.source}) could not join {where}: {error}") from error
    if told:
        return processes
    index, count = jax.process_index(), jax.process_count()
    if processes.index is None:
        _label_output(index, count)
    elif (processes.index, processes.count) != (index, count):
        raise UserError(
            f"the variables of {processes.source} say process {processes.index} of {processes.count}, "
            f"JAX found process {index} of {count}"
        )
    return dataclasses.replace(processes, count=count, index=index)


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


def _explicit(source: str, given: Mapping[str, str], coordinator: str, index: str, count: str) -> Processes:
    _need_all(given, (coordinator, index, count))
    address = given[coordinator]
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isdigit() and 0 < int(port) < 65536):
        raise UserError(f"{coordinator}={address}: expected host:port")
    found = _checked(source, given, index, count)
    return dataclasses.replace(found, coordinator=address) if found.count != 1 else found


def _tpu(variables: Mapping[str, str]) -> Processes:
    """Pods of GKE, where hosts and ids are in the variables."""
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
    _need_all(variables, ("SLURM_JOB_ID", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_STEP_NODELIST"))
    if not _HOSTS.fullmatch(hosts := variables["SLURM_STEP_NODELIST"]):
        raise UserError(f"SLURM_STEP_NODELIST={hosts}: expected a list of hosts such as node[01-03,7],login")
    _slurm_port(variables)
    found = _checked("slurm", variables, "SLURM_PROCID", "SLURM_NTASKS")
    return dataclasses.replace(found, local_devices=_slurm_devices(variables))


def _slurm_port(variables: Mapping[str, str]) -> int:
    """The coordinator's. JAX's own is the same for all steps of a job, of which two may run side by side."""
    job, step = _number(variables, "SLURM_JOB_ID"), _number(variables, "SLURM_STEP_ID", 0)
    return _SLURM_PORTS[(job + 997 * step) % len(_SLURM_PORTS)]


def _slurm_devices(variables: Mapping[str, str]) -> tuple[int, ...]:
    """This task's equal share of the node's GPUs; none if there are none to share or SLURM has bound them already."""
    tasks = _counts(variables, "SLURM_STEP_TASKS_PER_NODE")
    node = _number(variables, "SLURM_NODEID", 0)
    gpus = _number(variables, "SLURM_GPUS_ON_NODE", 0)
    visible = len(variables["CUDA_VISIBLE_DEVICES"].split(",")) if variables.get("CUDA_VISIBLE_DEVICES") else gpus
    here = tasks[node] if node < len(tasks) else 1
    if gpus == 0 or here == 1 or visible < gpus:
        return ()
    if gpus % here:
        raise UserError(f"SLURM_GPUS_ON_NODE={gpus} cannot be shared equally by the {here} tasks on this node")
    share, local = gpus // here, _number(variables, "SLURM_LOCALID")
    return tuple(range(local * share, (local + 1) * share))


def _counts(variables: Mapping[str, str], name: str) -> list[int]:
    """SLURM's counts for one node after the other, `2(x3),1` for 2, 2, 2, 1; one task a node where it is not set."""
    found = [re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", item) for item in variables.get(name, "1").split(",")]
    if None in found:
        raise UserError(f"{name}={variables[name]}: expected counts such as 2(x3),1")
    return [int(match[1]) for match in found for _ in range(int(match[2] or 1))]


def _checked(source: str, given: Mapping[str, str], index: str, count: str) -> Processes:
    i, n = _number(given, index), _number(given, count)
    if not i < n:
        raise UserError(f"{index}={i} but {count}={n}: expected ids from 0 to {max(n - 1, 0)}")
    return Processes(source, count=n, index=i)


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

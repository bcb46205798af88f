#!/usr/bin/env python3
"""Runs a command as N connected processes on this machine, and starts them again when one of them dies.

    launch/local.py --processes 2 --devices 4 -- .venv/bin/python -m experiments.train --config ... --workdir runs/x

Give it the command as for one process. The processes find each other over loopback through MIRAGE_COORDINATOR,
MIRAGE_PROCESS_ID and MIRAGE_PROCESS_COUNT. With --devices D, every process has D virtual CPU devices; without it, the
GPUs are shared out in equal parts (CUDA_VISIBLE_DEVICES), or each process has one CPU device where there are none.

When one process dies, the others are ended and all start again after a pause; the train command then goes on from its
last checkpoint. SIGTERM and Ctrl-C are passed on as SIGTERM, so that the run can save; a second one kills.

Exit codes: 0 finished; 75 stopped by a signal, the same command goes on from what was saved; 2 the command said that
its input is wrong, which a new start would not change; 1 gave up after --restarts failures. A command that exits with
75 by itself (saved because it was told to stop) is started again, and that is not a failure.

Needs nothing but Python's standard library.
"""

import argparse
import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time

FINISHED, BAD_INPUT, STOPPED, GAVE_UP = 0, 2, 75, 1
CONSEQUENCES = (1, -signal.SIGABRT)  # how a process ends whose peer is lost: a traceback, or JAX's own abort
# XLA aborts a program of which one device comes 40 seconds late to a collective; on a busy machine that is no deadlock.
VIRTUAL_DEVICES_MAY_BE_LATE = [
    f"--xla_cpu_collective_call_{what}_timeout_seconds=3600" for what in ("warn_stuck", "terminate")
]
PEERS_GRACE = 10  # seconds in which the peers of a process that died may still say what they saw


def parse(arguments):
    """The command line, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=1, help="how many processes")
    parser.add_argument(
        "--devices", type=int, help="virtual CPU devices of each process; without it, GPUs are shared out"
    )
    parser.add_argument("--restarts", type=int, default=10, help="failures after which to give up")
    parser.add_argument("--pause", type=float, default=2.0, help="seconds before a new start")
    parser.add_argument("--grace", type=float, default=120.0, help="seconds to save in after a signal, then SIGKILL")
    parser.add_argument("command", nargs="+", help="after --: the command and its arguments")
    options = parser.parse_args(arguments)
    if options.processes < 1 or (options.devices is not None and options.devices < 1) or options.restarts < 0:
        parser.error("--processes and --devices must be at least 1, --restarts at least 0")
    options.gpus = visible_gpus() if options.devices is None else []
    if len(options.gpus) % options.processes:
        parser.error(
            f"{len(options.gpus)} GPUs cannot be shared equally by {options.processes} processes; "
            "--devices N gives each N virtual CPU devices instead"
        )
    if not options.gpus and options.processes > 1 and options.devices is None:
        options.devices = 1
    return options


def visible_gpus():
    """Names of this machine's GPUs, or of those that CUDA_VISIBLE_DEVICES leaves."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name]
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return [str(i) for i in range(len(listed.splitlines()))]


def environment(options, index, port):
    """What process `index` gets: who it is, and its share of the devices."""
    variables = dict(os.environ)
    variables |= {
        "MIRAGE_COORDINATOR": f"127.0.0.1:{port}",
        "MIRAGE_PROCESS_ID": str(index),
        "MIRAGE_PROCESS_COUNT": str(options.processes),
    }
    if options.devices is not None:
        others = [f for f in variables.get("XLA_FLAGS", "").split() if "host_platform_device_count" not in f]
        own = [f"--xla_force_host_platform_device_count={options.devices}", *VIRTUAL_DEVICES_MAY_BE_LATE]
        variables["XLA_FLAGS"] = " ".join([*others, *own])
        variables["JAX_PLATFORMS"] = "cpu"
    elif options.gpus:
        share = len(options.gpus) // options.processes
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(options.gpus[index * share : (index + 1) * share])
    return variables


class Group:
    """The processes of one start."""

    def __init__(self, options):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.processes = [
            subprocess.Popen(
                options.command,
                env=environment(options, index, port),
                start_new_session=True,  # Ctrl-C in a terminal reaches this launcher alone, which passes it on
                preexec_fn=_die_with_parent,
            )
            for index in range(options.processes)
        ]

    def codes(self):
        """Exit codes of those that ended; negative for a signal."""
        return [code for process in self.processes if (code := process.poll()) is not None]

    def running(self):
        """Whether any process is left."""
        return len(self.codes()) < len(self.processes)

    def send(self, number):
        """Sends a signal to those that run."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(number)

    def wait(self, seconds, until=lambda: False):
        """Waits for the end of all, at most so long, or until told."""
        end = time.monotonic() + seconds
        while self.running() and time.monotonic() < end and not until():
            time.sleep(0.1)

    def kill(self):
        """Ends what is left, the data workers of processes that died included."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # a session of its own is a process group of its own
            process.wait()


def run(options):
    """Starts groups until one finishes, the launcher is told to stop, or too many failed."""
    signals = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: signals.append(number))
    failures = 0
    while True:
        group = Group(options)
        codes = watch(group, options, signals)
        if codes == {FINISHED}:
            return FINISHED
        if signals:
            say(f"stopped by {signal.Signals(signals[0]).name}; the same command goes on from the last checkpoint")
            return STOPPED
        if codes <= {FINISHED, STOPPED}:
            say("the processes were told to stop and saved; starting again")
        elif BAD_INPUT in codes and codes <= {FINISHED, STOPPED, BAD_INPUT, *CONSEQUENCES}:
            say("the command found its input wrong (exit 2); not starting it again")
            return BAD_INPUT
        else:
            failures += 1
            died = ", ".join(_name(code) for code in sorted(codes - {FINISHED, STOPPED}))
            if failures > options.restarts:
                say(f"a process ended with {died}; giving up after {failures} failures")
                return GAVE_UP
            say(f"a process ended with {died}; start {failures} of at most {options.restarts} again")
        deadline = time.monotonic() + options.pause
        while time.monotonic() < deadline and not signals:
            time.sleep(0.1)
        if signals:
            return STOPPED


def watch(group, options, signals):
    """Until no process of the group is left. Returns the exit codes that say how it went."""
    group.wait(float("inf"), until=lambda: signals or any(group.codes()))
    first = set(group.codes())
    if first <= {FINISHED, STOPPED}:  # nobody died: all are saving, or are told to
        if signals:
            group.send(signal.SIGTERM)
        group.wait(options.grace, until=lambda: len(signals) > 1)
        group.kill()
        return set(group.codes())
    group.wait(PEERS_GRACE, until=lambda: signals)
    said = {BAD_INPUT} & set(group.codes())  # the process that says so may end after a peer that lost it
    group.kill()
    return first | said  # how else the peers of a dead process end is its doing


def say(text):
    """Tells the person; the processes speak for themselves."""
    print(f"[launcher] {text}", file=sys.stderr, flush=True)


def _name(code):
    return f"exit {code}" if code >= 0 else signal.Signals(-code).name


def _die_with_parent():
    """A launcher killed with no warning leaves no processes behind that would train on unseen."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


if __name__ == "__main__":
    sys.exit(run(parse(sys.argv[1:])))

"""How benchmarks take times, and what they call the machine."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

Name = TypeVar("Name", bound=Hashable)


def in_turn(calls: Mapping[Name, Callable[[], Any]], repeats: int) -> dict[Name, list[float]]:
    """Seconds of `repeats` calls of each, one after the other, after two of each that compile and warm up."""
    seconds: dict[Name, list[float]] = {name: [] for name in calls}
    for turn in range(2 + repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            if turn >= 2:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def alone(call: Callable[[], Any], repeats: int) -> list[float]:
    """Seconds of calls of one function, as `in_turn` takes them."""
    return in_turn({"call": call}, repeats)["call"]


def summary(values: Sequence[float]) -> dict[str, float]:
    """`median`, and the 10th and 90th percentile as `low` and `high`."""
    low, median, high = np.percentile(values, [10, 50, 90])
    return {"median": float(median), "low": float(low), "high": float(high)}


def spread(values: Mapping[str, float]) -> str:
    """A `summary` as text."""
    return f"{values['median']:.1f} [{values['low']:.1f}, {values['high']:.1f}]"


def cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The processor's name, as the system tells it."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def device() -> str:
    """The name of the device that JAX computes on; of a CPU, the processor's."""
    found = jax.devices()[0]
    return processor() if found.platform == "cpu" else found.device_kind

"""What a run uses: memory of host and devices, and the rate of its arithmetic against what the devices could."""

from __future__ import annotations

import pathlib
import resource
import sys

import jax

from mirage_jax.training.measures import flops

_GIB = 1024**3


def memory() -> dict[str, float]:
    """Memory of this process and its fullest device, in GiB, now and at the peak; without devices that do not say."""
    used = {"host_memory_peak_gib": _host_peak() / _GIB}
    status = pathlib.Path("/proc/self/statm")
    if status.exists():
        now = int(status.read_text().split()[1]) * resource.getpagesize() / _GIB
        # The kernel counts the two in different ways, a little apart.
        used |= {"host_memory_gib": now, "host_memory_peak_gib": max(now, used["host_memory_peak_gib"])}
    devices = [found for device in jax.local_devices() if (found := device.memory_stats())]
    if devices:
        used["device_memory_gib"] = max(found.get("bytes_in_use", 0) for found in devices) / _GIB
        used["device_memory_peak_gib"] = max(found.get("peak_bytes_in_use", 0) for found in devices) / _GIB
    return used


def arithmetic(step: flops.Flops, steps_per_second: float) -> dict[str, float]:
    """FLOP/s over all devices, and its share of their peak where that is known: as the model takes it (`mfu`), and with
    what is computed again (`hfu`).
    """
    rates = {"mfu": step.model * steps_per_second, "hfu": step.hardware * steps_per_second}
    peak = flops.peak(jax.devices()[0].device_kind)
    shares = {name: rate / (peak * jax.device_count()) for name, rate in rates.items()} if peak is not None else {}
    return {"tflops_per_second": rates["hfu"] / 1e12} | shares


def _host_peak() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024

"""A thread for each device, in which worlds run, so that nobody who listens to sockets ever waits for a model."""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
from collections.abc import Callable
from typing import Any, TypeVar

import jax

Result = TypeVar("Result")


class Worker:
    """One thread; what it runs computes on one device, in the order it was asked for."""

    def __init__(self, device: Any = None):
        """Of a device, None for the default one."""
        self._device = device
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="worlds")

    async def run(self, job: Callable[[], Result]) -> Result:
        """What `job` returns, or raises."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._on_device, job)

    async def timed(self, job: Callable[[], tuple]) -> tuple:
        """What `job` returns, then the seconds it waited for the thread, and those it took."""
        asked = time.perf_counter()

        def clocked() -> tuple:
            began = time.perf_counter()
            result = job()
            return *result, began - asked, time.perf_counter() - began

        return await self.run(clocked)

    def close(self) -> None:
        """Ends after what runs now."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _on_device(self, job: Callable[[], Result]) -> Result:
        with jax.default_device(self._device):
            return job()

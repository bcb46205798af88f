"""Stopping when told to: a signal asks, and the loop saves between two steps."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # an engine's notice, Ctrl-C, SLURM's warning ahead of time


class StopRequests:
    """Whether to stop, agreed between all processes; use it as a context.

    One process alone notes SIGTERM, SIGINT or SIGUSR1; a second SIGINT interrupts at once. Of several connected
    processes, any one may get a signal: JAX's preemption service tells the others, and all stop before the same step.
    """

    def __init__(self):
        self._asked = False
        self._agreed = jax.process_count() > 1
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequests:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if self._agreed and number == signal.SIGTERM:
                    continue  # the service has its own handler
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def due(self, step: int) -> bool:
        """Whether to stop after `step`; must be called after every step, by every process."""
        return multihost_utils.reached_preemption_sync_point(step) if self._agreed else self._asked

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self._agreed:
            os.kill(os.getpid(), signal.SIGTERM)
            return
        self._asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

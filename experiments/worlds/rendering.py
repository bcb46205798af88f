"""What data sets that render their clips share: worker processes, and what came of each clip."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mirage_jax.data.clip import PosedClip


class RejectedError(Exception):
    """The attempt gave no usable clip; the message is the reason, one of few."""


@dataclasses.dataclass(frozen=True)
class Rendered:
    """The clip of one job, None if every try failed, and why tries were rejected."""

    job: Any
    clip: PosedClip | None
    residuals: dict[str, float]
    rejected: dict[str, int]


def in_processes(
    function: Callable[[Any], Any], listed: Sequence[Any], workers: int, prepare: Callable[[], None]
) -> Iterator[Any]:
    """`map(function, listed)` on processes of their own, in order; they end when this one does, however that ended.

    Args:
      function, listed: what to compute.
      workers: how many processes.
      prepare: called first in each of them.
    """
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, context, _start, (prepare, os.getpid())) as pool:
        try:
            yield from pool.map(function, listed)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _start(prepare: Callable[[], None], parent: int) -> None:
    prepare()
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)

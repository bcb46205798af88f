"""Renders many clips on several processes, retrying until each place in the list has a good one.

What is rendered depends on the seed only, not on the number of processes.
"""

from __future__ import annotations

import abc
import collections
import concurrent.futures
import dataclasses
import itertools
import multiprocessing
import os
import signal
import threading
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from mirage_jax.data.clip import PosedClip


class RejectedError(Exception):
    """The attempt gave no usable clip; the message is the reason, one of few."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job(abc.ABC):
    """One clip to render.

    Attributes:
      TRIES, VENUES: seeds that are tried at one venue, and venues, before the job has failed.
    """

    TRIES: ClassVar[int]
    VENUES: ClassVar[int]
    index: int
    seed: int  # of the whole list
    split: str
    frames: int
    size: int  # side of the square frames, pixels

    @abc.abstractmethod
    def draw(self) -> tuple[np.random.Generator, Sequence[str]]:
        """The random numbers of this job, and the venues to try in turn."""

    @abc.abstractmethod
    def render(self, venue: str, seed: int) -> tuple[PosedClip, dict[str, float]]:
        """The clip that one seed gives at one venue, and its residuals; raises `RejectedError` if it is not usable."""


@dataclasses.dataclass(frozen=True)
class Rendered:
    """The clip of one job, None if every try failed, and why tries were rejected."""

    job: Any
    clip: PosedClip | None
    residuals: dict[str, float]
    rejected: dict[str, int]


@dataclasses.dataclass(frozen=True)
class World:
    """What renders a data set.

    Attributes:
      name: of the data set.
      jobs: `(split, clips, *, seed, frames, size, **settings)` -> the clips of a part.
      settings: all that `jobs` takes beside the sizes, as it usually is.
      counts: further numbers for a report, from outcomes that have a clip (without its pixels).
      licence, description: of the clips.
      objects: how many `tracks` they have; 0 for clips without `clip.OBJECT_FIELDS`.
    """

    name: str
    jobs: Callable[..., Sequence[Job]]
    settings: Mapping[str, Any]
    counts: Callable[[Sequence[Rendered]], dict[str, Any]]
    licence: str
    description: str
    objects: int = 0


def render_all(listed: Sequence[Job], *, workers: int) -> Iterator[Rendered]:
    """Renders jobs in order on `workers` processes."""
    yield from in_processes(render_one, listed, workers)


def render_one(job: Job) -> Rendered:
    """Tries seeds at the job's first venue, then at others, until a clip is good."""
    rejected = collections.Counter()
    rng, venues = job.draw()
    for venue in itertools.islice(itertools.cycle(venues), job.VENUES):
        for _ in range(job.TRIES):
            try:
                clip, residuals = job.render(venue, int(rng.integers(1 << 31)))
                return Rendered(job, clip, residuals, dict(rejected))
            except RejectedError as reason:
                rejected[str(reason)] += 1
    return Rendered(job, None, {}, dict(rejected))


def in_processes(function: Callable[[Any], Any], listed: Sequence[Any], workers: int) -> Iterator[Any]:
    """`map(function, listed)` on processes of their own, in order.

    They end, with what they have started, when this process does, however that ended.
    """
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, context, _start, (os.getpid(),)) as pool:
        try:
            yield from pool.map(function, listed)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _start(parent: int) -> None:
    os.setpgrp()  # a game is a process of its own, in the group of this one
    signal.signal(signal.SIGTERM, _stop)
    os.environ.setdefault("LP_NUM_THREADS", "1")  # of Mesa's software renderer: the processes share the cores
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _stop(signum: int, frame: types.FrameType | None) -> None:
    del signum, frame
    os.killpg(0, signal.SIGKILL)  # with the game, be it just starting


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)

"""Renders many clips on several processes, retrying until each place in the list has a good one.

What is rendered depends on the seed only, not on the number of processes.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from experiments.worlds import rendering
from experiments.worlds.miniworld.scenes import KINDS, MOTION, SPLITS
from experiments.worlds.rendering import Rendered
from mirage_jax.errors import UserError

_TRIES_A_KIND = 150
_KINDS_A_CLIP = 4
_PROBE = 32  # side of the small frames that are looked at first, pixels


@dataclasses.dataclass(frozen=True)
class Job:
    """One clip to render."""

    index: int
    seed: int  # of the whole list
    split: str
    kinds: tuple[str, ...]  # the first is wanted, the others are tried where it cannot be had
    motion: str
    frames: int
    size: int


def jobs(
    split: str,
    clips: int,
    *,
    seed: int,
    frames: int,
    size: int,
    kinds: Sequence[str] = KINDS,
    motions: Sequence[str] = tuple(MOTION),
) -> list[Job]:
    """The list of clips of a data set: kinds of path and classes of motion are each spread evenly.

    Raises:
      UserError: if there is no such split, kind of path or class of motion.
    """
    for flag, given, known in (("split", [split], SPLITS), ("kinds", kinds, KINDS), ("motions", motions, MOTION)):
        if not given or set(given) - set(known):
            raise UserError(f"--{flag} is {','.join(given)}, expected some of {', '.join(known)}")
    rng = np.random.default_rng([seed, clips])
    order = [rng.permutation(np.arange(clips) % count) for count in (len(kinds), len(motions))]
    return [
        Job(i, seed, split, (*kinds[k:], *kinds[:k]), motions[m], frames, size)
        for i, (k, m) in enumerate(zip(*order, strict=True))
    ]


def render_all(listed: Sequence[Job], *, workers: int) -> Iterator[Rendered]:
    """Renders jobs in order on `workers` processes, which end when this one does."""
    yield from in_processes(render_one, listed, workers)


def in_processes(function: Any, listed: Sequence[Any], workers: int) -> Iterator[Any]:
    """`map(function, listed)` on such processes, in order."""
    yield from rendering.in_processes(function, listed, workers, _prepare_worker)


def render_one(job: Job) -> Rendered:
    """Tries seeds with the kind of path that is wanted, then with others, until a clip is good."""
    from experiments.worlds.miniworld import render

    rng = np.random.default_rng([job.seed, job.index, SPLITS[job.split]])
    rejected = collections.Counter()
    for kind in itertools.islice(itertools.cycle(job.kinds), _KINDS_A_CLIP):
        for _ in range(_TRIES_A_KIND):
            seed = int(rng.integers(1 << 31))
            try:
                clip, residuals = render.render(
                    *canvases(job.size), job.split, kind, job.motion, frames=job.frames, seed=seed
                )
                return Rendered(job, clip, residuals, dict(rejected))
            except rendering.RejectedError as reason:
                rejected[str(reason)] += 1
    return Rendered(job, None, {}, dict(rejected))


_open: dict[int, Any] = {}
"""Canvases of this process by size."""


def canvases(size: int) -> tuple[Any, Any]:
    """The canvas of a size, and the small one."""
    from experiments.worlds.miniworld.canvas import Canvas

    return tuple(_open[side] if side in _open else _open.setdefault(side, Canvas(side)) for side in (size, _PROBE))


def _prepare_worker() -> None:
    os.environ.setdefault("LP_NUM_THREADS", "1")  # of Mesa's software renderer: the processes share the cores

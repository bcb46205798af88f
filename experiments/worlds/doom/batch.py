"""Renders many clips on several processes, retrying until each place in the list has a good one.

What is rendered depends on the seed only, not on the number of processes.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import multiprocessing.util
import os
import signal
import types
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import vizdoom

from experiments.worlds import rendering
from experiments.worlds.doom import engine, paths, render, splits
from experiments.worlds.doom.variant import AS_IT_IS, Variant
from experiments.worlds.rendering import Rendered
from mirage_jax.errors import UserError

_MOVING_EVERY = 4  # one clip in four has moving monsters
_TRIES_A_MAP = 25
_MAPS_A_CLIP = 6


@dataclasses.dataclass(frozen=True)
class Job:
    """One clip to render."""

    index: int
    seed: int  # of the whole list
    split: str
    map_name: str  # the map to try first
    kind: str
    moving: bool
    frames: int
    size: int
    variant: Variant = AS_IT_IS


def jobs(
    split: str,
    clips: int,
    *,
    seed: int,
    frames: int,
    size: int,
    kinds: Sequence[str] = paths.KINDS,
    game: str = "freedoom",
    restyled: bool = False,
    stretched: bool = False,
) -> list[Job]:
    """The list of clips of a data set: maps, kinds of path and moving monsters are each spread evenly.

    With `restyled` every map has the textures and light, with `stretched` the shape, that `seed` numbers.

    Raises:
      UserError: if there is no such game, split or kind of path.
    """
    names = splits.maps(split, game)
    known = paths.KINDS + paths.RETURNING
    if not kinds or set(kinds) - set(known):
        raise UserError(f"--kinds is {','.join(kinds)}, expected some of {', '.join(known)}")
    rng = np.random.default_rng([seed, clips])
    order = [rng.permutation(np.arange(clips) % count) for count in (len(names), len(kinds), _MOVING_EVERY)]
    variant = Variant(seed if restyled else None, seed if stretched else None)
    listed = [
        Job(i, seed, split, names[m], kinds[k], bool(q == 0), frames, size, variant)
        for i, (m, k, q) in enumerate(zip(*order, strict=True))
    ]
    return sorted(listed, key=lambda job: (job.map_name, job.moving))  # a worker can keep its game running


def render_all(listed: list[Job], *, workers: int) -> Iterator[Rendered]:
    """Renders jobs in order on `workers` processes, which end, with their games, when this one does."""
    yield from in_processes(render_one, listed, workers)


def in_processes(function: Any, listed: Sequence[Any], workers: int) -> Iterator[Any]:
    """`map(function, listed)` on such processes, in order."""
    yield from rendering.in_processes(function, listed, workers, _prepare_worker)


def render_one(job: Job) -> Rendered:
    """Tries seeds on the job's map, then on other maps of its split, until a clip is good."""
    rng = np.random.default_rng([job.seed, job.index])
    names = splits.maps(job.split, splits.game_of(job.map_name))
    others = [str(name) for name in rng.permutation(names) if name != job.map_name]
    rejected = collections.Counter()
    for map_name in itertools.islice(itertools.cycle([job.map_name, *others]), _MAPS_A_CLIP):
        for _ in range(_TRIES_A_MAP):
            seed = int(rng.integers(1 << 31))
            try:
                game = running(map_name, job.moving, job.variant)
                clip, residuals = render.render(
                    game, job.kind, frames=job.frames, seed=seed, moving=job.moving, size=job.size
                )
                return Rendered(job, clip, residuals, dict(rejected))
            except rendering.RejectedError as reason:
                rejected[str(reason)] += 1
            except vizdoom.ViZDoomUnexpectedExitException:
                _running.clear()
                rejected["game crashed"] += 1
    return Rendered(job, None, {}, dict(rejected))


_running: dict[tuple[str, bool, Variant], engine.Engine] = {}
"""The game this process keeps running; at most one."""


def running(map_name: str, monsters: bool, variant: Variant = AS_IT_IS) -> engine.Engine:
    """The game of a map in this process, which is kept until another is asked for."""
    key = (map_name, monsters, variant)
    if key not in _running:
        _close_engine()
        _running[key] = engine.Engine(map_name, monsters=monsters, variant=variant)
    return _running[key]


def just_begun(map_name: str, monsters: bool) -> engine.Engine:
    """The game of a map, newly started: no clip before it can have left anything behind."""
    _close_engine()
    return running(map_name, monsters)


def _close_engine() -> None:
    while _running:
        _running.popitem()[1].close()


def _prepare_worker() -> None:
    """Makes sure that the game, a process of its own, never outlives this worker."""
    os.setpgrp()
    multiprocessing.util.Finalize(None, _close_engine, exitpriority=10)
    signal.signal(signal.SIGTERM, _stop)


def _stop(signum: int, frame: types.FrameType | None) -> None:
    del signum, frame
    os.killpg(0, signal.SIGKILL)  # with the game, be it just starting

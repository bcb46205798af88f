"""Clips of random rooms: which a part of a data set has, and the canvases that they are drawn on."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.worlds import batch
from experiments.worlds.miniworld.scenes import KINDS, MOTION, MOVERS, SPLITS
from mirage_jax.data.clip import PosedClip
from mirage_jax.errors import UserError

_PROBE = 32  # side of the small frames that are looked at first, pixels


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job(batch.Job):
    """One clip to render; its venues are kinds of path, of which the first is wanted."""

    TRIES = 150
    VENUES = 4
    kinds: tuple[str, ...]
    motion: str

    def draw(self) -> tuple[np.random.Generator, Sequence[str]]:
        """The kinds of path as they are listed."""
        return np.random.default_rng([self.seed, self.index, SPLITS[self.split]]), self.kinds

    def render(self, venue: str, seed: int) -> tuple[PosedClip, dict[str, float]]:
        """Renders on the canvases that this process keeps."""
        from experiments.worlds.miniworld import render

        return render.render(*canvases(self.size), self.split, venue, self.motion, frames=self.frames, seed=seed)


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
    common = {"seed": seed, "split": split, "frames": frames, "size": size}
    return [
        Job(index=i, kinds=(*kinds[k:], *kinds[:k]), motion=motions[m], **common)
        for i, (k, m) in enumerate(zip(*order, strict=True))
    ]


def _counts(good: Sequence[batch.Rendered]) -> dict[str, Any]:
    kinds = collections.Counter(outcome.clip.source.split("/")[-1] for outcome in good)
    motions = collections.Counter(outcome.job.motion for outcome in good)
    return {"by_kind": dict(sorted(kinds.items())), "by_motion": dict(sorted(motions.items()))}


WORLD = batch.World(
    name="miniworld",
    jobs=jobs,
    settings={"kinds": KINDS, "motions": tuple(MOTION)},
    counts=_counts,
    licence="Frames are rendered with MiniWorld (Apache-2.0), with the textures and meshes of that package.",
    description="Posed video of random rooms with moving objects and exact depth.",
    objects=MOVERS,
)

_open: dict[int, Any] = {}
"""Canvases of this process by size."""


def canvases(size: int) -> tuple[Any, Any]:
    """The canvas of a size, and the small one."""
    from experiments.worlds.miniworld.canvas import Canvas

    return tuple(_open[side] if side in _open else _open.setdefault(side, Canvas(side)) for side in (size, _PROBE))

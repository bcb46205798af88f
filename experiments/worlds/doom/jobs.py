"""Clips of Doom's maps: which a part of a data set has, and the game that renders them."""

from __future__ import annotations

import atexit
import collections
import dataclasses
from collections.abc import Sequence

import numpy as np
import vizdoom

from experiments.worlds import batch, paths
from experiments.worlds.doom import engine, render, splits
from experiments.worlds.doom.variant import AS_IT_IS, Variant
from mirage_jax.data.clip import PosedClip
from mirage_jax.errors import UserError

_MOVING_EVERY = 4  # one clip in four has moving monsters


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job(batch.Job):
    """One clip to render; its venues are maps."""

    TRIES = 25
    VENUES = 6
    map_name: str  # the map to try first
    kind: str
    moving: bool
    variant: Variant = AS_IT_IS

    def draw(self) -> tuple[np.random.Generator, Sequence[str]]:
        """The maps of its split, in any order but for the first."""
        rng = np.random.default_rng([self.seed, self.index])
        others = rng.permutation(splits.maps(self.split, splits.game_of(self.map_name)))
        return rng, [self.map_name, *(str(name) for name in others if name != self.map_name)]

    def render(self, venue: str, seed: int) -> tuple[PosedClip, dict[str, float]]:
        """Renders with the game that this process keeps running."""
        try:
            game = running(venue, self.moving, self.variant)
            return render.render(game, self.kind, frames=self.frames, seed=seed, moving=self.moving, size=self.size)
        except vizdoom.ViZDoomUnexpectedExitException as error:
            _running.clear()
            raise batch.RejectedError("game crashed") from error


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

    With `restyled` every map has the textures and light, with `stretched` the shape, that `seed` numbers (`Variant`).

    Raises:
      UserError: if there is no such game, split or kind of path, or the game is not installed.
    """
    names = splits.maps(split, game)
    known = paths.KINDS + paths.RETURNING
    if not kinds or set(kinds) - set(known):
        raise UserError(f"--kinds is {','.join(kinds)}, expected some of {', '.join(known)}")
    engine.iwad(names[0])  # says now, not in a worker, if the game is not installed
    rng = np.random.default_rng([seed, clips])
    order = [rng.permutation(np.arange(clips) % count) for count in (len(names), len(kinds), _MOVING_EVERY)]
    variant = Variant(seed if restyled else None, seed if stretched else None)
    common = {"seed": seed, "split": split, "frames": frames, "size": size, "variant": variant}
    listed = [
        Job(index=i, map_name=names[m], kind=kinds[k], moving=bool(q == 0), **common)
        for i, (m, k, q) in enumerate(zip(*order, strict=True))
    ]
    return sorted(listed, key=lambda job: (job.map_name, job.moving))  # a worker can keep its game running


def _counts(good: Sequence[batch.Rendered]) -> dict[str, object]:
    maps = collections.Counter(outcome.clip.source.split("/")[1] for outcome in good)
    kinds = collections.Counter(outcome.job.kind for outcome in good)
    monsters = sum(outcome.job.moving for outcome in good)
    return {"by_kind": dict(sorted(kinds.items())), "by_map": dict(sorted(maps.items())), "with_monsters": monsters}


WORLD = batch.World(
    name="doom",
    jobs=jobs,
    settings={"kinds": paths.KINDS, "game": "freedoom", "restyled": False, "stretched": False},
    counts=_counts,
    licence="Frames are rendered from Freedoom (https://freedoom.github.io), copyright the Freedoom contributors, "
    "under the 3-clause BSD licence; the engine is ViZDoom (MIT).",
    description="Posed video of Freedoom maps with exact depth.",
)

_running: dict[tuple[str, bool, Variant], engine.Engine] = {}
"""The game this process keeps running; at most one."""


def running(map_name: str, monsters: bool, variant: Variant = AS_IT_IS) -> engine.Engine:
    """The game of a map in this process, which is kept until another is asked for."""
    key = (map_name, monsters, variant)
    if key not in _running:
        close()
        _running[key] = engine.Engine(map_name, monsters=monsters, variant=variant)
        atexit.unregister(close)
        atexit.register(close)  # last, so that it comes before the end of what the game still uses
    return _running[key]


def close() -> None:
    """Ends the game of this process, if one is running."""
    while _running:
        _running.popitem()[1].close()

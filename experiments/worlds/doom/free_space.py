"""Where a player of a Doom map may go without touching or triggering anything; lengths are map units."""

from __future__ import annotations

import numpy as np

from experiments.worlds import paths
from experiments.worlds.doom.wad import LINE_BLOCKING, DoomMap

_HEADROOM = 56.0  # a player's height
_STEP = 24.0  # the highest step a player climbs
_DAMAGE = (4, 5, 7, 11, 16)  # sector specials that hurt
_PLAYER_STARTS = (1, 2, 3, 4, 11, 14)


class FreeSpace(paths.FreeSpace):
    """The free space of a map.

    Args:
      doom_map: the map.
      floor, ceiling: `[S]` live sector heights.
    """

    MARGIN = 40.0

    def __init__(self, doom_map: DoomMap, floor: np.ndarray, ceiling: np.ndarray):
        front, back = doom_map.sectors.T
        low, high = floor[doom_map.sectors], ceiling[doom_map.sectors]
        hurts = np.isin(doom_map.sector_special, _DAMAGE)[doom_map.sectors]
        blocking = (front < 0) | (back < 0)
        blocking |= (doom_map.flags & LINE_BLOCKING) != 0
        blocking |= doom_map.special != 0
        blocking |= high.min(axis=1) - low.max(axis=1) < _HEADROOM
        blocking |= np.abs(low[:, 0] - low[:, 1]) > _STEP
        blocking |= hurts.any(axis=1)
        self._map, self._blocking = doom_map, blocking
        self._floor, self._ceiling = floor, ceiling
        things = doom_map.things[~np.isin(doom_map.things["type"], _PLAYER_STARTS)]
        self._things = np.stack([things["x"], things["y"]], axis=1).astype(np.float64)

    def sector_at(self, point: np.ndarray) -> int:
        """Number of the sector around a point `[2]`, -1 outside the map."""
        start, end = self._map.start - point, self._map.end - point
        crosses = np.flatnonzero((start[:, 1] > 0) != (end[:, 1] > 0))
        start, end = start[crosses], end[crosses]
        x = start[:, 0] - start[:, 1] * (end[:, 0] - start[:, 0]) / (end[:, 1] - start[:, 1])
        if not (x > 0).any():
            return -1
        nearest = np.where(x > 0, x, np.inf).argmin()
        side = 1 if end[nearest, 1] > start[nearest, 1] else 0  # the point lies to the left of the line
        return int(self._map.sectors[crosses[nearest], side])

    def standable(self, point: np.ndarray) -> bool:
        """Whether a player can stand at a point `[2]` unharmed."""
        sector = self.sector_at(point)
        if sector < 0 or self._map.sector_special[sector] in _DAMAGE:
            return False
        return self._ceiling[sector] - self._floor[sector] >= _HEADROOM

    def clearance(self, points: np.ndarray) -> np.ndarray:
        """`[N]` distance of points `[N, 2]` to the nearest wall, trigger or thing."""
        centre = points.mean(axis=0)
        reach = np.linalg.norm(points - centre, axis=1).max() + 2 * self.MARGIN
        distance = _segment_distance(centre[None], self._map.start, self._map.end)[0]
        near = self._blocking & (distance < reach)
        walls = _segment_distance(points, self._map.start[near], self._map.end[near]).min(axis=1, initial=np.inf)
        things = np.linalg.norm(points[:, None] - self._things, axis=-1).min(axis=1, initial=np.inf)
        return np.minimum(walls, things)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """A random point `[2]` near something a map maker put there."""
        return np.round(self._things[rng.integers(len(self._things))] + rng.uniform(-192, 192, 2))


def _segment_distance(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """`[N, L]` distances from points `[N, 2]` to segments `[L, 2]`."""
    direction = end - start
    length = np.maximum((direction**2).sum(axis=1), 1e-9)
    offset = points[:, None] - start
    along = np.clip((offset * direction).sum(axis=-1) / length, 0, 1)
    return np.linalg.norm(offset - along[..., None] * direction, axis=-1)

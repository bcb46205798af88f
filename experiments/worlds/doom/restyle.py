"""A map in other clothes: walls, floors and ceilings in textures drawn from all of its game's, under other light.

What a network learns of a few dozen maps is in part their looks. The same rooms in other textures are further places
to learn from (domain randomisation, Tobin et al. 2017), whose depth is as exact: nothing of their shape changes.
Textures keep their scale, one pixel a map unit, from which size can be told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from experiments.worlds.doom import wad

_KEPT_SHARE = 0.25  # of a map's textures
_LIGHT = 40  # of 256, the most that all sectors get lighter or darker by
_DARKEST = 96
_NOT_A_WALL = (b"SKY", b"AASH")  # pictures of the sky, and the mark of what has no texture


def restyled(source: wad.Wad, lumps: dict[str, bytes], rng: np.random.Generator) -> dict[str, bytes]:
    """The lumps of a map, restyled.

    A texture gives way to the same other one all over the map. Two-sided walls keep their middle textures, whose holes
    are geometry; so does the sky.

    Args:
      source: the WAD file that has all textures.
      lumps: of the map.
      rng: draws textures and light.
    """
    lines = np.frombuffer(lumps["LINEDEFS"], wad.LINE)
    sides = np.frombuffer(lumps["SIDEDEFS"], wad.SIDE).copy()
    sectors = np.frombuffer(lumps["SECTORS"], wad.SECTOR).copy()
    walls = [wall for wall in source.wall_textures() if not wall.startswith(_NOT_A_WALL)]
    drawn = _Drawn(rng, walls, lambda wall: bool(source.opacity(wall).all()))
    for part in ("upper", "lower"):
        sides[part] = drawn.replace(sides[part])
    single = np.unique(lines["sides"][lines["sides"][:, 1] == wad.NO_SIDE, 0])
    sides["middle"][single] = drawn.replace(sides["middle"][single])
    drawn = _Drawn(rng, [flat for flat in source.flats() if flat != wad.SKY], lambda flat: True)
    for part in ("floor_flat", "ceiling_flat"):
        sectors[part] = drawn.replace(sectors[part])
    light = sectors["light"] + rng.integers(-_LIGHT, _LIGHT + 1)
    sectors["light"] = np.clip(light, np.minimum(sectors["light"], _DARKEST), 255)
    return {**lumps, "SIDEDEFS": sides.tobytes(), "SECTORS": sectors.tobytes()}


class _Drawn:
    """For each name that is asked for, one drawn from `choices` and `usable`, or itself."""

    def __init__(self, rng: np.random.Generator, choices: Sequence[bytes], usable: Callable[[bytes], bool]):
        self._rng, self._choices, self._usable = rng, choices, usable
        self._found = {b"-": b"-", wad.SKY: wad.SKY}

    def replace(self, names: np.ndarray) -> np.ndarray:
        upper = np.char.upper(names)
        for name in np.unique(upper).tolist():
            if name not in self._found:
                self._found[name] = name if self._rng.random() < _KEPT_SHARE else self._draw()
        return np.array([self._found[name] for name in upper.tolist()], names.dtype).reshape(names.shape)

    def _draw(self) -> bytes:
        while True:
            name = self._choices[self._rng.integers(len(self._choices))]
            if self._usable(name):
                return name

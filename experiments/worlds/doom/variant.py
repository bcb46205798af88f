"""How a map is changed before it is played, so that a few dozen maps become more places.

What a network learns of a few maps is in part their looks and proportions. The same rooms in other textures and light
(`style`), or longer, shorter, lower or higher (`shape`), are further places to learn from (domain randomisation, Tobin
et al. 2017), whose depth is as exact. Textures keep their scale, one pixel a map unit, and who walks there keeps his
height; so size can be told as before.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Sequence

import numpy as np

from experiments.worlds.doom import wad

_KEPT_SHARE = 0.25  # of a map's textures
_LIGHT = 40  # of 256, the most that all sectors get lighter or darker by
_DARKEST = 96
_NOT_A_WALL = (b"SKY", b"AASH")  # pictures of the sky, and the mark of what has no texture
_PLAN = 1.5  # the most by which x and y are each multiplied or divided
_HEIGHT = 1.3  # and heights: more would shut many doors, or make many stairs too steep
_DERIVED = ("SEGS", "SSECTORS", "NODES", "REJECT", "BLOCKMAP")  # from the shape; the engine makes anew what is empty


@dataclasses.dataclass(frozen=True)
class Variant:
    """What is changed of a map; each number, at least 0, draws one of endless ways, another for every map.

    Attributes:
      style: which textures and light it has; None for its own.
      shape: how it is stretched; None for as it is.
    """

    style: int | None = None
    shape: int | None = None

    def __str__(self) -> str:
        """Like `style3/shape3`; empty for a map as it is."""
        numbers = dataclasses.asdict(self)
        return "/".join(f"{name}{number}" for name, number in numbers.items() if number is not None)

    def lumps(self, source: wad.Wad, name: str) -> dict[str, bytes]:
        """The lumps of one map of `source`, changed.

        Raises:
          UserError: if there is no such map.
        """
        lumps, place = source.map_lumps(name), zlib.crc32(name.encode())
        if self.style is not None:
            lumps = _restyled(source, lumps, np.random.default_rng([self.style, place]))
        if self.shape is not None:
            lumps = _stretched(lumps, np.random.default_rng([self.shape, place, 1]))
        return lumps


AS_IT_IS = Variant()


def _restyled(source: wad.Wad, lumps: dict[str, bytes], rng: np.random.Generator) -> dict[str, bytes]:
    """A map in textures drawn from all of its game's.

    A texture gives way to the same other one all over the map. Two-sided walls keep their middle textures, whose holes
    are geometry; so does the sky.
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


def _stretched(lumps: dict[str, bytes], rng: np.random.Generator) -> dict[str, bytes]:
    """A map with lengths along x, along y, and heights multiplied by three factors, rounded to whole map units.

    What was closed stays closed and what was level stays level.
    """
    factors = np.exp(rng.uniform(-1, 1, 3) * np.log([_PLAN, _PLAN, _HEIGHT]))
    vertices = np.frombuffer(lumps["VERTEXES"], "<i2").reshape(-1, 2)
    things = np.frombuffer(lumps["THINGS"], wad.THING).copy()
    sectors = np.frombuffer(lumps["SECTORS"], wad.SECTOR).copy()
    for axis, name in enumerate(("x", "y")):
        things[name] = _times(things[name], factors[axis])
    for name in ("floor", "ceiling"):
        sectors[name] = _times(sectors[name], factors[2])
    changed = {"VERTEXES": _times(vertices, factors[:2]).tobytes(), "THINGS": things.tobytes()}
    return {**lumps, **changed, "SECTORS": sectors.tobytes(), **dict.fromkeys(_DERIVED, b"")}


def _times(lengths: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Lengths times factors, rounded, and at most as long as can be stored."""
    return np.clip(np.rint(lengths * factor), -32768, 32767).astype("<i2")

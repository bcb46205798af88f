"""A map in other shapes: longer or shorter along x and y, lower or higher.

Rooms of other proportions are further places to learn depth from, where textures alone are not (`restyle`). Textures
keep their scale, one pixel a map unit, and who walks there keeps his height; so size can be told as before.
"""

from __future__ import annotations

import numpy as np

from experiments.worlds.doom import wad

_PLAN = 1.5  # the most by which x and y are each multiplied or divided
_HEIGHT = 1.3  # and heights: more would shut many doors, or make many stairs too steep
_DERIVED = ("SEGS", "SSECTORS", "NODES", "REJECT", "BLOCKMAP")  # from the shape; the engine makes anew what is empty


def stretched(lumps: dict[str, bytes], rng: np.random.Generator) -> dict[str, bytes]:
    """The lumps of a map, stretched by three factors that `rng` draws: along x, along y, and in height.

    Positions are rounded to whole map units. What was closed stays closed and what was level stays level.
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

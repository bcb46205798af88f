"""How a map is changed before it is played, so that a few dozen maps become more places."""

from __future__ import annotations

import dataclasses
import zlib

import numpy as np

from experiments.worlds.doom import restyle, stretch, wad


@dataclasses.dataclass(frozen=True)
class Variant:
    """What is changed of a map; each number, at least 0, draws one of endless ways, another for every map.

    Attributes:
      style: which textures and light it has (`restyle`); None for its own.
      shape: how it is stretched (`stretch`); None for as it is.
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
            lumps = restyle.restyled(source, lumps, np.random.default_rng([self.style, place]))
        if self.shape is not None:
            lumps = stretch.stretched(lumps, np.random.default_rng([self.shape, place, 1]))
        return lumps


AS_IT_IS = Variant()

"""Doom map geometry from a WAD file: lines, sectors and things as numpy arrays.

All lengths are map units (32 to a metre), angles degrees counter-clockwise from +x.
Only the classic binary map format is read; that is what Freedoom ships.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Mapping

import numpy as np

from experiments.worlds.doom import textures
from mirage_jax.errors import UserError

LINE_BLOCKING = 0x0001
LINE_LOWER_UNPEGGED = 0x0010

LINE = np.dtype([("vertices", "<u2", 2), ("flags", "<u2"), ("special", "<u2"), ("tag", "<u2"), ("sides", "<u2", 2)])
SIDE = np.dtype([("offset", "<i2", 2), ("upper", "S8"), ("lower", "S8"), ("middle", "S8"), ("sector", "<u2")])
_FLATS = [("floor_flat", "S8"), ("ceiling_flat", "S8")]
SECTOR = np.dtype([("floor", "<i2"), ("ceiling", "<i2"), *_FLATS, ("light", "<i2"), ("special", "<u2"), ("tag", "<u2")])
THING = np.dtype([("x", "<i2"), ("y", "<i2"), ("angle", "<i2"), ("type", "<u2"), ("flags", "<u2")])
_ENTRY = np.dtype([("offset", "<i4"), ("size", "<i4"), ("name", "S8")])
NO_SIDE = 0xFFFF
SKY = b"F_SKY1"


@dataclasses.dataclass(frozen=True)
class DoomMap:
    """Static geometry of one map; `L` lines, `S` sectors, `N` things.

    Sides are ordered front (right of start -> end) then back; a one-sided line has
    back sector -1. Heights are those of the file: pass live ones where they move.
    """

    name: str
    start: np.ndarray  # [L, 2] float64
    end: np.ndarray  # [L, 2] float64
    flags: np.ndarray  # [L] uint16
    special: np.ndarray  # [L] uint16, what crossing or using the line does; 0 = nothing
    sectors: np.ndarray  # [L, 2] int32, front and back sector, -1 = none
    has_upper: np.ndarray  # [L, 2] bool, the side has an upper texture
    has_lower: np.ndarray  # [L, 2] bool
    has_middle: np.ndarray  # [L, 2] bool
    middle: np.ndarray  # [L, 2] int32, index into opacity of a two-sided line's middle texture, -1 = none
    offset: np.ndarray  # [L, 2, 2] float64, texture offset of the side, positive = leftwards and up
    opacity: tuple[np.ndarray, ...]  # [height, width] bool each, where a middle texture is opaque
    floor: np.ndarray  # [S] float64
    ceiling: np.ndarray  # [S] float64
    sky_floor: np.ndarray  # [S] bool
    sky_ceiling: np.ndarray  # [S] bool
    sector_special: np.ndarray  # [S] uint16, damage, flicker and the like; 0 = nothing
    things: np.ndarray  # [N] structured: x, y, angle, type, flags


class Wad:
    """Lumps of a WAD file by name, and the maps inside.

    Raises:
      UserError: if the file is missing or is not a WAD.
    """

    def __init__(self, path: str | pathlib.Path):
        self.path = pathlib.Path(path)
        if not self.path.is_file():
            raise UserError(f"WAD file {self.path} does not exist")
        self._data = self.path.read_bytes()
        if self._data[:4] not in (b"IWAD", b"PWAD"):
            raise UserError(f"{self.path} is not a WAD file: it starts with {self._data[:4]!r}, not IWAD or PWAD")
        count, offset = np.frombuffer(self._data, "<i4", 2, 4)
        self._directory = np.frombuffer(self._data, _ENTRY, count, offset)
        self._names = [name.decode("ascii", "replace").upper() for name in self._directory["name"]]

    def maps(self) -> list[str]:
        """Names of the maps in file order."""
        return [self._names[i] for i in range(len(self._names) - 1) if self._names[i + 1] == "THINGS"]

    def lump(self, index: int) -> bytes:
        """Bytes of one lump."""
        entry = self._directory[index]
        return self._data[entry["offset"] : entry["offset"] + entry["size"]]

    def find(self, name: str) -> bytes:
        """Bytes of the last lump of a name, empty if there is none."""
        index = self._last.get(name)
        return b"" if index is None else self.lump(index)

    @functools.cached_property
    def _last(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self._names)}

    def opacity(self, texture: bytes) -> np.ndarray | None:
        """`[height, width]` bool, where a wall texture is opaque; None if there is no such texture."""
        for lump in ("TEXTURE1", "TEXTURE2"):
            if data := self.find(lump):
                found = textures.opacity(texture, data, self.find("PNAMES"), self.find)
                if found is not None:
                    return found
        return None

    def wall_textures(self) -> list[bytes]:
        """Upper-case names of all wall textures."""
        return [name for lump in ("TEXTURE1", "TEXTURE2") if (data := self.find(lump)) for name in textures.names(data)]

    def flats(self) -> list[bytes]:
        """Upper-case names of all textures of floors and ceilings."""
        first, last = (self._names.index(name) for name in ("F_START", "F_END"))
        return [self._names[i].encode() for i in range(first, last) if self._directory["size"][i]]  # others are marks

    def map_lumps(self, name: str) -> dict[str, bytes]:
        """The lumps of one map by name, in file order.

        Raises:
          UserError: if the WAD has no map of that name.
        """
        if name not in self.maps():
            raise UserError(f"{self.path} has no map {name}; it has {', '.join(self.maps())}")
        first = next(i for i, n in enumerate(self._names) if n == name and self._names[i + 1] == "THINGS")
        return {self._names[i]: self.lump(i) for i in range(first + 1, first + 11)}

    def map(self, name: str, lumps: Mapping[str, bytes] | None = None) -> DoomMap:
        """Reads one map.

        Args:
          name: of the map.
          lumps: of that map, where they are not those of the file; textures are the file's.

        Raises:
          UserError: if the WAD has no map of that name.
        """
        lumps = self.map_lumps(name) if lumps is None else lumps
        vertices = np.frombuffer(lumps["VERTEXES"], "<i2").reshape(-1, 2).astype(np.float64)
        lines = np.frombuffer(lumps["LINEDEFS"], LINE)
        sides = np.frombuffer(lumps["SIDEDEFS"], SIDE)
        sectors = np.frombuffer(lumps["SECTORS"], SECTOR)
        present = lines["sides"] != NO_SIDE
        side = sides[np.where(present, lines["sides"], 0)]
        two_sided = present.all(axis=1, keepdims=True)
        names = np.where(two_sided & (side["middle"] != b"-"), np.char.upper(side["middle"]), b"-")
        known = {name: found for name in np.unique(names) if (found := self.opacity(name)) is not None}
        numbers = {name: number for number, name in enumerate(known)}
        middle = np.array([numbers.get(name, -1) for name in names.ravel()], np.int32).reshape(names.shape)
        return DoomMap(
            name=name,
            start=vertices[lines["vertices"][:, 0]],
            end=vertices[lines["vertices"][:, 1]],
            flags=lines["flags"],
            special=lines["special"],
            sectors=np.where(present, side["sector"].astype(np.int32), -1),
            has_upper=present & (side["upper"] != b"-"),
            has_lower=present & (side["lower"] != b"-"),
            has_middle=present & (side["middle"] != b"-"),
            middle=middle,
            offset=side["offset"].astype(np.float64),
            opacity=tuple(known.values()),
            floor=sectors["floor"].astype(np.float64),
            ceiling=sectors["ceiling"].astype(np.float64),
            sky_floor=sectors["floor_flat"] == SKY,
            sky_ceiling=sectors["ceiling_flat"] == SKY,
            sector_special=sectors["special"],
            things=np.frombuffer(lumps["THINGS"], THING),
        )


def build(lumps: dict[str, bytes]) -> bytes:
    """A WAD file, to be loaded on top of another, of lumps in order."""
    header = 12
    sizes = [len(lump) for lump in lumps.values()]
    starts = header + np.cumsum([0, *sizes])
    directory = np.array(list(zip(starts, sizes, map(str.encode, lumps), strict=False)), _ENTRY)
    head = b"PWAD" + np.array([len(lumps), starts[-1]], "<i4").tobytes()
    return b"".join([head, *lumps.values(), directory.tobytes()])

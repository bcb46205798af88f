"""Where the wall textures of a WAD file are opaque.

Only two-sided walls need this: their middle texture may have holes (grates, fringes of
grass), and a ray that meets a hole goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

_TEXTURE_HEADER = np.dtype(
    [("name", "S8"), ("masked", "<i4"), ("width", "<i2"), ("height", "<i2"), ("unused", "<i4"), ("patches", "<i2")]
)
_PLACED_PATCH = np.dtype([("x", "<i2"), ("y", "<i2"), ("patch", "<i2"), ("unused", "<i2", 2)])
_END_OF_COLUMN = 255


def names(textures: bytes) -> list[bytes]:
    """Upper-case names of the textures of a TEXTURE1 or TEXTURE2 lump."""
    return [header["name"].upper() for header, _ in _headers(textures)]


def opacity(name: bytes, textures: bytes, patch_names: bytes, find_lump: Callable[[str], bytes]) -> np.ndarray | None:
    """Decodes where one texture is opaque.

    Args:
      name: upper-case name of the texture.
      textures: a TEXTURE1 or TEXTURE2 lump.
      patch_names: the PNAMES lump.
      find_lump: bytes of a lump by name, empty if there is none.

    Returns:
      `[height, width]` bool, or None if the lump has no such texture.
    """
    for header, offset in _headers(textures):
        if header["name"].upper() != name:
            continue
        patches = np.frombuffer(patch_names, "S8", -1, 4)
        result = np.zeros((header["height"], header["width"]), bool)
        start = offset + _TEXTURE_HEADER.itemsize
        for placed in np.frombuffer(textures, _PLACED_PATCH, header["patches"], start):
            patch = find_lump(patches[placed["patch"]].decode("ascii", "replace").upper())
            if patch:
                _paste(result, _patch_opacity(patch), int(placed["x"]), int(placed["y"]))
        return result
    return None


def _headers(textures: bytes) -> Iterator[tuple[np.void, int]]:
    """The header of each texture of a lump, and where it begins."""
    count = int(np.frombuffer(textures, "<i4", 1)[0])
    for offset in np.frombuffer(textures, "<i4", count, 4):
        yield np.frombuffer(textures, _TEXTURE_HEADER, 1, offset)[0], int(offset)


def _patch_opacity(patch: bytes) -> np.ndarray:
    """`[height, width]` bool of one picture in Doom's column format."""
    width, height = np.frombuffer(patch, "<i2", 2)
    result = np.zeros((height, width), bool)
    for x, start in enumerate(np.frombuffer(patch, "<i4", width, 8)):
        while patch[start] != _END_OF_COLUMN:
            top, length = patch[start], patch[start + 1]
            result[top : top + length, x] = True
            start += length + 4
    return result


def _paste(canvas: np.ndarray, patch: np.ndarray, x: int, y: int) -> None:
    """Ors `patch` into `canvas` with its corner at column `x`, row `y`, clipped."""
    left, top = max(0, -x), max(0, -y)
    right, bottom = min(patch.shape[1], canvas.shape[1] - x), min(patch.shape[0], canvas.shape[0] - y)
    if left < right and top < bottom:
        canvas[y + top : y + bottom, x + left : x + right] |= patch[top:bottom, left:right]

"""Coloured point clouds that MeshLab, Open3D and Blender read."""

from __future__ import annotations

import os
import pathlib

import numpy as np

from mirage_jax import io
from mirage_jax.errors import UserError

_VERTEX = np.dtype([(axis, "<f4") for axis in "xyz"] + [(colour, "u1") for colour in ("red", "green", "blue")])


def write_ply(path: str | os.PathLike[str], points: np.ndarray, colors: np.ndarray) -> None:
    """Writes points with colours as binary PLY, atomically.

    Args:
      path: of the file.
      points: `[N, 3]` finite world points; directions (sky) have no place here.
      colors: `[N, 3]` uint8 RGB.

    Raises:
      UserError: if `path` cannot be written.
      ValueError: for other shapes, or points that are not finite.
    """
    points, colors = np.asarray(points), np.asarray(colors)
    if points.ndim != 2 or points.shape[1] != 3 or colors.shape != points.shape or colors.dtype != np.uint8:
        raise ValueError(
            f"expected points [N, 3] and uint8 colors [N, 3], got {points.shape} and {colors.dtype} {colors.shape}"
        )
    if not np.isfinite(points).all():
        raise ValueError("points of a PLY file must be finite")
    vertices = np.empty(len(points), _VERTEX)
    for name, column in zip(_VERTEX.names or (), [*points.T, *colors.T], strict=True):
        vertices[name] = column
    with io.atomic_path(path) as temporary:
        temporary.write_bytes(_header(len(points)) + vertices.tobytes())


def read_ply(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """Reads what `write_ply` wrote: points `[N, 3]` float32 and colours `[N, 3]` uint8.

    Raises `UserError` if it is another file, or not complete.
    """
    path = pathlib.Path(path)
    data = io.read_bytes(path)
    end = data.find(b"end_header\n") + len(b"end_header\n")
    count, rest = divmod(len(data) - end, _VERTEX.itemsize)
    if rest or data[:end] != _header(count):
        raise UserError(f"{path}: damaged, or not a PLY file of coloured points as it is written here")
    vertices = np.frombuffer(data, _VERTEX, count, end)
    names = _VERTEX.names or ()
    points, colours = (np.stack([vertices[name] for name in part], axis=1) for part in (names[:3], names[3:]))
    return points, colours


def _header(count: int) -> bytes:
    kinds = {"<f4": "float", "|u1": "uchar"}
    properties = [f"property {kinds[_VERTEX[name].str]} {name}" for name in _VERTEX.names or ()]
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {count}", *properties, "end_header", ""]
    return "\n".join(lines).encode("ascii")

"""Coloured point clouds that MeshLab, Open3D and Blender read."""

from __future__ import annotations

import os

import numpy as np

from mirage_jax import io


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
    names = ("x", "y", "z", "red", "green", "blue")
    vertices = np.empty(len(points), [(name, "<f4" if name in "xyz" else "u1") for name in names])
    for axis in range(3):
        vertices[names[axis]] = points[:, axis]
        vertices[names[axis + 3]] = colors[:, axis]
    header = "\n".join(
        [
            "ply",
            "format binary_little_endian 1.0",
            f"element vertex {len(points)}",
            *(f"property {'float' if name in 'xyz' else 'uchar'} {name}" for name in names),
            "end_header\n",
        ]
    )
    with io.atomic_path(path) as temporary:
        temporary.write_bytes(header.encode("ascii") + vertices.tobytes())

"""RealEstate10K text: a URL, then a line a frame.

`timestamp fx fy cx cy 0 0 r11 r12 r13 t1 ... t3`, where intrinsics are normalised by width
and height and the 3x4 matrix is world-to-camera, OpenCV axes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mirage_jax.errors import UserError
from mirage_jax.geometry.pose_files import checks, reading
from mirage_jax.geometry.pose_files.record import PoseFile

_COLUMNS = 19


def recognised(path: Path) -> bool:
    """Whether the first line of numbers in a text file has as many as this format asks for."""
    rows = reading.lines(path)
    return any(len(row.split()) == _COLUMNS for row in rows[:2])


def read(path: Path, height: int | None, width: int | None) -> PoseFile:
    """Reads a RealEstate10K text file for images of the given size.

    Raises:
      UserError: if a line is not in the format, a pose is not rigid, or the size is not given.
    """
    source = str(path)
    rows = reading.lines(path)
    if rows and len(rows[0].split()) != _COLUMNS:
        rows = rows[1:]  # the URL
    if not rows:
        raise UserError(f"{source} holds no cameras; expected a line of {_COLUMNS} numbers a frame")
    values = np.array([reading.numbers(f"{source}: frame {i}", row, _COLUMNS) for i, row in enumerate(rows)])
    size = checks.grid(source, None, height, width)
    cam2world = checks.inverse(checks.rigid(source, "world-to-camera", values[:, 7:].reshape(-1, 3, 4)))
    fx, fy, cx, cy = checks.array(source, "intrinsics", values[:, 1:5], (None, 4)).T
    intrinsics = checks.pinhole(fx * size[1], fy * size[0], cx * size[1], cy * size[0])
    return PoseFile(
        camera=checks.camera(source, intrinsics, cam2world, *size),
        format="RealEstate10K text",
        path=path,
        names=tuple(row.split()[0] for row in rows),
    )

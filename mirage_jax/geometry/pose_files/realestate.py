"""RealEstate10K text: a URL, then a line a frame.

`timestamp fx fy cx cy 0 0 r11 r12 r13 t1 ... t3`, where intrinsics are normalised by width
and height and the 3x4 matrix is world-to-camera, OpenCV axes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mirage_jax import io
from mirage_jax.errors import UserError
from mirage_jax.geometry.pose_files import checks, plain
from mirage_jax.geometry.pose_files.record import Record

COLUMNS = 19
"""Numbers of a line."""


def recognised(path: Path) -> bool:
    """Whether the first line of numbers in a text file has as many as this format asks for."""
    return plain.columns(path) == COLUMNS


def read(path: Path) -> Record:
    """Reads a RealEstate10K text file. Raises `UserError` if a line is not in the format, or a pose is not rigid."""
    source = str(path)
    rows = io.read_lines(path)
    if rows and len(rows[0].split()) != COLUMNS:
        rows = rows[1:]  # the URL
    if not rows:
        raise UserError(f"{source} holds no cameras; expected a line of {COLUMNS} numbers a frame")
    values = np.array([io.numbers(f"{source}: frame {i}", row, COLUMNS) for i, row in enumerate(rows)])
    cam2world = checks.inverse(checks.rigid(source, "world-to-camera", values[:, 7:].reshape(-1, 3, 4)))
    return Record(
        format="RealEstate10K text",
        path=path,
        source=source,
        cam2world=cam2world,
        intrinsics=checks.pinhole(*checks.array(source, "intrinsics", values[:, 1:5], (None, 4)).T),
        normalised=True,
        names=tuple(row.split()[0] for row in rows),
    )

"""Poses without a lens: TUM and KITTI text, and `.npy` of matrices; camera-to-world, OpenCV axes.

A line of TUM is `timestamp tx ty tz qx qy qz qw`, of KITTI the 3x4 matrix row by row.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mirage_jax import io
from mirage_jax.geometry.pose_files import checks
from mirage_jax.geometry.pose_files.record import Record


def columns(path: Path) -> int | None:
    """How many numbers a text file has on the first line that is of numbers, one of its first two; None if none is."""
    for row in io.read_lines(path)[:2]:
        words = row.split()
        try:
            _ = float(words[0]), float(words[-1])
        except ValueError:
            continue
        return len(words)
    return None


def read_tum(path: Path) -> Record:
    """Reads TUM text. Raises `UserError` if a line is not in the format."""
    rows = io.read_lines(path)
    values = np.array([io.numbers(f"{path}: frame {i}", row, 8) for i, row in enumerate(rows)])
    poses = np.tile(np.eye(4), (len(rows), 1, 1))
    poses[:, :3, :3] = checks.rotations(str(path), "qx qy qz qw", values[:, [7, 4, 5, 6]])
    poses[:, :3, 3] = values[:, 1:4]
    return _record(path, "TUM poses", poses, tuple(row.split()[0] for row in rows))


def read_kitti(path: Path) -> Record:
    """Reads KITTI text. Raises `UserError` if a line is not in the format."""
    rows = io.read_lines(path)
    values = np.array([io.numbers(f"{path}: frame {i}", row, 12) for i, row in enumerate(rows)])
    return _record(path, "KITTI poses", values.reshape(-1, 3, 4))


def read_matrices(path: Path) -> Record:
    """Reads a `.npy` of `[N, 4, 4]` or `[N, 3, 4]`. Raises `UserError` if it is none."""
    return _record(path, "array of poses", io.read_array(path))


def _record(path: Path, form: str, poses: np.ndarray, names: tuple[str, ...] = ()) -> Record:
    cam2world = checks.rigid(str(path), "camera-to-world", poses)
    return Record(format=form, path=path, source=str(path), cam2world=cam2world, names=names)

"""A walk through a world in the formats that other programs read, each a file or a folder."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable

import numpy as np

from mirage_jax import viz
from mirage_jax.geometry import Camera, pose_files
from mirage_jax.viz import exports

MOST_PICTURES = 300
"""Pictures of a COLMAP model or a nerfstudio folder; of a longer walk, so many are taken, spread evenly."""


@dataclasses.dataclass(frozen=True)
class Walk:
    """What is exported.

    Attributes:
      frames: uint8 `[T, H, W, 3]`.
      cameras: `Camera[T]` of numpy arrays, of the frames.
      points: float32 `[N, 3]` of the memory.
      colours: uint8 `[N, 3]`.
      fps: frames a second.
    """

    frames: np.ndarray
    cameras: Camera
    points: np.ndarray
    colours: np.ndarray
    fps: float

    def thinned(self) -> Walk:
        """The same with `MOST_PICTURES` frames at most."""
        count = len(self.frames)
        chosen = np.unique(np.linspace(0, count - 1, min(count, MOST_PICTURES)).round().astype(int))
        return dataclasses.replace(self, frames=self.frames[chosen], cameras=self.cameras[chosen])


def _video(walk: Walk, folder: pathlib.Path) -> None:
    viz.write_video(folder / "video.mp4", walk.frames, fps=walk.fps)


def _path(walk: Walk, folder: pathlib.Path) -> None:
    pose_files.write_json(folder / "path" / "cameras.json", walk.cameras)
    exports.write_paths(folder / "path", walk.cameras, fps=walk.fps)


def _points(walk: Walk, folder: pathlib.Path) -> None:
    viz.write_ply(folder / "memory.ply", walk.points, walk.colours)


def _colmap(walk: Walk, folder: pathlib.Path) -> None:
    thin = walk.thinned()
    exports.write_colmap(folder / "colmap", thin.frames, thin.cameras, thin.points, thin.colours)


def _nerfstudio(walk: Walk, folder: pathlib.Path) -> None:
    thin = walk.thinned()
    exports.write_nerfstudio(folder / "nerfstudio", thin.frames, thin.cameras, thin.points, thin.colours)


WRITERS: dict[str, tuple[str, Callable[[Walk, pathlib.Path], None]]] = {
    "video": ("video.mp4", _video),
    "path": ("path", _path),
    "ply": ("memory.ply", _points),
    "colmap": ("colmap", _colmap),
    "nerfstudio": ("nerfstudio", _nerfstudio),
}
"""Name of a format -> the file or folder that it makes, and what writes it into a folder."""

"""What a camera file holds once read."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from mirage_jax.geometry.camera import Camera


@dataclasses.dataclass(frozen=True)
class DepthMaps:
    """Depth that came with the cameras.

    Attributes:
      camera: `Camera[T]` on the grid of the depth maps, which may see only a part of the frames.
      depth: `[T, h, w]` float32 z-depth, scene units; inf where sky, 0 where unknown.
      keep: `[T, h, w]` bool, False where something moves or is to be left out.
    """

    camera: Camera
    depth: np.ndarray  # [T, h, w]
    keep: np.ndarray  # [T, h, w]


@dataclasses.dataclass(frozen=True)
class PoseFile:
    """Cameras from a file, checked.

    Attributes:
      camera: `Camera[T]` of float32 numpy arrays.
      format: the format recognised, for people to read.
      path: the file or folder.
      names: what the file calls its frames (image names, time stamps), `T` of them or none.
      image: the first frame, where the format says where it is.
      mask: a mask picture that goes with the first frame, likewise.
      prompt: text that goes with it, or "".
      depth: depth maps, where the format holds them.
    """

    camera: Camera
    format: str
    path: Path
    names: tuple[str, ...] = ()
    image: Path | None = None
    mask: Path | None = None
    prompt: str = ""
    depth: DepthMaps | None = None

    def __str__(self) -> str:
        cameras = "1 camera" if len(self.camera) == 1 else f"{len(self.camera)} cameras"
        return f"{self.path}: {self.format}, {cameras} of {self.camera.width}x{self.camera.height} pixels"

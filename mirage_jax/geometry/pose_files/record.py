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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """What is known of a camera file beside its cameras.

    Attributes:
      format: the format recognised, for people to read.
      path: the file or folder.
      names: what the file calls its frames (image names, time stamps), `T` of them or none.
      image: the first frame, where the format says where it is.
      mask: a mask picture that goes with the first frame, likewise.
      prompt: text that goes with it, or "".
      depth: depth maps, where the format holds them.
    """

    format: str
    path: Path
    names: tuple[str, ...] = ()
    image: Path | None = None
    mask: Path | None = None
    prompt: str = ""
    depth: DepthMaps | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record(Found):
    """What a reader found: sound poses, and what the file says of its lens, not checked yet.

    Attributes:
      source: the file that tells of the lens, for messages.
      cam2world: `[T, 4, 4]` float64 rigid transforms.
      intrinsics: `[T, 3, 3]` or `[3, 3]`, in pixels; None where the format has none.
      sizes: (height, width) of the frames, `[T, 2]` or `[2]`; None where the format does not say.
      normalised: the intrinsics are in parts of width and height, not in pixels.
      distortion: what of the lens a pinhole is not, as a sentence, or "".
    """

    source: str
    cam2world: np.ndarray  # [T, 4, 4]
    intrinsics: np.ndarray | list | None = None  # [T, 3, 3]
    sizes: np.ndarray | tuple[int, int] | None = None  # [T, 2]
    normalised: bool = False
    distortion: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PoseFile(Found):
    """Cameras of pictures, checked: all of one size, seen through pinholes.

    Attributes:
      camera: `Camera[T]` of float32 numpy arrays.
    """

    camera: Camera

    def __str__(self) -> str:
        cameras = "1 camera" if len(self.camera) == 1 else f"{len(self.camera)} cameras"
        return f"{self.path}: {self.format}, {cameras} of {self.camera.width}x{self.camera.height} pixels"


@dataclasses.dataclass(frozen=True)
class PathFile:
    """A camera path for frames of a size of one's own.

    Attributes:
      cam2world: `[T, 4, 4]` float64, scene units: far from the origin, float32 would not tell neighbours apart.
      intrinsics: `[T, 3, 3]` float64 on the grid asked for; None where the file tells nothing of a lens.
      format: the format recognised, for people to read.
      notes: sentences on what was made of the lens, and what was left aside.
    """

    cam2world: np.ndarray  # [T, 4, 4]
    intrinsics: np.ndarray | None  # [T, 3, 3]
    format: str
    notes: tuple[str, ...]

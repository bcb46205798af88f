"""nerfstudio, instant-ngp and Blender `transforms.json`.

`transform_matrix` is camera-to-world with OpenGL axes (x right, y up, z back), so y and z
of the camera are flipped on the way in. Intrinsics are for all frames (`fl_x fl_y cx cy w
h`, or Blender's `camera_angle_x`) or for each. Frames come in the order of their file names.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from mirage_jax.errors import UserError
from mirage_jax.geometry.pose_files import checks, reading
from mirage_jax.geometry.pose_files.record import PoseFile

_OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
_DISTORTION = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")


def read(path: Path, height: int | None, width: int | None) -> PoseFile:
    """Reads a `transforms.json`.

    Raises:
      UserError: if it is not in the format, its frames differ in size, its lens is distorted, a pose
        is not rigid, or the image size is neither in it nor given.
    """
    source = str(path)
    content = reading.json_object(path)
    frames = reading.entry(source, content, "frames")
    if not isinstance(frames, list) or not frames or not all(isinstance(frame, dict) for frame in frames):
        raise UserError(f"{source}: 'frames' is not a list of frames; expected at least one, each an object")
    frames = sorted(frames, key=lambda frame: reading.natural(str(frame.get("file_path", ""))))
    # A frame's own values come before those for all frames.
    described = [content | frame for frame in frames]
    size = checks.grid(source, _size(source, described), height, width)
    poses = [reading.entry(f"{source}: frame {i}", frame, "transform_matrix") for i, frame in enumerate(frames)]
    opengl = checks.rigid(source, "transform_matrix", poses)
    intrinsics = [_intrinsics(f"{source}: frame {i}", frame, *size) for i, frame in enumerate(described)]
    return PoseFile(
        camera=checks.camera(source, np.stack(intrinsics), opengl @ _OPENGL_FROM_OPENCV, *size),
        format="nerfstudio transforms.json",
        path=path,
        names=tuple(str(frame.get("file_path", "")) for frame in frames),
    )


def _size(source: str, frames: list[dict[str, Any]]) -> tuple[int, int] | None:
    """(height, width) that all frames share, or None where the file does not say."""
    sizes = {(frame.get("h"), frame.get("w")) for frame in frames}
    if len(sizes) > 1:
        raise UserError(f"{source}: its frames have {len(sizes)} different sizes; expected one")
    height, width = sizes.pop()
    if height is None or width is None:
        return None
    return reading.positive_integer(source, "h", height), reading.positive_integer(source, "w", width)


def _intrinsics(source: str, frame: dict[str, Any], height: int, width: int) -> np.ndarray:
    """`[3, 3]` intrinsics of one frame."""
    model = frame.get("camera_model", "OPENCV")
    if model not in ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE"):
        raise UserError(f"{source}: the camera model is {model!r}; expected a pinhole: undistort the images first")
    distortion = {name: frame[name] for name in _DISTORTION if frame.get(name)}
    if distortion:
        raise UserError(f"{source}: its lens is distorted ({distortion}); expected none: undistort the images first")

    def number(name: str, default: float | None = None) -> float:
        value = default if name not in frame and default is not None else reading.entry(source, frame, name)
        return float(checks.array(source, name, value, ()))

    if "fl_x" in frame:
        fx = number("fl_x")
    else:
        fx = 0.5 * width / math.tan(0.5 * number("camera_angle_x"))
    if "fl_y" not in frame and "camera_angle_y" in frame:
        fy = 0.5 * height / math.tan(0.5 * number("camera_angle_y"))
    else:
        fy = number("fl_y", fx)
    return checks.pinhole(fx, fy, number("cx", 0.5 * width), number("cy", 0.5 * height))

"""nerfstudio, instant-ngp and Blender: `transforms.json`, the viewer's `camera_path.json`, exported cameras.

All are camera-to-world with OpenGL axes (x right, y up, z back), so y and z of the camera are flipped on the way in. In
`transforms.json`, intrinsics are for all frames (`fl_x fl_y cx cy w h`, or Blender's `camera_angle_x`) or for each, and
frames come in the order of their file names. The viewer gives every key a `fov`, in degrees from top to bottom, and one
size to render at. What `ns-export cameras` writes, a list of `file_path` and `transform`, tells no lens.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from mirage_jax import io
from mirage_jax.errors import UserError
from mirage_jax.geometry.pose_files import checks
from mirage_jax.geometry.pose_files.record import Record

_OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
_PINHOLES = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE")
_DISTORTION = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")


_UNSTATED = (1000, 1000)  # any size: what is stated as an angle is for images of every size


def read(path: Path, content: dict[str, Any], asked: tuple[int, int] | None = None) -> Record:
    """Reads a `transforms.json`, with images of `asked` (height, width) where it does not say how large they are.

    Raises `UserError` if it is not in the format, or a pose is not rigid.
    """
    source = str(path)
    frames = content["frames"]
    if not isinstance(frames, list) or not frames or not all(isinstance(frame, dict) for frame in frames):
        raise UserError(f"{source}: 'frames' is not a list of frames; expected at least one, each an object")
    frames = _by_name(frames)
    # A frame's own values come before those for all frames.
    described = [content | frame for frame in frames]
    sizes = [_size(f"{source}: frame {i}", frame) for i, frame in enumerate(described)]
    poses = [io.entry(f"{source}: frame {i}", frame, "transform_matrix") for i, frame in enumerate(frames)]
    opengl = checks.rigid(source, "transform_matrix", poses)
    matrices = [
        _intrinsics(f"{source}: frame {i}", frame, *(size or asked or _UNSTATED))
        for i, (frame, size) in enumerate(zip(described, sizes, strict=True))
    ]
    distorted = (_distortion(f"{source}: frame {i}", frame) for i, frame in enumerate(described))
    return Record(
        format="nerfstudio transforms.json",
        path=path,
        source=source,
        cam2world=opengl @ _OPENGL_FROM_OPENCV,
        intrinsics=np.stack(matrices),
        sizes=None if None in sizes else np.array(sizes),
        distortion=next(filter(None, distorted), ""),
        names=_names(frames),
    )


def read_viewer(path: Path, content: dict[str, Any]) -> Record:
    """Reads the `camera_path.json` of the viewer. Raises `UserError` if it is not in the format."""
    source = str(path)
    keys = content["camera_path"]
    if not isinstance(keys, list) or not keys or not all(isinstance(key, dict) for key in keys):
        raise UserError(f"{source}: 'camera_path' is not a list of cameras; expected at least one, each an object")
    size = [io.positive_integer(source, name, content.get(name)) for name in ("render_height", "render_width")]
    poses = [io.entry(f"{source}: frame {i}", key, "camera_to_world") for i, key in enumerate(keys)]
    rows = checks.array(source, "camera_to_world", poses, (None, 16)).reshape(-1, 4, 4)
    views = [_angle(f"{source}: frame {i}", content | key, "fov", 180.0) for i, key in enumerate(keys)]
    focal = 0.5 * size[0] / np.tan(np.radians(views) / 2)
    kind = content.get("camera_type", "perspective")
    return Record(
        format="nerfstudio camera_path.json",
        path=path,
        source=source,
        cam2world=checks.rigid(source, "camera_to_world", rows) @ _OPENGL_FROM_OPENCV,
        intrinsics=checks.pinhole(focal, focal, 0.5 * size[1], 0.5 * size[0]),
        sizes=np.array(size),
        distortion="" if kind == "perspective" else f"{source}: its camera is {io.shown(repr(kind))}, not a pinhole",
    )


def read_export(path: Path, frames: list[dict[str, Any]]) -> Record:
    """Reads the list that `ns-export cameras` writes. Raises `UserError` if it is not in the format."""
    frames = _by_name(frames)
    opengl = checks.rigid(str(path), "transform", [frame["transform"] for frame in frames])
    cam2world = opengl @ _OPENGL_FROM_OPENCV
    form = "cameras exported by nerfstudio"
    return Record(format=form, path=path, source=str(path), cam2world=cam2world, names=_names(frames))


def _by_name(frames: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(frames, key=lambda frame: io.natural(str(frame.get("file_path", ""))))


def _names(frames: list[dict[str, Any]]) -> tuple[str, ...]:
    return tuple(str(frame.get("file_path", "")) for frame in frames)


def _size(source: str, frame: dict[str, Any]) -> tuple[int, int] | None:
    """(height, width) of a frame, or None where the file does not say."""
    if frame.get("h") is None or frame.get("w") is None:
        return None
    return io.positive_integer(source, "h", frame["h"]), io.positive_integer(source, "w", frame["w"])


def _distortion(source: str, frame: dict[str, Any]) -> str:
    """What of a frame's lens a pinhole is not, or ""."""
    model = frame.get("camera_model", "OPENCV")
    if model not in _PINHOLES:
        return f"{source}: the camera model is {io.shown(repr(model))}"
    found = {name: frame[name] for name in _DISTORTION if frame.get(name)}
    return f"{source}: its lens is distorted ({io.shown(found)})" if found else ""


def _angle(source: str, frame: dict[str, Any], name: str, most: float) -> float:
    """An angle of view, above 0 and below `most`."""
    value = float(checks.array(source, name, io.entry(source, frame, name), ()))
    if not 0 < value < most:
        raise UserError(f"{source}: '{name}' is {value:g}; expected an angle of view, above 0 and below {most:g}")
    return value


def _intrinsics(source: str, frame: dict[str, Any], height: int, width: int) -> np.ndarray:
    """`[3, 3]` intrinsics of one frame."""

    def number(name: str, default: float) -> float:
        return float(checks.array(source, name, frame.get(name, default), ()))

    def focal(name: str, angle: str, extent: int) -> float:
        if name in frame:
            return number(name, 0.0)
        return 0.5 * extent / math.tan(0.5 * _angle(source, frame, angle, math.pi))

    fx = focal("fl_x", "camera_angle_x", width)
    fy = focal("fl_y", "camera_angle_y", height) if "fl_y" in frame or "camera_angle_y" in frame else fx
    return checks.pinhole(fx, fy, number("cx", 0.5 * width), number("cy", 0.5 * height))

"""COLMAP models: `cameras` and `images`, as `.txt` or `.bin`.

Poses are quaternions `w x y z` and translations, world-to-camera, OpenCV axes. Frames come
in the order of their image names.
"""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path

import numpy as np

from mirage_jax.errors import UserError
from mirage_jax.geometry.pose_files import checks, reading
from mirage_jax.geometry.pose_files.record import PoseFile

# Number in binary files -> name and number of parameters.
_MODELS = {
    0: ("SIMPLE_PINHOLE", 3),
    1: ("PINHOLE", 4),
    2: ("SIMPLE_RADIAL", 4),
    3: ("RADIAL", 5),
    4: ("OPENCV", 8),
    5: ("OPENCV_FISHEYE", 8),
    6: ("FULL_OPENCV", 12),
    7: ("FOV", 5),
    8: ("SIMPLE_RADIAL_FISHEYE", 4),
    9: ("RADIAL_FISHEYE", 5),
    10: ("THIN_PRISM_FISHEYE", 12),
}
# Models that are a pinhole once their distortion is nought -> number of focal lengths.
_FOCALS = {"SIMPLE_PINHOLE": 1, "PINHOLE": 2, "SIMPLE_RADIAL": 1, "RADIAL": 1, "OPENCV": 2, "FULL_OPENCV": 2}


@dataclasses.dataclass(frozen=True)
class _Lens:
    """A line of `cameras`: model, image size and parameters."""

    model: str
    width: int
    height: int
    parameters: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class _View:
    """A line of `images`: name, camera, quaternion `w x y z` and translation, world-to-camera."""

    name: str
    lens: int
    pose: tuple[float, ...]


def model_folder(folder: Path) -> Path | None:
    """The folder with the model, which may be `folder/sparse/0`, or None if there is none."""
    for candidate in (folder, folder / "sparse" / "0", folder / "sparse"):
        for suffix in (".bin", ".txt"):
            if (candidate / f"images{suffix}").exists() and (candidate / f"cameras{suffix}").exists():
                return candidate
    return None


def read(folder: Path, height: int | None, width: int | None) -> PoseFile:
    """Reads the model in `folder`; binary files come before text where there are both.

    Raises:
      UserError: if a file is not in the format, the images differ in size, a lens is distorted, or
        a pose is not rigid.
    """
    binary = (folder / "images.bin").exists() and (folder / "cameras.bin").exists()
    suffix = ".bin" if binary else ".txt"
    lenses_path, views_path = folder / f"cameras{suffix}", folder / f"images{suffix}"
    lenses = _binary_lenses(lenses_path) if binary else _text_lenses(lenses_path)
    views = _binary_views(views_path) if binary else _text_views(views_path)
    if not views:
        raise UserError(f"{views_path} holds no images; expected at least one")
    views = sorted(views, key=lambda view: reading.natural(view.name))
    for view in views:
        if view.lens not in lenses:
            raise UserError(f"{views_path}: image {view.name} has camera {view.lens}, which {lenses_path.name} lacks")
    used = {view.lens: lenses[view.lens] for view in views}
    sizes = {(lens.height, lens.width) for lens in used.values()}
    if len(sizes) > 1:
        raise UserError(f"{lenses_path}: the cameras have {len(sizes)} different image sizes; expected one")
    size = checks.grid(str(lenses_path), sizes.pop(), height, width)
    intrinsics = {number: _intrinsics(f"{lenses_path}: camera {number}", lens) for number, lens in used.items()}
    poses = np.stack([_world2cam(f"{views_path}: image {view.name}", view) for view in views])
    cam2world = checks.inverse(checks.rigid(str(views_path), "world-to-camera", poses))
    return PoseFile(
        camera=checks.camera(str(lenses_path), np.stack([intrinsics[v.lens] for v in views]), cam2world, *size),
        format=f"COLMAP model ({'binary' if binary else 'text'})",
        path=folder,
        names=tuple(view.name for view in views),
    )


def _intrinsics(source: str, lens: _Lens) -> np.ndarray:
    """`[3, 3]` intrinsics of a lens without distortion."""
    focals = _FOCALS.get(lens.model)
    if focals is None or any(lens.parameters[focals + 2 :]):
        raise UserError(f"{source} has a distorted lens ({lens.model}); expected a pinhole: undistort the images first")
    if len(lens.parameters) < focals + 2:
        raise UserError(f"{source} has {len(lens.parameters)} parameters; expected {focals + 2} for {lens.model}")
    fx, fy = lens.parameters[0], lens.parameters[focals - 1]
    return checks.pinhole(fx, fy, *lens.parameters[focals : focals + 2])


def _world2cam(source: str, view: _View) -> np.ndarray:
    """`[4, 4]` world-to-camera of a view."""
    w, x, y, z, *translation = view.pose
    length = np.sqrt(w * w + x * x + y * y + z * z)
    if not 0.5 < length < 2.0:
        raise UserError(f"{source} has a quaternion of length {length:.3g}; expected 1")
    w, x, y, z = (component / length for component in (w, x, y, z))
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, 3] = translation
    return matrix


def _text_lenses(path: Path) -> dict[int, _Lens]:
    lenses = {}
    for line in reading.lines(path):
        number, model, *rest = [*line.split(None, 2), "", ""][:3]
        values = reading.numbers(f"{path}: camera {number}", " ".join(rest), len(" ".join(rest).split()))
        if not number.isdigit() or len(values) < 3:
            raise UserError(f"{path}: found '{line[:60]}'; expected CAMERA_ID MODEL WIDTH HEIGHT PARAMETERS")
        width, height = (reading.positive_integer(f"{path}: camera {number}", "size", value) for value in values[:2])
        lenses[int(number)] = _Lens(model, width, height, tuple(values[2:]))
    return lenses


def _text_views(path: Path) -> list[_View]:
    """Two lines an image; the second holds its points, and may be blank."""
    views = []
    lines = iter([line.strip() for line in reading.text(path).splitlines() if not line.startswith("#")])
    for line in lines:
        if not line:
            continue
        words = line.split(None, 9)
        if len(words) != 10 or not words[8].isdigit():
            raise UserError(f"{path}: found '{line[:60]}'; expected IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME")
        pose = reading.numbers(f"{path}: image {words[9]}", " ".join(words[1:8]), 7)
        views.append(_View(words[9], int(words[8]), tuple(pose)))
        next(lines, None)
    return views


class _Cursor:
    """Takes little-endian values off the front of a binary file."""

    def __init__(self, path: Path):
        self._path, self._data, self._at = path, reading.data(path), 0

    def take(self, form: str) -> tuple:
        try:
            values = struct.unpack_from(f"<{form}", self._data, self._at)
        except struct.error:
            raise UserError(f"{self._path} ends after {len(self._data)} bytes; is it complete?") from None
        self.skip(struct.calcsize(f"<{form}"))
        return values

    def name(self) -> str:
        end = self._data.find(b"\0", self._at)
        if end < 0:
            raise UserError(f"{self._path} ends within an image name; is it complete?")
        raw = self._data[self._at : end]
        self._at = end + 1
        return raw.decode("utf-8", errors="replace")

    def skip(self, count: int) -> None:
        self._at = min(self._at + count, len(self._data))


def _binary_lenses(path: Path) -> dict[int, _Lens]:
    cursor, lenses = _Cursor(path), {}
    for _ in range(cursor.take("Q")[0]):
        number, model, width, height = cursor.take("iiQQ")
        if model not in _MODELS:
            raise UserError(f"{path}: camera {number} has model number {model}; expected 0 to {max(_MODELS)}")
        name, count = _MODELS[model]
        lenses[number] = _Lens(name, width, height, cursor.take(f"{count}d"))
    return lenses


def _binary_views(path: Path) -> list[_View]:
    cursor, views = _Cursor(path), []
    for _ in range(cursor.take("Q")[0]):
        _, *pose, lens = cursor.take("i7di")
        name = cursor.name()
        cursor.skip(24 * cursor.take("Q")[0])  # points in the image: x, y, number of the 3D point
        views.append(_View(name, lens, tuple(pose)))
    return views

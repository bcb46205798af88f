"""COLMAP models: `cameras` and `images`, as `.txt` or `.bin`.

Poses are quaternions `w x y z` and translations, world-to-camera, OpenCV axes. Frames come
in the order of their image names.
"""

from __future__ import annotations

import dataclasses
import re
import struct
from pathlib import Path

import numpy as np

from mirage_jax import io
from mirage_jax.errors import UserError
from mirage_jax.geometry.pose_files import checks
from mirage_jax.geometry.pose_files.record import Record

FILES = ("cameras.txt", "images.txt", "cameras.bin", "images.bin")
"""Of a model, without its points."""

# Number in binary files -> name, number of parameters, and how many of the first are focal lengths.
_MODELS = {
    0: ("SIMPLE_PINHOLE", 3, 1),
    1: ("PINHOLE", 4, 2),
    2: ("SIMPLE_RADIAL", 4, 1),
    3: ("RADIAL", 5, 1),
    4: ("OPENCV", 8, 2),
    5: ("OPENCV_FISHEYE", 8, 2),
    6: ("FULL_OPENCV", 12, 2),
    7: ("FOV", 5, 2),
    8: ("SIMPLE_RADIAL_FISHEYE", 4, 1),
    9: ("RADIAL_FISHEYE", 5, 1),
    10: ("THIN_PRISM_FISHEYE", 12, 2),
    11: ("RAD_TAN_THIN_PRISM_FISHEYE", 16, 2),
}
_FOCALS = {name: focals for name, _, focals in _MODELS.values()}
# Models that are a pinhole once their distortion is nought.
_PINHOLES = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV")
_IMAGE_COUNT = re.compile(r"#\s*Number of images:\s*([0-9]{1,18})")


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


def read(folder: Path) -> Record:
    """Reads the model in `folder`; binary files come before text where there are both.

    Raises `UserError` if a file is not in the format, or a pose is not rigid.
    """
    binary = (folder / "images.bin").exists() and (folder / "cameras.bin").exists()
    suffix = ".bin" if binary else ".txt"
    lenses_path, views_path = folder / f"cameras{suffix}", folder / f"images{suffix}"
    lenses = _binary_lenses(lenses_path) if binary else _text_lenses(lenses_path)
    views = _binary_views(views_path) if binary else _text_views(views_path)
    if not views:
        raise UserError(f"{views_path} holds no images; expected at least one")
    views = sorted(views, key=lambda view: io.natural(view.name))
    for view in views:
        if view.lens not in lenses:
            raise UserError(
                f"{views_path}: image {io.shown(view.name)} has camera {view.lens}, which {lenses_path.name} lacks"
            )
    used = {view.lens: lenses[view.lens] for view in views}
    intrinsics = {number: _intrinsics(f"{lenses_path}: camera {number}", lens) for number, lens in used.items()}
    world2cam = np.tile(np.eye(4), (len(views), 1, 1))
    world2cam[:, :3, :3] = checks.rotations(str(views_path), "qw qx qy qz", [view.pose[:4] for view in views])
    world2cam[:, :3, 3] = [view.pose[4:] for view in views]
    bent = [number for number, lens in used.items() if _is_distorted(lens)]
    return Record(
        format=f"COLMAP model ({'binary' if binary else 'text'})",
        path=folder,
        source=str(lenses_path),
        cam2world=checks.inverse(checks.rigid(str(views_path), "world-to-camera", world2cam)),
        intrinsics=np.stack([intrinsics[view.lens] for view in views]),
        sizes=np.array([(used[view.lens].height, used[view.lens].width) for view in views]),
        distortion=f"{lenses_path}: camera {bent[0]} has a distorted lens ({used[bent[0]].model})" if bent else "",
        names=tuple(view.name for view in views),
    )


def _is_distorted(lens: _Lens) -> bool:
    return lens.model not in _PINHOLES or any(lens.parameters[_FOCALS[lens.model] + 2 :])


def _intrinsics(source: str, lens: _Lens) -> np.ndarray:
    """`[3, 3]` intrinsics of a lens, but for its distortion."""
    if lens.model not in _FOCALS:
        raise UserError(f"{source} has a lens of model {io.shown(repr(lens.model))}; expected one of COLMAP's")
    focals = _FOCALS[lens.model]
    if len(lens.parameters) < focals + 2:
        raise UserError(f"{source} has {len(lens.parameters)} parameters; expected {focals + 2} for {lens.model}")
    fx, fy = lens.parameters[0], lens.parameters[focals - 1]
    return checks.pinhole(fx, fy, *lens.parameters[focals : focals + 2])


def _text_lenses(path: Path) -> dict[int, _Lens]:
    lenses = {}
    for line in io.read_lines(path):
        number, model, *rest = [*line.split(None, 2), "", ""][:3]
        where = f"{path}: camera {io.shown(number)}"
        values = io.numbers(where, " ".join(rest), len(" ".join(rest).split()))
        if not _is_number(number) or len(values) < 3:
            raise UserError(f"{path}: found '{io.shown(line)}'; expected CAMERA_ID MODEL WIDTH HEIGHT PARAMETERS")
        width, height = (io.positive_integer(where, "size", value) for value in values[:2])
        lenses[int(number)] = _Lens(model, width, height, tuple(values[2:]))
    return lenses


def _text_views(path: Path) -> list[_View]:
    """Two lines an image; the second holds its points, and may be blank."""
    rows = io.read_text(path).splitlines()
    stated = [int(found[1]) for row in rows if (found := _IMAGE_COUNT.match(row.strip()))]
    lines = [line.strip() for line in rows if not line.startswith("#")]
    views, place = [], 0
    while place < len(lines):
        if not lines[place]:
            place += 1
            continue
        view = _view(lines[place])
        if view is None:
            raise UserError(
                f"{path}: found '{io.shown(lines[place])}'; expected IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME"
            )
        if place + 1 < len(lines) and _view(lines[place + 1]) is not None:
            images = sum(_view(line) is not None for line in lines)
            raise UserError(
                f"{path}: {images} lines are of images and {sum(map(bool, lines)) - images} of their points; expected "
                f"a line of points, blank if there are none, after each of the {images} (were blank lines stripped?)"
            )
        views.append(view)
        place += 2
    if stated and stated[0] != len(views):
        raise UserError(f"{path} holds {len(views)} images, its header says {stated[0]}; is it complete?")
    return views


def _view(line: str) -> _View | None:
    """What a line says of an image; None if it is no such line, but one of points, say."""
    words = line.split(None, 9)
    if len(words) != 10 or not _is_number(words[0]) or not _is_number(words[8]) or not _are_numbers(words[1:8]):
        return None
    rest = words[9].split()
    if len(rest) > 1 and _are_numbers(rest):  # as points are to the end of their line; ten numbers are no points
        return None
    return _View(words[9], int(words[8]), tuple(map(float, words[1:8])))


def _are_numbers(words: list[str]) -> bool:
    try:
        return all(float(word) is not None for word in words)
    except ValueError:
        return False


def _is_number(word: str) -> bool:
    return re.fullmatch(r"[0-9]{1,9}", word) is not None


class _Cursor:
    """Takes little-endian values off the front of a binary file."""

    def __init__(self, path: Path):
        self._path, self._data, self._at = path, io.read_bytes(path), 0

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
        name, count, _ = _MODELS[model]
        where = f"{path}: camera {number}"
        width, height = (io.positive_integer(where, "size", value) for value in (width, height))
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

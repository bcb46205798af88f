"""Depth maps and masks that lie beside the pictures of a scene, frame by frame.

What `Maps` calls moving is what must not be kept: in ViPE results every segmented instance but the sky, whose depth
becomes inf; where a mask says what to keep (nerfstudio, the PyTorch release), all the rest.
"""

from __future__ import annotations

import dataclasses
import pathlib
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import PIL.Image

from experiments.posed_video import pictures
from mirage_jax import io
from mirage_jax.errors import UserError
from mirage_jax.geometry import Camera
from mirage_jax.geometry.pose_files import DepthMaps

_DAMAGE = (OSError, SyntaxError, ValueError, RuntimeError, EOFError, zlib.error, zipfile.BadZipFile)
_MILLIMETRE = 1e-3
_ON_BORDER = 1e-4  # a cell whose centre is on the border of two cells, up to rounding, takes the latter


@dataclasses.dataclass(frozen=True)
class Maps:
    """What is known of one frame; the two may be on different grids, over the same view."""

    depth: np.ndarray | None = None  # [h, w] z-depth in scene units; inf = sky, 0 = unknown
    moving: np.ndarray | None = None  # bool [h, w]


@dataclasses.dataclass(frozen=True)
class Depth:
    """Depth and masks of a scene.

    Attributes:
      camera: `Camera[T]` of the view that the maps cover, on any grid.
      maps: gives those of a frame, by its place among the cameras.
    """

    camera: Camera
    maps: Callable[[int], Maps]

    def on(self, target: Camera, frame: int) -> tuple[np.ndarray, np.ndarray]:
        """Depth float32 and moving bool `[H, W]` of a frame on the grid of `target`, one camera; 0 where unknown.

        Every cell takes the value of the nearest one: between near and far there is nothing.
        """
        found = self.maps(frame)
        size = target.height, target.width
        depth, moving = np.zeros(size, np.float32), np.zeros(size, bool)
        if found.depth is not None:
            depth = self._nearest(found.depth, target, frame, depth)
            depth = np.where(depth > 0, depth, 0).astype(np.float32)  # NaN compares false
        if found.moving is not None:
            moving = self._nearest(found.moving, target, frame, moving)
        return depth, moving

    def _nearest(self, values: np.ndarray, target: Camera, frame: int, missing: np.ndarray) -> np.ndarray:
        """`values` on the grid of `target`, and `missing` where they do not reach."""
        rows, columns = values.shape
        own = np.diag([columns / self.camera.width, rows / self.camera.height, 1.0]) @ self.camera.intrinsics[frame]
        own_from_target = own @ np.linalg.inv(np.asarray(target.intrinsics, np.float64))
        v, u = np.mgrid[: target.height, : target.width] + 0.5
        x, y, _ = np.floor(np.einsum("ij,jvu->ivu", own_from_target, np.stack([u, v, np.ones_like(u)])) + _ON_BORDER)
        inside = (x >= 0) & (x < columns) & (y >= 0) & (y < rows)
        result = missing.astype(values.dtype)
        result[inside] = values[y[inside].astype(int), x[inside].astype(int)]
        return result


def from_arrays(found: DepthMaps) -> Depth:
    """Of maps that came with the cameras."""
    return Depth(found.camera, lambda frame: Maps(found.depth[frame], ~found.keep[frame]))


def from_vipe(depth: pathlib.Path, mask: pathlib.Path, names: Sequence[str], camera: Camera) -> Depth | None:
    """Of ViPE results, if they have any.

    Args:
      depth: zip of EXR files `00000.exr` with a channel `Z`, which may be missing.
      mask: zip of PNG files of instance numbers, 0 for none; `NAME.txt` beside it says what the numbers are.
      names: number of every frame.
      camera: `Camera[T]` of the frames.
    """
    archives = {path: _archive(path) for path in (depth, mask) if path.exists()}
    if not archives:
        return None
    sky = _sky(mask.with_suffix(".txt"))

    def maps(frame: int) -> Maps:
        number = f"{int(names[frame]):05d}"
        metres = _entry(archives, depth, f"{number}.exr", _exr)
        instances = _entry(archives, mask, f"{number}.png", lambda file: np.asarray(PIL.Image.open(file)))
        if instances is None:
            return Maps(metres)
        is_sky = np.isin(instances, sky)
        if metres is not None and is_sky.any():
            if is_sky.shape != metres.shape:
                raise UserError(
                    f"{mask}: frame {number} is {is_sky.shape}, its depth {metres.shape}; expected the same"
                )
            metres = np.where(is_sky, np.inf, metres)
        return Maps(metres, (instances != 0) & ~is_sky)

    return Depth(camera, maps)


def from_nerfstudio(folder: pathlib.Path, frames: Sequence[Mapping[str, Any]], camera: Camera) -> Depth | None:
    """Of the files that a `transforms.json` names, if it does.

    Args:
      folder: where its paths begin.
      frames: entries of the frames; `depth_file_path` is a 16 bit picture or `.npy` of millimetres, `mask_path` a
        picture that is black where nothing is to be kept.
      camera: `Camera[T]` of the frames.
    """
    if not any("depth_file_path" in frame or "mask_path" in frame for frame in frames):
        return None

    def maps(index: int) -> Maps:
        frame = frames[index]
        depth, mask = frame.get("depth_file_path"), frame.get("mask_path")
        return Maps(
            depth=None if depth is None else _millimetres(folder / depth) * np.float32(_MILLIMETRE),
            moving=None if mask is None else np.asarray(pictures.load(folder / mask).convert("L")) == 0,
        )

    return Depth(camera, maps)


def _millimetres(path: pathlib.Path) -> np.ndarray:
    if path.suffix != ".npy":
        values = np.asarray(pictures.load(path))
    else:
        try:
            values = np.load(path, allow_pickle=False)
        except _DAMAGE as error:
            raise UserError(f"{path}: cannot be read ({error})") from error
    if values.ndim != 2 or values.dtype == np.uint8:
        raise UserError(f"{path}: found {values.dtype} {values.shape}, expected depth in millimetres [h, w]")
    return values.astype(np.float32)


def _archive(path: pathlib.Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except _DAMAGE as error:
        raise UserError(f"{path} is not a zip file that can be read ({error})") from error


def _entry(
    archives: Mapping[pathlib.Path, zipfile.ZipFile],
    path: pathlib.Path,
    name: str,
    decode: Callable[[BytesIO], np.ndarray],
) -> np.ndarray | None:
    """A map in an archive, or None if it has none of that name. Raises `UserError` if it is damaged."""
    if path not in archives:
        return None
    try:
        entry = archives[path].getinfo(name)
    except KeyError:
        return None
    try:
        value = decode(BytesIO(archives[path].read(entry)))
    except (KeyError, *_DAMAGE) as error:  # KeyError: there is no channel Z
        raise UserError(f"{path}: {name} cannot be read ({error})") from error
    if value.ndim != 2:
        raise UserError(f"{path}: {name} is of shape {value.shape}, expected a map [h, w]")
    return value


def _exr(file: BytesIO) -> np.ndarray:
    """Channel `Z` of an EXR file as float32."""
    import OpenEXR  # here, so that only those who have such files need the package

    with OpenEXR.File(file) as opened:
        return np.asarray(opened.channels()["Z"].pixels, np.float32)


def _sky(path: pathlib.Path) -> list[int]:
    """Numbers of the instances that are sky, from lines `number: phrase`."""
    if not path.exists():
        return []
    rows = (line.partition(":") for line in io.read_lines(path))
    return [int(number) for number, _, phrase in rows if number.strip().isdigit() and phrase.strip().lower() == "sky"]

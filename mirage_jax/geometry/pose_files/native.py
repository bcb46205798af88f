"""Our own camera files: JSON for people, npz for many frames. Both keep every bit."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from mirage_jax import io
from mirage_jax.errors import UserError
from mirage_jax.geometry.camera import Camera
from mirage_jax.geometry.pose_files import checks
from mirage_jax.geometry.pose_files.record import Record

FORMAT = "mirage-jax cameras"
VERSION = 1
_CONVENTION = "camera-to-world, OpenCV axes (x right, y down, z forward); pixel centres at .5"


def write_json(path: str | os.PathLike[str], camera: Camera) -> None:
    """Writes `Camera[T]` as JSON, one frame a line.

    Raises:
      UserError: if `path` cannot be written.
      ValueError: if `camera` is a single camera, or not finite.
    """
    intrinsics, cam2world = _arrays(camera)
    head = {
        "format": FORMAT,
        "version": VERSION,
        "convention": _CONVENTION,
        "height": camera.height,
        "width": camera.width,
    }
    parts = [f'  "{name}": {json.dumps(value)}' for name, value in head.items()]
    for name, matrices in (("intrinsics", intrinsics), ("cam2world", cam2world)):
        rows = ",\n".join(f"    {json.dumps(matrix)}" for matrix in matrices.astype(np.float64).tolist())
        parts.append(f'  "{name}": [\n{rows}\n  ]')
    io.write_text(path, "{\n" + ",\n".join(parts) + "\n}\n")


def write_npz(path: str | os.PathLike[str], camera: Camera) -> None:
    """Writes `Camera[T]` as npz. Raises as `write_json` does; `path` must end in `.npz`."""
    if Path(path).suffix != ".npz":
        raise UserError(f"cannot write cameras to {path}; expected a name that ends in .npz")
    intrinsics, cam2world = _arrays(camera)
    with io.atomic_path(path) as temporary:
        np.savez_compressed(
            temporary,
            format=np.array(FORMAT),
            version=np.array(VERSION),
            convention=np.array(_CONVENTION),
            height=np.array(camera.height),
            width=np.array(camera.width),
            intrinsics=intrinsics,
            cam2world=cam2world,
        )


def read_json(path: Path) -> Record:
    """Reads what `write_json` wrote. Raises `UserError` if it is not that."""
    content = io.read_json_object(path)
    names = ("version", "height", "width", "intrinsics", "cam2world")
    return _checked(path, f"{FORMAT} (JSON)", {name: io.entry(str(path), content, name) for name in names})


def read_npz(path: Path) -> Record:
    """Reads what `write_npz` wrote. Raises `UserError` if it is not that."""
    arrays = io.Arrays(path)
    values = {name: arrays[name] for name in ("intrinsics", "cam2world")}
    values |= {name: arrays[name].tolist() for name in ("version", "height", "width")}
    return _checked(path, f"{FORMAT} (npz)", values)


def _checked(path: Path, form: str, values: dict[str, Any]) -> Record:
    source = str(path)
    if values["version"] != VERSION:
        raise UserError(f"{source}: the format version is {io.shown(repr(values['version']))}; expected {VERSION}")
    height, width = (io.positive_integer(source, name, values[name]) for name in ("height", "width"))
    cam2world = checks.rigid(source, "cam2world", values["cam2world"])
    return Record(
        format=form,
        path=path,
        source=source,
        cam2world=cam2world,
        intrinsics=values["intrinsics"],
        sizes=(height, width),
    )


def _arrays(camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Float32 `[T, 3, 3]` and `[T, 4, 4]` of a camera to be written."""
    intrinsics, cam2world = (np.asarray(x, np.float32) for x in (camera.intrinsics, camera.cam2world))
    if cam2world.ndim != 3:
        raise ValueError(f"only an array of cameras with one leading axis can be written, got {camera.shape}")
    if not (np.isfinite(intrinsics).all() and np.isfinite(cam2world).all()):
        raise ValueError("cameras with NaN or infinity cannot be written")
    return np.broadcast_to(intrinsics, (len(cam2world), 3, 3)), cam2world

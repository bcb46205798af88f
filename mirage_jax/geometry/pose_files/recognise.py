"""One door for every camera file: look at it, say what it is, read it."""

from __future__ import annotations

import os
from pathlib import Path

from mirage_jax.errors import UserError
from mirage_jax.geometry.pose_files import colmap, native, nerfstudio, reading, realestate, release, spatia, vipe
from mirage_jax.geometry.pose_files.record import PoseFile

_KNOWN = (
    "cameras.json or npz of ours, RealEstate10K text, a Spatia case folder, a COLMAP model, "
    "nerfstudio transforms.json, ViPE results, or geometry.npz of the PyTorch release"
)


def load(path: str | os.PathLike[str], *, height: int | None = None, width: int | None = None) -> PoseFile:
    """Reads cameras from a file or folder of any known format, recognised by its content.

    Args:
      path: the file or folder.
      height, width: size of the images, in pixels. Formats with normalised intrinsics or none of
        their own take it; a format that states another size is an error.

    Returns:
      The cameras, checked; `str()` of it says what was recognised.

    Raises:
      UserError: naming the file, the frame where there is one, what was found and expected.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"there is no file or folder {path}")
    if (height is None) != (width is None):
        raise ValueError("height and width are given together or not at all")
    return (_load_folder if path.is_dir() else _load_file)(path, height, width)


def _load_folder(folder: Path, height: int | None, width: int | None) -> PoseFile:
    if (folder / "w2c.txt").exists():
        return spatia.read(folder, height, width)
    model = colmap.model_folder(folder)
    if model:
        return colmap.read(model, height, width)
    pose_path = vipe.pose_path(folder)
    if pose_path:
        return vipe.read(pose_path, height, width)
    for name in ("cameras.json", "transforms.json", "geometry.npz"):
        if (folder / name).exists():
            return _load_file(folder / name, height, width)
    raise UserError(f"{folder} holds no camera file that is known here; expected {_KNOWN}")


def _load_file(path: Path, height: int | None, width: int | None) -> PoseFile:
    if path.name == "w2c.txt":
        return spatia.read(path.parent, height, width)
    if path.name in ("cameras.txt", "images.txt", "cameras.bin", "images.bin") and colmap.model_folder(path.parent):
        return colmap.read(path.parent, height, width)
    if path.suffix == ".json":
        return _load_json(path, height, width)
    if path.suffix == ".npz":
        return _load_npz(path, height, width)
    if path.suffix == ".txt" and realestate.recognised(path):
        return realestate.read(path, height, width)
    raise UserError(f"{path} is no camera file that is known here; expected {_KNOWN}")


def _load_json(path: Path, height: int | None, width: int | None) -> PoseFile:
    content = reading.json_object(path)
    if content.get("format") == native.FORMAT:
        return native.read_json(path, height, width)
    if "frames" in content:
        return nerfstudio.read(path, height, width)
    raise UserError(f"{path} is JSON, but neither cameras of ours ('format') nor of nerfstudio ('frames')")


def _load_npz(path: Path, height: int | None, width: int | None) -> PoseFile:
    names = reading.Arrays(path).names
    if {"cam2world", "intrinsics", "height", "width"} <= names:
        return native.read_npz(path, height, width)
    if "poses_c2w" in names:
        return release.read(path, height, width)
    if {"inds", "data"} <= names:
        return vipe.read(path, height, width)
    raise UserError(f"{path} holds {', '.join(sorted(names)) or 'nothing'}; expected cameras: {_KNOWN}")

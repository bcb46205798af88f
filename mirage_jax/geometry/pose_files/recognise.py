"""One door for every camera file: look at it, say what it is, read it; give cameras of pictures, or a path."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np

from mirage_jax import io
from mirage_jax.errors import UserError
from mirage_jax.geometry import crop
from mirage_jax.geometry.camera import Camera
from mirage_jax.geometry.pose_files import checks, colmap, native, nerfstudio, plain, realestate, release, spatia, vipe
from mirage_jax.geometry.pose_files.record import Found, PathFile, PoseFile, Record

_KNOWN = (
    "cameras.json or npz of ours, RealEstate10K text, a Spatia case folder, a COLMAP model, nerfstudio "
    "transforms.json, camera_path.json or exported cameras, ViPE results, geometry.npz of the PyTorch release, TUM or "
    "KITTI poses, or a .npy of [N, 4, 4]"
)
_IN_FOLDERS = ("cameras.json", "transforms.json", "camera_path.json", "geometry.npz")


def load(path: str | os.PathLike[str], *, height: int | None = None, width: int | None = None) -> PoseFile:
    """Reads the cameras of pictures from a file or folder of any known format, recognised by its content.

    Args:
      path: the file or folder.
      height, width: size of the images, in pixels. Formats with normalised intrinsics or none of
        their own take it; a format that states another size is an error.

    Returns:
      The cameras, checked; `str()` of it says what was recognised.

    Raises:
      UserError: naming the file, the frame where there is one, what was found and expected; also if lenses are
        distorted, missing, or for images of several sizes.
    """
    if (height is None) != (width is None):
        raise ValueError("height and width are given together or not at all")
    path = Path(path)
    with io.foreign(path, "a camera file"):
        record = _read(path, None if height is None or width is None else (height, width))
        if record.intrinsics is None:
            raise UserError(f"{path}: {record.format} tells poses but no lens; expected a format with intrinsics")
        if record.distortion:
            raise UserError(f"{record.distortion}; expected a pinhole: undistort the images first")
        size = _one_size(record, height, width)
        intrinsics = record.intrinsics
        if record.normalised:
            intrinsics = np.diag([size[1], size[0], 1.0]) @ intrinsics
        intrinsics = checks.lenses(record.source, intrinsics, np.tile(size, (len(record.cam2world), 1)))
        camera = Camera(intrinsics.astype(np.float32), record.cam2world.astype(np.float32), *size)
        return PoseFile(
            camera=camera, **{field.name: getattr(record, field.name) for field in dataclasses.fields(Found)}
        )


def load_path(path: str | os.PathLike[str], height: int, width: int, *, own_lens: bool = True) -> PathFile:
    """Reads a camera path for frames of `height x width`, whatever images its file is for.

    A path takes poses. Of each frame's lens it takes what is left of it when the image is cropped evenly to the shape
    of the new frames (`crop.centre_cropped`): focal length and zoom are kept, distortion is left aside.

    Args:
      path: file or folder of any known format.
      height, width: of the new frames, in pixels.
      own_lens: False leaves the file's lens aside, unchecked.

    Raises:
      UserError: as `load` does, but for lenses that are distorted, missing, or for images of other or several sizes.
    """
    path = Path(path)
    with io.foreign(path, "a camera file"):
        record = _read(path)
        if not own_lens or record.intrinsics is None:
            return PathFile(record.cam2world, None, record.format, ())
        given, sizes, notes = _sized(record)
        intrinsics = checks.lenses(record.source, given, sizes)
        across = [crop.view_angles(k, *size)[0] for k, size in ((intrinsics[0], sizes[0]), (intrinsics[-1], sizes[-1]))]
        scale = np.max([height, width] / sizes, axis=1)
        fitted = intrinsics.copy()
        fitted[:, :2] *= scale[:, None, None]
        fitted[:, :2, 2] += ([width, height] - scale[:, None] * sizes[:, ::-1]) / 2
        here = [crop.view_angles(k, height, width)[0] for k in (fitted[0], fitted[-1])]
        many = len(np.unique(sizes, axis=0))
        frames = f"images of {many} sizes" if many > 1 else f"images of {sizes[0][1]:.0f}x{sizes[0][0]:.0f}"
        zoom = "" if np.allclose(fitted[:, :2, :2], fitted[0, :2, :2]) else f", {here[1]:.1f} at the end"
        lens = f"the lens is that of the camera file: {across[0]:.1f} degrees across {frames}"
        note = f"{lens}, {here[0]:.1f} across what {width}x{height} show of them{zoom}"
        return PathFile(record.cam2world, fitted, record.format, (note, *notes))


def is_text_of_words(path: Path) -> bool:
    """Whether a file is text without a line of numbers among its first, and so none of the camera files."""
    if path.suffix != ".txt" or path.name in (*colmap.FILES, "w2c.txt") or not path.is_file():
        return False
    return plain.columns(path) is None


def _one_size(record: Record, height: int | None, width: int | None) -> tuple[int, int]:
    """(height, width) of all images: the file's own, which must agree with the one asked for, or the one asked for."""
    asked = None if height is None or width is None else (height, width)
    sizes = [] if record.sizes is None else np.unique(np.atleast_2d(record.sizes), axis=0)
    if len(sizes) > 1:
        raise UserError(f"{record.source}: its images have {len(sizes)} different sizes; expected one")
    native = (int(sizes[0][0]), int(sizes[0][1])) if len(sizes) else None
    size = asked if record.normalised and asked else native or asked
    if size is None:
        raise UserError(
            f"{record.path}: the file does not say how large its images are; expected their height and width"
        )
    if size[0] < 1 or size[1] < 1:
        raise UserError(f"{record.source}: the image size is {size[1]}x{size[0]}; expected at least 1x1 pixels")
    if asked and size != asked:
        raise UserError(
            f"{record.source}: the cameras are for images of {size[1]}x{size[0]} pixels (width x height); "
            f"expected {width}x{height}"
        )
    return size


def _sized(record: Record) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Intrinsics in pixels `[T, 3, 3]`, the image sizes `[T, 2]` that they are for, and what was assumed."""
    count, notes = len(record.cam2world), []
    single = np.shape(record.intrinsics) == (3, 3)
    k = checks.array(record.source, "intrinsics", [record.intrinsics] if single else record.intrinsics, (None, 3, 3))
    k = np.broadcast_to(k, (count, 3, 3)) if single else k
    sizes = record.sizes
    if sizes is None and record.normalised:
        notes.append("the camera file does not say how large its images are: their pixels are taken to be square")
        fx, fy = k[0, 0, 0], k[0, 1, 1]
        sizes = (1000.0, 1000.0 * fy / fx if fx > 0 and fy > 0 else 1000.0)
    elif sizes is None:
        notes.append("the camera file does not say how large its images are: their middle is taken to be its cx, cy")
        sizes = (2 * k[0, 1, 2], 2 * k[0, 0, 2])
    sizes = np.broadcast_to(np.asarray(sizes, np.float64), (count, 2))
    if record.normalised:
        k = k * np.stack([sizes[:, 1], sizes[:, 0], np.ones(count)], axis=1)[:, :, None]
    if record.distortion:
        notes.append(f"{record.distortion}: the path keeps poses and focal length, and leaves the distortion aside")
    return k, sizes, notes


def _read(path: Path, asked: tuple[int, int] | None = None) -> Record:
    """Reads a file or folder; `asked` is the (height, width) of its images where it does not say."""
    if not os.path.exists(path):
        raise UserError(f"there is no file or folder {io.shown(path)}")
    return (_read_folder if path.is_dir() else _read_file)(path, asked)


def _read_folder(folder: Path, asked: tuple[int, int] | None) -> Record:
    if (folder / "w2c.txt").exists():
        return spatia.read(folder)
    model = colmap.model_folder(folder)
    if model:
        return colmap.read(model)
    pose_path = vipe.pose_path(folder)
    if pose_path:
        return vipe.read(pose_path)
    for name in _IN_FOLDERS:
        if (folder / name).exists():
            return _read_file(folder / name, asked)
    raise UserError(f"{folder} holds no camera file that is known here; expected {_KNOWN}")


def _read_file(path: Path, asked: tuple[int, int] | None) -> Record:
    if path.name == "w2c.txt":
        return spatia.read(path.parent)
    if path.name in colmap.FILES and colmap.model_folder(path.parent):
        return colmap.read(path.parent)
    if path.suffix == ".json":
        return _read_json(path, asked)
    if path.suffix == ".npz":
        return _read_npz(path)
    if path.suffix == ".npy":
        return plain.read_matrices(path)
    if path.suffix in (".txt", ".tum", ".kitti"):
        readers = {realestate.COLUMNS: realestate.read, 8: plain.read_tum, 12: plain.read_kitti}
        if reader := readers.get(plain.columns(path) or 0):
            return reader(path)
    raise UserError(f"{path} is no camera file that is known here; expected {_KNOWN}")


def _read_json(path: Path, asked: tuple[int, int] | None) -> Record:
    content = io.read_json(path)
    if isinstance(content, list) and content and all(isinstance(x, dict) and "transform" in x for x in content):
        return nerfstudio.read_export(path, content)
    content = io.read_json_object(path)
    if content.get("format") == native.FORMAT:
        return native.read_json(path)
    if "camera_path" in content:
        return nerfstudio.read_viewer(path, content)
    if "frames" in content:
        return nerfstudio.read(path, content, asked)
    raise UserError(
        f"{path} is JSON, but holds neither what generate writes ('format') nor what nerfstudio does ('frames' or "
        "'camera_path')"
    )


def _read_npz(path: Path) -> Record:
    names = io.Arrays(path).names
    if {"cam2world", "intrinsics", "height", "width"} <= names:
        return native.read_npz(path)
    if "poses_c2w" in names:
        return release.read(path)
    if {"inds", "data"} <= names:
        return vipe.read(path)
    raise UserError(f"{path} holds {io.shown(', '.join(sorted(names))) or 'nothing'}; expected cameras: {_KNOWN}")

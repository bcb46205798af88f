"""The `geometry.npz` of the PyTorch release of Mirage.

`poses_c2w` `[T, 4, 4]` (OpenCV axes), `intrinsics` `[T, 3, 3]`, `depths` `[T, H, W]`, `masks` True =
keep, `original_size` and `processed_size` as (height, width), -1 where there was no processing;
the pictures are in it (`frames`) or beside it (`clip.mp4`, `first_frame.png`).

The depth network scales its pictures to cover `processed_size` and cuts off what hangs over, so that its depth maps see
only the middle of the frames. The release scales intrinsics as if nothing had been cut off, up to 1.2 latent cells
wrong. Here the depth maps get a camera of their own. Nothing in the file says for which of its sizes the intrinsics
are: it is the one that puts the principal point nearest to the middle.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image

from mirage_jax import io
from mirage_jax.errors import UserError
from mirage_jax.geometry.camera import Camera
from mirage_jax.geometry.crop import centre_cropped
from mirage_jax.geometry.pose_files import checks
from mirage_jax.geometry.pose_files.record import DepthMaps, Record


def read(path: Path) -> Record:
    """Reads a `geometry.npz`.

    Raises `UserError` if it is not in the format, sizes contradict each other, or a pose is not rigid.
    """
    source = str(path)
    arrays = io.Arrays(path)
    cam2world = checks.rigid(source, "poses_c2w", arrays["poses_c2w"])
    original, processed = _size(arrays, "original_size"), _size(arrays, "processed_size")
    depth_grid = _depth_size(arrays)
    full = _frame_size(path, arrays) or original or depth_grid
    candidates = [size for size in (original, full, processed, depth_grid) if size]
    intrinsics = checks.array(source, "intrinsics", arrays["intrinsics"], (None, 3, 3))
    form, depth = "geometry.npz of the PyTorch release", None
    if full:
        stated = min(candidates, key=lambda size: _off_centre(intrinsics, size))
        intrinsics = checks.lenses(source, intrinsics, np.tile(stated, (len(cam2world), 1)))
        camera = Camera(intrinsics.astype(np.float32), cam2world.astype(np.float32), *stated)
        camera = _on_host(centre_cropped(camera, *full))
        intrinsics = camera.intrinsics
        form += f" (intrinsics for {stated[1]}x{stated[0]})"
        depth = _depth(arrays, camera, processed) if depth_grid else None
    first = path.with_name("first_frame.png")
    return Record(
        format=form,
        path=path,
        source=source,
        cam2world=cam2world,
        intrinsics=intrinsics,
        sizes=full,
        image=first if first.exists() else None,
        depth=depth,
    )


def _depth(arrays: io.Arrays, camera: Camera, processed: tuple[int, int] | None) -> DepthMaps:
    """Depth maps with the camera of the part of the frames that they see."""
    depth = arrays["depths"]
    if depth.dtype.kind not in "fiu":
        raise UserError(f"{arrays.path}: 'depths' is of type {depth.dtype}; expected numbers")
    if depth.shape[0] != len(camera):
        raise UserError(
            f"{arrays.path}: there are {depth.shape[0]} depth maps for {len(camera)} poses; expected as many"
        )
    # NaN compares false, so that it becomes 0, "unknown", with everything not in front of the camera.
    depth = np.where(depth > 0, depth, 0).astype(np.float32)
    keep = np.asarray(arrays["masks"], bool) if "masks" in arrays.names else np.ones(depth.shape, bool)
    if keep.shape != depth.shape:
        raise UserError(f"{arrays.path}: 'masks' has shape {keep.shape}; expected that of 'depths', {depth.shape}")
    seen = centre_cropped(camera, *processed) if processed else camera
    return DepthMaps(camera=_on_host(seen.resized(*depth.shape[1:])), depth=depth, keep=keep)


def _depth_size(arrays: io.Arrays) -> tuple[int, int] | None:
    """(height, width) of the depth maps, or None where there are none."""
    if "depths" not in arrays.names:
        return None
    shape = arrays.shape("depths")
    if len(shape) != 3 or 0 in shape:
        raise UserError(f"{arrays.path}: 'depths' has shape {shape}; expected T x H x W")
    return shape[1], shape[2]


def _size(arrays: io.Arrays, name: str) -> tuple[int, int] | None:
    """(height, width) called `name`, or None where it is missing or -1 -1."""
    if name not in arrays.names:
        return None
    height, width = checks.array(str(arrays.path), name, arrays[name], (2,)).tolist()
    if height < 1 or width < 1:
        return None
    source = str(arrays.path)
    return io.positive_integer(source, name, height), io.positive_integer(source, name, width)


def _frame_size(path: Path, arrays: io.Arrays) -> tuple[int, int] | None:
    """(height, width) of the pictures in the file or beside it, or None where there are none."""
    if "frames" in arrays.names:
        shape = arrays.shape("frames")
        if len(shape) != 4 or shape[3] != 3:
            raise UserError(f"{path}: 'frames' has shape {shape}; expected T x H x W x 3")
        return shape[1], shape[2]
    clip, first = path.with_name("clip.mp4"), path.with_name("first_frame.png")
    with io.foreign(first if not clip.exists() else clip, "the pictures that go with geometry.npz"):
        if clip.exists():
            import av  # here, so that geometry loads FFmpeg only where a clip has to be measured

            with av.open(str(clip)) as container:
                stream = container.streams.video[0]
                return stream.height, stream.width
        if first.exists():
            with PIL.Image.open(first) as picture:
                return picture.height, picture.width
    return None


def _off_centre(intrinsics: np.ndarray, size: tuple[int, int]) -> float:
    """How far the principal points are from the middle of images of a size, in parts of it."""
    return float(np.abs(intrinsics[:, :2, 2].mean(axis=0) / (size[1], size[0]) - 0.5).sum())


def _on_host(camera: Camera) -> Camera:
    """The same cameras as numpy arrays."""
    return Camera(np.asarray(camera.intrinsics), np.asarray(camera.cam2world), camera.height, camera.width)

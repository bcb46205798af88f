"""What a person brings: a picture, its intrinsics and depth, a camera path. Checked here, and fitted to the model."""

from __future__ import annotations

import dataclasses
import math
import pathlib

import jax.numpy as jnp
import numpy as np
import PIL.Image
import PIL.ImageOps

from mirage_jax.errors import UserError
from mirage_jax.geometry import Camera, crop, pose_files, trajectory

ASSUMED_FOV = 64.0
"""Degrees across assumed for a picture whose lens is not known: that of the default model's training views."""


@dataclasses.dataclass(frozen=True)
class View:
    """The first view of a world, at the model's size.

    Attributes:
      image: uint8 `[H, W, 3]`.
      camera: one camera at the origin.
      depth: `[H, W]` metres (inf = sky, 0 = unknown), or None.
      notes: sentences on what was changed or assumed.
    """

    image: np.ndarray
    camera: Camera
    depth: np.ndarray | None
    notes: tuple[str, ...]


def load_view(
    path: str,
    height: int,
    width: int,
    *,
    intrinsics: list[float] | None = None,
    fov: float | None = None,
    depth: str | None = None,
) -> View:
    """Reads a picture and fits it to the model: scaled to cover its size, cut evenly, intrinsics adjusted alike.

    Args:
      path: of the picture.
      height, width: of the model.
      intrinsics: `fx, fy, cx, cy` in pixels of the picture as it is in the file, or None.
      fov: degrees across the picture, instead of intrinsics.
      depth: `.npy` file `[H, W]` metres on the picture's own grid.

    Raises:
      UserError: for a file that is no picture, or values that do not fit it.
    """
    picture = _load_picture(path)
    native = picture.height, picture.width
    camera, notes = _lens(path, native, intrinsics, fov)
    maps = None if depth is None else _load_depth(depth, native)
    if native != (height, width):
        notes.append(f"picture of {native[1]}x{native[0]} scaled and centre-cropped to {width}x{height}")
    if min(native) < 16:
        raise UserError(f"{path}: {native[1]}x{native[0]} pixels are too few, at least 16 a side are needed")
    image = np.asarray(PIL.ImageOps.fit(picture, (width, height), PIL.Image.Resampling.LANCZOS))
    if maps is not None:
        maps = np.asarray(PIL.ImageOps.fit(PIL.Image.fromarray(maps), (width, height), PIL.Image.Resampling.NEAREST))
    return View(image=image, camera=crop.centre_cropped(camera, height, width), depth=maps, notes=tuple(notes))


def load_path(text: str, start: Camera, frames: int | None, scene_depth: float) -> tuple[Camera, str]:
    """A camera path of words or of a file, starting at `start`.

    Args:
      text: the trajectory language, or the name of a camera file.
      start: the camera of the first view; a file's poses are taken relative to its first one.
      frames: how many, the first view included; None means all of a file, or 65.
      scene_depth: metres that `1d` stands for in words.

    Returns:
      `Camera[frames]` with the intrinsics of `start`, and a sentence on where it comes from.

    Raises:
      UserError: if the path cannot be read.
    """
    if not pathlib.Path(text).exists():
        if pathlib.Path(text).suffix in (".json", ".npz", ".txt"):
            raise UserError(f"--trajectory: no file {text}")
        count = 65 if frames is None else frames
        return trajectory.parse(text, start=start, frames=count, scene_depth=scene_depth), "from words"
    found = pose_files.load(text, height=start.height, width=start.width)
    poses = np.asarray(found.camera.cam2world, np.float64)
    relative = np.linalg.inv(poses[0]) @ poses
    count = len(poses)
    cameras = Camera(
        intrinsics=jnp.broadcast_to(jnp.asarray(start.intrinsics), (count, 3, 3)),
        cam2world=jnp.asarray(np.asarray(start.cam2world, np.float64) @ relative, jnp.float32),
        height=start.height,
        width=start.width,
    )
    if frames is not None and frames != count:
        return trajectory.resample(cameras, frames), f"{found.format} file of {count} poses, resampled to {frames}"
    return cameras, f"{found.format} file of {count} poses"


def whole_segments(cameras: Camera, segment_frames: int) -> tuple[Camera, int]:
    """Splits a path, without its first camera, into segments; the last pose is repeated to fill the last one.

    Returns:
      `Camera[S, F]`, and the number of frames that were asked for after the first.

    Raises:
      UserError: if there is nothing after the first camera.
    """
    wanted = len(cameras) - 1
    if wanted < 1:
        raise UserError("the trajectory has a single pose: at least 2 frames are needed to make a video")
    segments = math.ceil(wanted / segment_frames)
    index = np.minimum(1 + np.arange(segments * segment_frames), wanted).reshape(segments, segment_frames)
    return cameras[index], wanted


def _load_picture(path: str) -> PIL.Image.Image:
    file = pathlib.Path(path)
    if not file.is_file():
        raise UserError(f"--image: no file {path}")
    try:
        with PIL.Image.open(file) as opened:
            opened.load()
            return PIL.ImageOps.exif_transpose(opened).convert("RGB")
    except PIL.UnidentifiedImageError as error:
        kind = (
            "a video, not a picture"
            if file.suffix.lower() in (".mp4", ".mov", ".avi", ".mkv", ".webm")
            else "no picture"
        )
        raise UserError(f"--image {path}: {kind} that can be read; expected PNG, JPEG or the like") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"--image {path}: damaged or truncated picture ({error})") from error


def _lens(
    path: str, size: tuple[int, int], intrinsics: list[float] | None, fov: float | None
) -> tuple[Camera, list[str]]:
    height, width = size
    notes = []
    if intrinsics is not None:
        if fov is not None:
            raise UserError("--intrinsics and --fov say the same thing twice: give one of them")
        if len(intrinsics) != 4 or not all(math.isfinite(v) for v in intrinsics) or min(intrinsics[:2]) <= 0:
            raise UserError(f"--intrinsics {intrinsics}: expected fx,fy,cx,cy in pixels, focal lengths above 0")
        fx, fy, cx, cy = intrinsics
        if not (0 < cx < width and 0 < cy < height) or not 0.2 < fx / width < 10 or not 0.2 < fy / height < 10:
            raise UserError(
                f"--intrinsics {fx:g},{fy:g},{cx:g},{cy:g} cannot belong to {path} of {width}x{height} pixels: "
                "they are in pixels of the picture as it is in the file"
            )
    else:
        if fov is None:
            fov = ASSUMED_FOV
            notes.append(f"field of view not given: {fov:g} degrees across assumed (--fov or --intrinsics to change)")
        if not 5 <= fov <= 150:
            raise UserError(f"--fov {fov:g}: expected degrees between 5 and 150")
        fx = fy = 0.5 * width / math.tan(math.radians(fov) / 2)
        cx, cy = width / 2, height / 2
    matrix = jnp.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], jnp.float32)
    return Camera(intrinsics=matrix, cam2world=jnp.eye(4), height=height, width=width), notes


def _load_depth(path: str, size: tuple[int, int]) -> np.ndarray:
    if not pathlib.Path(path).is_file():
        raise UserError(f"--depth: no file {path}")
    try:
        depth = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"--depth {path}: not a .npy array of numbers ({error})") from error
    if not isinstance(depth, np.ndarray) or depth.shape != size or depth.dtype.kind not in "fiu":
        shape = getattr(depth, "shape", "an archive")
        raise UserError(f"--depth {path}: found shape {shape}, the picture has {size} (rows, columns)")
    depth = depth.astype(np.float32)
    if np.isnan(depth).any() or not (np.isfinite(depth) & (depth > 0)).any():
        raise UserError(f"--depth {path}: holds NaN, or no positive depth; expected metres, inf = sky, 0 = unknown")
    return np.maximum(depth, 0.0)

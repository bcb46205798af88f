"""What a person brings: a picture, its intrinsics and depth, a camera path. Checked here, and fitted to the model."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from experiments.posed_video import photos, posed_images
from mirage_jax import io
from mirage_jax.errors import UserError
from mirage_jax.geometry import Camera, crop, pose_files, trajectory, trajectory_text

_USUAL_VIEW = (20.0, 120.0)  # degrees
_USUAL_DEPTH = (0.02, 1000.0)  # metres of the median
_FARTHEST = 1e6  # scene units of a path
_SUFFIXES = (".json", ".npz", ".npy", ".txt", ".bin", ".tum", ".kitti")


@dataclasses.dataclass(frozen=True)
class View:
    """The first view of a world, at the model's size.

    Attributes:
      image: uint8 `[H, W, 3]`.
      camera: one camera at the origin.
      depth: `[H, W]` metres (inf = sky, 0 = unknown), or None.
      notes: sentences on what was changed or assumed.
      posed: all pictures that the world has seen, where this one is the last of several.
    """

    image: np.ndarray  # [H, W, 3]
    camera: Camera
    depth: np.ndarray | None  # [H, W]
    notes: tuple[str, ...]
    posed: posed_images.Posed | None = None


@dataclasses.dataclass(frozen=True)
class Words:
    """A camera path in words.

    Attributes:
      text: in the trajectory language.
      origin: where the words come from, for people to read.
    """

    text: str
    origin: str


def load_view(
    path: str,
    height: int,
    width: int,
    *,
    intrinsics: list[float] | None = None,
    fov: float | None = None,
    lens: np.ndarray | None = None,
    depth: str | None = None,
    background: str | None = None,
) -> View:
    """Reads a picture and fits it to the model: scaled to cover its size, cut evenly, intrinsics adjusted alike.

    Args:
      path: of the picture.
      height, width: of the model.
      intrinsics: `fx, fy, cx, cy` in pixels of the picture as it is in the file, or None.
      fov: degrees across the picture, instead of intrinsics.
      lens: `[3, 3]` intrinsics on the model's grid, where a camera file tells them and neither of these two does.
      depth: `.npy` file `[H, W]` metres on the picture's own grid.
      background: name of the colour behind transparent parts.

    Raises:
      UserError: for a file that is no picture, or values that do not fit it.
    """
    try:
        photo = photos.read(path, background=background)
    except UserError as error:
        raise UserError(f"--image: {error}") from error
    rows, columns = photo.pixels.shape[:2]
    notes = list(photo.notes)
    matrix = _lens(path, photo, intrinsics, fov)
    if matrix is None and fov is None and lens is None:
        fov = crop.ASSUMED_FOV
        notes.append(f"field of view not given: {fov:g} degrees across assumed (--fov or --intrinsics to change)")
    maps = None if depth is None else _load_depth(depth, photo, notes)
    try:
        image, camera, maps = crop.fit_view(
            photo.pixels, height, width, intrinsics=matrix, fov=fov or crop.ASSUMED_FOV, depth=maps
        )
    except UserError as error:
        raise UserError(f"--image {path}{'' if depth is None else f', --depth {depth}'}: {error}") from error
    if lens is not None:
        camera = camera.replace(intrinsics=jnp.asarray(lens, jnp.float32))
    if (rows, columns) != (height, width):
        notes.append(f"picture of {columns}x{rows} scaled and centre-cropped to {width}x{height}")
    across, down = crop.view_angles(np.asarray(camera.intrinsics), height, width)
    notes.append(f"the model sees {across:.1f} degrees of the view from left to right, {down:.1f} from top to bottom")
    if not all(_USUAL_VIEW[0] <= angle <= _USUAL_VIEW[1] for angle in (across, down)):
        notes.append(
            f"warning: that is outside {_USUAL_VIEW[0]:g} to {_USUAL_VIEW[1]:g} degrees, where most pictures are; is "
            "the lens right (--fov, --intrinsics)?"
        )
    if image.min() == image.max():
        notes.append("warning: the picture is of one colour; there is nothing in it to remember")
    return View(image=image, camera=camera, depth=maps, notes=tuple(notes))


def load_views(path: str, height: int, width: int, scale: float | None) -> View:
    """Reads the several posed pictures of `--images`; the path starts at the last one.

    Raises:
      UserError: as `posed_images.load` does.
    """
    try:
        posed = posed_images.load(path, height, width, scale)
    except UserError as error:
        raise UserError(f"--images: {error}") from error
    depth = None if posed.depth is None else posed.depth[-1]
    return View(posed.frames[-1], jax.tree.map(jnp.asarray, posed.camera[-1]), depth, posed.notes, posed)


def read_trajectory(text: str, height: int, width: int, own_lens: bool) -> Words | pose_files.PathFile:
    """What `--trajectory` says: a path in words, a text file of such words, or a camera file.

    What reads as words is words, also where a file or folder has that name (`./orbit` is the folder).

    Args:
      text: of the flag.
      height, width: of the model, which the lenses of a camera file are fitted to.
      own_lens: False leaves the lens of a camera file aside.

    Raises:
      UserError: if it is neither.
    """
    exists = os.path.exists(text)
    if not exists or not os.path.dirname(text):
        try:
            trajectory_text.read(text, scene_depth=1.0)
            return Words(text, "from words")
        except UserError:
            if not exists and not _names_a_file(text):
                raise
    if not exists:
        raise UserError(f"--trajectory: no file {io.shown(text)}")
    path = pathlib.Path(text)
    if pose_files.is_text_of_words(path):
        words = "\n".join(io.read_lines(path))
        try:
            trajectory_text.read(words, scene_depth=1.0)
        except UserError as error:
            raise UserError(f"{path} holds no cameras of a format known here, and as words: {error}") from error
        return Words(words, f"from the words in {path}")
    return pose_files.load_path(path, height, width, own_lens=own_lens)


def lay_path(
    source: Words | pose_files.PathFile, start: Camera, frames: int | None, scene_depth: float, scale: float | None
) -> tuple[Camera, str]:
    """A camera path that starts at `start`.

    Args:
      source: of `read_trajectory`.
      start: the camera of the first view; a file's poses are taken relative to its first one.
      frames: how many, the first view included; None means all of a file, or 65.
      scene_depth: metres that `1d` stands for in words.
      scale: metres that a unit of a camera file stands for; None is 1.

    Returns:
      `Camera[frames]`, with the lenses of a camera file that tells them, else that of `start`; and a sentence on where
      it comes from.

    Raises:
      UserError: if the path cannot be laid, leads too far, or a scale is given for words.
    """
    if isinstance(source, Words):
        if scale is not None:
            raise UserError("--path_scale is for camera files: in words, distances are metres already")
        count = 65 if frames is None else frames
        return trajectory.parse(source.text, start=start, frames=count, scene_depth=scene_depth), source.origin
    if scale is not None and not 1e-6 <= scale <= 1e6:  # NaN is not
        raise UserError(f"--path_scale {scale:g}: expected metres a unit of the camera file, from 1e-6 to 1e6")
    poses, count = source.cam2world, len(source.cam2world)
    relative = np.linalg.inv(poses[0]) @ poses
    relative[:, :3, 3] *= 1.0 if scale is None else scale
    farthest = np.abs(relative[:, :3, 3]).max()
    if not farthest <= _FARTHEST:
        raise UserError(f"--trajectory leads {farthest:.3g} units away; expected at most {_FARTHEST:g} (--path_scale)")
    lenses = np.asarray(start.intrinsics)[None] if source.intrinsics is None else source.intrinsics
    cameras = Camera(
        intrinsics=jnp.asarray(np.broadcast_to(lenses, (count, 3, 3)), jnp.float32),
        cam2world=jnp.asarray(np.asarray(start.cam2world, np.float64) @ relative, jnp.float32),
        height=start.height,
        width=start.width,
    )
    scaled = "" if scale is None else f", scaled by {scale:g}"
    if frames is not None and frames != count:
        cameras = trajectory.resample(cameras, frames)
        return cameras, f"from a file, {source.format}: {count} poses, resampled to {frames}{scaled}"
    return cameras, f"from a file, {source.format}: {count} poses{scaled}"


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


def depth_warnings(source: str, depth: np.ndarray, stored: np.dtype) -> list[str]:
    """Warnings of metres that are hardly metres.

    Args:
      source: flag and file, for messages.
      depth: metres; inf = sky, 0 = unknown.
      stored: type of the numbers in the file.
    """
    known = depth[np.isfinite(depth) & (depth > 0)]
    if not known.size:
        return []
    median, (low, high) = float(np.median(known)), _USUAL_DEPTH
    if low <= median <= high and stored != np.uint16:
        return []
    usual = f"depth in {stored.name} is often millimetres" if stored == np.uint16 else f"{low:g} to {high:g} is usual"
    return [f"warning: {source}: its {stored.name} numbers, {median:g} in the median, are taken as metres; {usual}"]


def _names_a_file(text: str) -> bool:
    """Whether what is no file reads as the name of one."""
    return pathlib.PurePath(text).suffix in _SUFFIXES or ("/" in text and not any(c.isspace() for c in text))


def _lens(path: str, photo: photos.Photo, intrinsics: list[float] | None, fov: float | None) -> np.ndarray | None:
    """`fx, fy, cx, cy` of the upright picture, or None where `--intrinsics` is not given."""
    if intrinsics is not None:
        if fov is not None:
            raise UserError("--intrinsics and --fov say the same thing twice: give one of them")
        if len(intrinsics) != 4 or not all(math.isfinite(v) for v in intrinsics) or min(intrinsics[:2]) <= 0:
            raise UserError(f"--intrinsics {intrinsics}: expected fx,fy,cx,cy in pixels, focal lengths above 0")
        height, width = photo.stored
        fx, fy, cx, cy = intrinsics
        if not (0 < cx < width and 0 < cy < height) or not 0.2 < fx / width < 10 or not 0.2 < fy / height < 10:
            raise UserError(
                f"--intrinsics {fx:g},{fy:g},{cx:g},{cy:g} cannot belong to {path} of {width}x{height} pixels: "
                "they are in pixels of the picture as it is in the file"
            )
        return np.array(photo.upright_intrinsics(fx, fy, cx, cy))
    if fov is not None and not 5 <= fov <= 150:
        raise UserError(f"--fov {fov:g}: expected degrees between 5 and 150")
    return None


def _load_depth(path: str, photo: photos.Photo, notes: list[str]) -> np.ndarray:
    """`[H, W]` metres on the grid of the upright picture."""
    try:
        depth = io.read_array(pathlib.Path(path))
    except UserError as error:
        raise UserError(f"--depth: {error}") from error
    upright = photo.pixels.shape[:2]
    if depth.dtype.kind == "b" or depth.shape not in (photo.stored, upright):
        raise UserError(f"--depth {path}: found shape {depth.shape}, the picture has {upright} (rows, columns)")
    if depth.shape == photo.stored:
        depth = photo.upright(depth)
    notes += depth_warnings(f"--depth {path}", depth.astype(np.float32), depth.dtype)
    return depth.astype(np.float32)

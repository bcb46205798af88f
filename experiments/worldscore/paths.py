"""WorldScore (arXiv 2504.00983): its camera paths, its view of a picture and its prompts, in our conventions.

A sample is a picture and one to three moves of the camera ("scenes"); every move takes `frames - 1` steps, so that the
video has `scenes * (frames - 1) + 1` frames and keyframes at multiples of `frames - 1`.

What is followed here, of haoyi-duan/WorldScore as other repositories carry it:
  moves, interpolation, axes   worldscore/benchmark/helpers/camera_generator.py (FofGofx/WorldCache)
  frames, prompts and styles   worldscore/benchmark/helpers/dataloader.py, worldscore/benchmark/utils/utils.py (same)
  focal length, frames         config/base_config.yaml (same)
  how cameras are scored       .../worldscore/benchmark/metrics/metric_impls/camera_error_metrics.py
                               (weed33834/WorldFoundry)

Its cameras are world-to-camera matrices with PyTorch3D axes (x left, y up, z forward); it stores camera-to-world ones
with Blender axes for the camera (x right, y up, z backward) in the unchanged world, so that its first camera is not the
identity. The WorldScore runner of the PyTorch release (package `latent_mem`; the index has its text without its path)
takes the x axis of that world, which points left, for one that points right: what should go left goes right. The
scorer's conversion of a tracked path (`camera_error_metrics.py`) agrees with ours; the tests hold on to that.

The scorer takes every video for one with a focal length of 500 pixels and its centre at (256, 256): right for 512x512,
and kept as it is for other sizes. For the move "fixed" of the dynamic split the stored sources make no camera
(`camera_generator.py` does not know it, the loader of that split asks for none): here the camera stands still.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import PIL.Image

from mirage_jax.geometry import Camera, se3

SPLITS = ("static", "dynamic")

FOCAL_LENGTH = 500.0
"""Pixels, on the frames that are scored."""

FRAMES = 50
"""Frames of one move, its first and last included, unless a model's config says otherwise."""

MOVES = {
    "push_in": "push in",
    "pull_out": "pull out",
    "move_left": "move left",
    "move_right": "move right",
    "orbit_left": "orbit left",
    "orbit_right": "orbit right",
    "pan_left": "pan left",
    "pan_right": "pan right",
    "fixed": "fixed",
}
"""Moves and the words for them in prompts."""

_TURN = np.deg2rad(30.0)  # of pans and orbits
_SIDEWAYS = 0.5  # of the speed, where pushes and pulls take all of it
_BLENDER_FROM_PYTORCH3D = np.diag([-1.0, 1.0, -1.0, 1.0])
_BLENDER_FROM_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])


def total_frames(moves: Sequence[str], frames: int) -> int:
    """Frames of the whole video."""
    return len(moves) * (frames - 1) + 1


def anchors(moves: Sequence[str], frames: int) -> list[int]:
    """The frame at which each move starts, and the last one."""
    return [scene * (frames - 1) for scene in range(len(moves) + 1)]


def keyframes(moves: Sequence[str], speed: float = 1.0) -> np.ndarray:
    """World-to-camera matrices before and after each move, PyTorch3D axes, the first one at the origin.

    Args:
      moves: of `MOVES`.
      speed: scene units of a push; half of it sideways; orbits go around a point so far ahead.

    Returns:
      `[len(moves) + 1, 4, 4]` float64.
    """
    found = [np.eye(4)]
    for move in moves:
        found.append(_step(move, speed) @ found[-1])
    return np.stack(found)


def world2cam(moves: Sequence[str], frames: int, speed: float = 1.0) -> np.ndarray:
    """World-to-camera matrices of all frames, PyTorch3D axes.

    Between keyframes the benchmark interpolates these matrices, not positions of the camera: rotation by the shortest
    turn, translation linearly. So the camera leaves the circle a little in the middle of an orbit.

    Returns:
      `[total_frames, 4, 4]` float32.
    """
    keys, fraction = keyframes(moves, speed), np.arange(frames, dtype=np.float32) / (frames - 1)
    scenes = [np.asarray(se3.interpolate(*pair, fraction)) for pair in itertools.pairwise(keys)]
    return np.concatenate([*(scene[:-1] for scene in scenes), scenes[-1][-1:]])


def blender_from(world2cam_pytorch3d: np.ndarray) -> np.ndarray:
    """The benchmark's stored form: `[..., 4, 4]` camera to world, Blender axes for the camera, PyTorch3D's world."""
    return np.linalg.inv(_BLENDER_FROM_PYTORCH3D @ np.asarray(world2cam_pytorch3d, np.float64))


def opencv_from(cam2world_blender: np.ndarray) -> np.ndarray:
    """Camera to world with OpenCV axes, relative to the first camera, of what the benchmark stores.

    Args:
      cam2world_blender: `[T, 4, 4]`.

    Returns:
      `[T, 4, 4]` float64; the first is the identity.
    """
    poses = np.asarray(cam2world_blender, np.float64) @ _BLENDER_FROM_OPENCV
    return np.linalg.inv(poses[0]) @ poses


def camera_data(moves: Sequence[str], frames: int, speed: float = 1.0) -> dict[str, Any]:
    """What `camera_data.json` of a static sample holds; the scorer divides translations by `scale`."""
    return {
        "focal_length": FOCAL_LENGTH,
        "scale": speed,
        "cameras": blender_from(keyframes(moves, speed)).astype(np.float32).tolist(),
        "cameras_interp": blender_from(world2cam(moves, frames, speed)).astype(np.float32).tolist(),
    }


def scored_size(height: int, width: int) -> tuple[int, int]:
    """Rows and columns that a model's frames are written at for the scorer, unless the user says otherwise.

    The model's own, except that small frames are scaled to the area of 512x512 to which the scorer scales every frame:
    with its fixed 500 pixels of focal length, smaller ones would be taken for a telephoto lens's.
    """
    scale = max(1.0, 512 / (height * width) ** 0.5)
    return round(scale * height), round(scale * width)


def cameras(
    moves: Sequence[str], frames: int, scored: tuple[int, int], model: tuple[int, int], speed: float = 1.0
) -> Camera:
    """The cameras of all frames, for the model.

    Args:
      moves: of `MOVES`.
      frames: of one move.
      scored: rows and columns of the frames that are scored, on which the focal length is 500 pixels and the principal
        point the centre.
      model: rows and columns of the model's frames.
      speed: scene units of a push.

    Returns:
      `Camera[total_frames]` at the model's size, OpenCV axes, the first one at the origin.
    """
    height, width = scored
    poses = opencv_from(blender_from(world2cam(moves, frames, speed)))
    lens = jnp.array([[FOCAL_LENGTH, 0, width / 2], [0, FOCAL_LENGTH, height / 2], [0, 0, 1]], jnp.float32)
    path = Camera(
        intrinsics=jnp.broadcast_to(lens, (len(poses), 3, 3)),
        cam2world=jnp.asarray(poses, jnp.float32),
        height=height,
        width=width,
    )
    return path.resized(*model)


def centre_crop(picture: PIL.Image.Image, height: int, width: int) -> PIL.Image.Image:
    """The largest centred part of the shape of `height x width`, at that size (`center_crop` of `utils.py`).

    The picture is not turned by its EXIF tag: the masks of the dynamic split go with it as it lies in the file.
    """
    ratio = width / height
    if picture.width / picture.height > ratio:
        columns, rows = int(picture.height * ratio), picture.height
    else:
        columns, rows = picture.width, int(picture.width / ratio)
    left, top = (picture.width - columns) // 2, (picture.height - rows) // 2
    part = picture.crop((left, top, left + max(columns, 1), top + max(rows, 1)))
    return part.resize((width, height), PIL.Image.Resampling.BICUBIC)


def prompts(moves: Sequence[str], scenes: Sequence[str], style: str, *, static: bool) -> list[str]:
    """One prompt a move, as the benchmark gives them to models that start from a picture.

    Args:
      moves: of `MOVES`.
      scenes: what is to be seen: in the static split at the start and after each move, in the dynamic one the event.
      style: put after each.
      static: whether the sample is of the static split, in which nothing is to move.
    """
    styled = [f"{scene}{' ' if scene.endswith('.') else '. '}{style}" for scene in scenes]
    if not static:
        return [f"Camera {MOVES[moves[0]]}. {styled[0]}"] * len(moves)
    end = "Everything in the scene remains completely motionless."
    return [f"Camera {MOVES[move]}. {scene}. {end}" for move, scene in zip(moves, styled[1:], strict=False)]


def scene_of_segments(segments: int, segment_frames: int, moves: int, frames: int) -> np.ndarray:
    """The move that the middle of each segment lies in: whose prompt it gets.

    Args:
      segments: that the video is generated in.
      segment_frames: new frames of one.
      moves: of the sample.
      frames: of one move.
    """
    middle = segment_frames * np.arange(segments) + (segment_frames + 1) // 2
    return np.minimum((middle - 1) // (frames - 1), moves - 1)


def _step(move: str, speed: float) -> np.ndarray:
    """World-to-camera matrix after a move from the origin, PyTorch3D axes."""
    if move in ("push_in", "pull_out"):
        return _shift(z=-speed if move == "push_in" else speed)
    if move in ("move_left", "move_right"):
        return _shift(x=(-speed if move == "move_left" else speed) * _SIDEWAYS)
    if move in ("pan_left", "pan_right"):
        return _turn(_TURN if move == "pan_left" else -_TURN)
    if move in ("orbit_left", "orbit_right"):
        return _shift(z=speed) @ _turn(-_TURN if move == "orbit_left" else _TURN) @ _shift(z=-speed)
    if move == "fixed":
        return np.eye(4)
    raise ValueError(f"unknown move {move!r}, expected one of {', '.join(MOVES)}")


def _shift(x: float = 0.0, z: float = 0.0) -> np.ndarray:
    matrix = np.eye(4)
    matrix[0, 3], matrix[2, 3] = x, z
    return matrix


def _turn(angle: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[0, [0, 2]] = np.cos(angle), -np.sin(angle)
    matrix[2, [0, 2]] = np.sin(angle), np.cos(angle)
    return matrix

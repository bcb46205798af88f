"""Depth and masks of a whole path, from a file."""

from __future__ import annotations

import pathlib

import numpy as np

from experiments.posed_video import scene_depth
from experiments.shared import inputs
from mirage_jax import io, world
from mirage_jax.errors import UserError
from mirage_jax.geometry import centre_cropped, pose_files
from mirage_jax.models.config import ModelConfig


def load(
    path: str,
    model: ModelConfig,
    frames: int,
    segments: int,
    scale: float | None = None,
    notes: list[str] | None = None,
) -> tuple[np.ndarray, world.KnownGeometry]:
    """Reads `--depths`.

    Args:
      path: `.npz` with `depth [T, H, W]` (metres on the grid of the model, inf = sky, 0 = unknown) and, if something
        moves, `keep [T, H, W]` (bool, what stands still); or the PyTorch release's `geometry.npz`, whose maps are cut
        to what the model sees of its frames.
      model: decides `H` and `W`.
      frames: `T`, of the whole path, its first view included.
      segments: the last frame is repeated to fill the last one.
      scale: metres that a unit of a camera file stands for; the depth in `geometry.npz` is in the units of its poses.
      notes: gets sentences on what was made of the file.

    Returns:
      Depth of the first view `[H, W]`, and what is given with the segments, `[S, F, H, W]`.

    Raises:
      UserError: if the file is missing, is no archive of arrays, or an array is missing, misshapen or not valid.
    """
    if not pathlib.Path(path).is_file():
        raise UserError(f"--depths: no file {io.shown(path)}")
    notes = [] if notes is None else notes
    try:
        archive = io.Arrays(pathlib.Path(path))
        if "poses_c2w" in archive.names:
            arrays = _from_release(path, model, frames, scale, notes)
        else:
            arrays = {name: archive[name] for name in archive.names}
    except UserError as error:
        raise UserError(f"--depths {path}: not an .npz of numbers ({error})") from error
    if "depth" not in arrays or set(arrays) - {"depth", "keep"}:
        raise UserError(f"--depths {path}: holds {io.shown(sorted(arrays))}, expected 'depth' and, if wanted, 'keep'")
    size = (frames, model.height, model.width)
    for name, kinds in (("depth", "fiu"), ("keep", "b")):
        if name in arrays and (arrays[name].shape != size or arrays[name].dtype.kind not in kinds):
            found = f"{arrays[name].dtype} {list(arrays[name].shape)}"
            wanted = "numbers" if name == "depth" else "bool"
            raise UserError(f"--depths {path}: {name} is {found}, expected {wanted} {list(size)}")
    depth = np.maximum(arrays["depth"].astype(np.float32), 0.0)
    if np.isnan(depth).any() or not (np.isfinite(depth[0]) & (depth[0] > 0)).any():
        raise UserError(f"--depths {path}: depth holds NaN, or the first view has no positive depth")
    notes += inputs.depth_warnings(f"--depths {path}", depth, arrays["depth"].dtype)
    index = np.minimum(1 + np.arange(segments * model.segment_frames), frames - 1).reshape(segments, -1)
    keep = arrays["keep"][index] if "keep" in arrays else None
    return depth[0], world.KnownGeometry(depth=depth[index], keep=keep)


def _from_release(
    path: str, model: ModelConfig, frames: int, scale: float | None, notes: list[str]
) -> dict[str, np.ndarray]:
    """`depth` and `keep` of a `geometry.npz` on the model's grid."""
    file = pose_files.load(path)
    if file.depth is None:
        raise UserError(f"{path} holds no 'depths'")
    if len(file.camera) != frames:
        raise UserError(f"{path} holds depth of {len(file.camera)} frames; expected {frames}, those of the path")
    maps, camera = scene_depth.from_arrays(file.depth), centre_cropped(file.camera, model.height, model.width)
    depth, moving = map(np.stack, zip(*(maps.on(camera[t], t) for t in range(frames)), strict=True))
    if scale is not None:
        notes.append(f"depth of {path} is in the units of its poses: scaled by {scale:g} with them")
    return {"depth": depth * np.float32(scale or 1.0), "keep": ~moving}

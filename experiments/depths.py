"""Depth and masks of a whole path, from a file."""

from __future__ import annotations

import pathlib
import zipfile

import numpy as np

from mirage_jax import world
from mirage_jax.errors import UserError
from mirage_jax.models.config import ModelConfig


def load(path: str, model: ModelConfig, frames: int, segments: int) -> tuple[np.ndarray, world.KnownGeometry]:
    """Reads `--depths`.

    Args:
      path: `.npz` with `depth [T, H, W]` (metres on the grid of the model, inf = sky, 0 = unknown) and, if something
        moves, `keep [T, H, W]` (bool, what stands still).
      model: decides `H` and `W`.
      frames: `T`, of the whole path, its first view included.
      segments: the last frame is repeated to fill the last one.

    Returns:
      Depth of the first view `[H, W]`, and what is given with the segments, `[S, F, H, W]`.

    Raises:
      UserError: if the file is missing, is no archive of arrays, or an array is missing, misshapen or not valid.
    """
    if not pathlib.Path(path).is_file():
        raise UserError(f"--depths: no file {path}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"--depths {path}: not an .npz of numbers ({error})") from error
    if "depth" not in arrays or set(arrays) - {"depth", "keep"}:
        raise UserError(f"--depths {path}: holds {sorted(arrays)}, expected 'depth' and, if wanted, 'keep'")
    size = (frames, model.height, model.width)
    for name, kinds in (("depth", "fiu"), ("keep", "b")):
        if name in arrays and (arrays[name].shape != size or arrays[name].dtype.kind not in kinds):
            found = f"{arrays[name].dtype} {list(arrays[name].shape)}"
            wanted = "numbers" if name == "depth" else "bool"
            raise UserError(f"--depths {path}: {name} is {found}, expected {wanted} {list(size)}")
    depth = np.maximum(arrays["depth"].astype(np.float32), 0.0)
    if np.isnan(depth).any() or not (np.isfinite(depth[0]) & (depth[0] > 0)).any():
        raise UserError(f"--depths {path}: depth holds NaN, or the first view has no positive depth")
    index = np.minimum(1 + np.arange(segments * model.segment_frames), frames - 1).reshape(segments, -1)
    keep = arrays["keep"][index] if "keep" in arrays else None
    return depth[0], world.KnownGeometry(depth=depth[index], keep=keep)

"""A posed clip in one `.npz` file, for clips that ship with the project. No pickles."""

from __future__ import annotations

import os
import pathlib

import numpy as np

from mirage_jax import io
from mirage_jax.data.clip import PosedClip, check
from mirage_jax.errors import UserError

DEMO = pathlib.Path(__file__).parent.parent / "assets" / "demo_clip.npz"

_ARRAYS = ("frames", "intrinsics", "cam2world")


def save(path: str | os.PathLike[str], clip: PosedClip) -> None:
    """Writes a clip, atomically; depth as float16, the mask as bits."""
    with io.atomic_path(path) as temporary:
        np.savez_compressed(
            temporary,
            **{name: getattr(clip, name) for name in _ARRAYS},
            depth=clip.depth.astype(np.float16),
            dynamic=np.packbits(clip.dynamic, axis=-1),
            caption=np.array(clip.caption),
            source=np.array(clip.source),
        )


def load(path: str | os.PathLike[str]) -> PosedClip:
    """Reads a clip.

    Raises:
      UserError: if the file is missing or is not such a clip.
    """
    if not pathlib.Path(path).is_file():
        raise UserError(f"no clip file {path}")
    try:
        with np.load(path, allow_pickle=False) as stored:
            width = stored["frames"].shape[2]
            clip = PosedClip(
                **{name: stored[name] for name in _ARRAYS},
                depth=stored["depth"].astype(np.float32),
                dynamic=np.unpackbits(stored["dynamic"], axis=-1, count=width).astype(bool),
                caption=str(stored["caption"]),
                source=str(stored["source"]),
            )
        check(clip)
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"{path}: damaged or not a clip file ({error})") from error
    return clip


def load_demo() -> PosedClip:
    """The held-out clip that ships with the project."""
    return load(DEMO)

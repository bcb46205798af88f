"""One posed video clip: what every data source yields, and how it is stored."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from mirage_jax import io
from mirage_jax.errors import UserError

DEMO = pathlib.Path(__file__).parent.parent / "assets" / "demo_clip.npz"
"""The held-out clip that ships with the project."""

OBJECT_FIELDS = ("background", "instances", "tracks")
"""Fields of a `PosedClip` that only some sources know."""

_ROTATION_TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class PosedClip:
    """A video with the camera and depth of every frame. `T = 4k + 1` for training clips.

    Lengths are metres; cameras follow OpenCV (x right, y down, z forward). What moves is known apart from the rest of a
    scene only where a source can render it so; elsewhere the last three fields are None.
    """

    frames: np.ndarray  # uint8 [T, H, W, 3]
    depth: np.ndarray  # float32 [T, H, W] z-depth; inf = sky, 0 = unknown
    intrinsics: np.ndarray  # float32 [T, 3, 3], pixels
    cam2world: np.ndarray  # float32 [T, 4, 4]
    dynamic: np.ndarray  # bool [T, H, W], moving actors
    caption: str
    source: str  # scene, seed and path kind, for example "doom/MAP05/seed17/loop"
    background: np.ndarray | None = None  # uint8 [T, H, W, 3], the frames without what moves
    instances: np.ndarray | None = None  # uint8 [T, H, W], which moving object is seen, from 1; 0 = none
    tracks: np.ndarray | None = None  # float32 [T, N, 3], centres of objects 1 to N in the world, seen or not

    @property
    def valid(self) -> np.ndarray:
        """`[T, H, W]` bool, where depth is finite and positive."""
        return np.isfinite(self.depth) & (self.depth > 0)

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, frames: slice) -> PosedClip:
        """The clip of some of the frames."""
        return dataclasses.replace(self, **{name: array[frames] for name, array in self._stored().items()})

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays of the clip by name, `valid` included."""
        return self._stored() | {"valid": self.valid}

    def _stored(self) -> dict[str, np.ndarray]:
        names = ("frames", "depth", "intrinsics", "cam2world", "dynamic", *OBJECT_FIELDS)
        return {name: array for name in names if (array := getattr(self, name)) is not None}


def check(clip: PosedClip) -> None:
    """Checks shapes, types and that the poses are rigid.

    Raises `ValueError` naming the first array that is not as `PosedClip` says.
    """
    if clip.frames.ndim != 4 or clip.frames.shape[-1] != 3:
        raise ValueError(f"frames have shape {clip.frames.shape}, expected [T, H, W, 3]")
    time, height, width, _ = clip.frames.shape
    expected = {
        "frames": ((time, height, width, 3), np.uint8),
        "depth": ((time, height, width), np.float32),
        "intrinsics": ((time, 3, 3), np.float32),
        "cam2world": ((time, 4, 4), np.float32),
        "dynamic": ((time, height, width), np.bool_),
    }
    if any(getattr(clip, name) is not None for name in OBJECT_FIELDS):
        count = np.shape(clip.tracks)[1] if np.ndim(clip.tracks) == 3 else 0
        expected |= {
            "background": ((time, height, width, 3), np.uint8),
            "instances": ((time, height, width), np.uint8),
            "tracks": ((time, count, 3), np.float32),
        }
    for name, (shape, dtype) in expected.items():
        array = getattr(clip, name)
        if array is None:
            raise ValueError(f"{name} is None, expected all of {', '.join(OBJECT_FIELDS)} or none")
        if array.shape != shape or array.dtype != dtype:
            raise ValueError(f"{name} is {array.dtype} {array.shape}, expected {np.dtype(dtype)} {shape}")
    if np.isnan(clip.depth).any() or (clip.depth < 0).any():
        raise ValueError("depth has NaN or negative values")
    if not (np.isfinite(clip.intrinsics).all() and np.isfinite(clip.cam2world).all()):
        raise ValueError("intrinsics or cam2world have values that are not finite")
    rotation = clip.cam2world[:, :3, :3].astype(np.float64)
    error = np.abs(rotation @ rotation.swapaxes(1, 2) - np.eye(3)).max()
    if error > _ROTATION_TOLERANCE or (np.linalg.det(rotation) < 0).any():
        raise ValueError(f"cam2world is not rigid: |R R^T - I| reaches {error:.2g}, or a determinant is negative")


def packed(clip: PosedClip) -> dict[str, Any]:
    """The values in which a clip is stored: depth keeps 11 bits (float16), the mask one bit a pixel."""
    with np.errstate(over="ignore"):  # what float16 cannot hold is as far as the sky
        depth = clip.depth.astype(np.float16)
    return {
        "frames": clip.frames,
        "depth": depth,
        "dynamic": np.packbits(clip.dynamic, axis=-1),
        "intrinsics": clip.intrinsics,
        "cam2world": clip.cam2world,
        "caption": clip.caption,
        "source": clip.source,
    } | {name: array for name in OBJECT_FIELDS if (array := getattr(clip, name)) is not None}


def unpacked(name: str, values: Mapping[str, Any], width: int) -> Any:
    """One field of a clip (or its `valid`) from the values in which it is stored."""
    value = values["depth" if name == "valid" else name]
    if name == "depth":
        return value.astype(np.float32)
    if name == "valid":
        return np.isfinite(value) & (value > 0)
    if name == "dynamic":
        return np.unpackbits(value, axis=-1, count=width).astype(bool)
    return value


def save(path: str | os.PathLike[str], clip: PosedClip) -> None:
    """Writes a clip into one `.npz` file, atomically."""
    with io.atomic_path(path) as temporary:
        np.savez(temporary, **packed(clip))


def load(path: str | os.PathLike[str]) -> PosedClip:
    """Reads a clip from one `.npz` file. Raises `UserError` if the file is missing or is not such a clip."""
    if not pathlib.Path(path).is_file():
        raise UserError(f"no clip file {path}")
    try:
        with np.load(path, allow_pickle=False) as stored:
            values = {name: stored[name] for name in stored.files}
        fields = {name: unpacked(name, values, values["frames"].shape[2]) for name in values}
        clip = PosedClip(**fields | {name: str(fields[name]) for name in ("caption", "source")})
        check(clip)
    except Exception as error:  # numpy and zipfile raise many kinds for a damaged file; all mean the same to a person
        raise UserError(f"{path}: damaged or not a clip file ({io.shown(error)})") from error
    return clip


def spread(length: int, most: int | None) -> list[int]:
    """At most so many of the numbers below `length`, spread evenly; all if `most` is None."""
    count = length if most is None else min(most, length)
    return [place * length // count for place in range(count)]

"""What clips of all worlds share: their cameras, and that depth and poses must explain the pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from experiments.worlds import verify
from experiments.worlds.batch import RejectedError
from mirage_jax.data.clip import PosedClip, check

FOCAL = 0.8  # focal length / side of the frame


def intrinsics(size: int, frames: int) -> np.ndarray:
    """`[frames, 3, 3]` float32 of square frames of `size` pixels with the axis in their middle."""
    focal = FOCAL * size
    return np.repeat(np.array([[[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]]], np.float32), frames, axis=0)


def as_stored(depth: Sequence[np.ndarray]) -> np.ndarray:
    """`[T, H, W]` float32 of depth maps, as exact as a data set keeps them."""
    return np.stack(depth).astype(np.float16).astype(np.float32)


def verified(clip: PosedClip) -> dict[str, float]:
    """The residuals of a clip.

    Raises:
      RejectedError: if they are too large.
    """
    check(clip)
    reason, residuals = verify.verify(clip)
    if reason:
        raise RejectedError(reason)
    return residuals

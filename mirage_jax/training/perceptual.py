"""The perceptual term of a loss: LPIPS between frames that a model in training shows and the true ones.

Without it a model paints the mean of all textures that could be there. Each frame is seen without `MOST_SHIFT` rows and
columns, some of them at each edge, drawn anew each time: the network looks at every fourth pixel, and a decoder that
knows which paints a grid there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import chex
import jax

from mirage_jax.errors import UserError
from mirage_jax.models import lpips

MOST_SHIFT = 7  # pixels


def frames_judged(config: Any, most: int, of_what: str) -> int:
    """How many frames at a time the term sees, `config.perceptual_frames`; 0 where `perceptual_weight` is 0.

    Raises `UserError` if either number is out of range: there are at most so many frames, `of_what` says of what.
    """
    weight, count = config.perceptual_weight, config.perceptual_frames
    if weight < 0:
        raise UserError(f"--config.perceptual_weight={weight}: expected 0 or more")
    if not weight:
        return 0
    if not 1 <= count <= most:
        raise UserError(f"--config.perceptual_frames={count}: expected 1 to {most}, the frames of {of_what}")
    return count


def require_size(side: int, flag: str) -> None:
    """Raises `UserError` if pictures of so many pixels on their shorter side, set by `flag`, are too small for it."""
    if side < (least := lpips.MINIMUM_SIZE + MOST_SHIFT):
        raise UserError(f"--config.{flag}={side}: the perceptual term needs pictures of at least {least} pixels")


def distance(
    key: chex.PRNGKey, parameters: Mapping[str, chex.Array], shown: chex.Array, truth: chex.Array, count: int
) -> jax.Array:
    """Mean LPIPS of `count` frames, float32 `[]`.

    Args:
      key: of what is seen, frames and parts of them; consumed.
      parameters: of `lpips.load_parameters`.
      shown, truth: `[T, H, W, 3]` in [-1, 1].
      count: 1 to `T`.
    """
    chex.assert_equal_shape([shown, truth])
    return lpips.distance(parameters, *(127.5 * (drawn_part(key, x, count) + 1.0) for x in (shown, truth))).mean()


def drawn_part(key: chex.PRNGKey, video: chex.Array, count: int) -> jax.Array:
    """`count` frames of `[T, H, W, 3]`, in any order, without `MOST_SHIFT` rows and columns; consumes `key`."""
    frames_key, corner_key = jax.random.split(key)
    frames = video[jax.random.choice(frames_key, len(video), (count,), replace=False)]
    row, column = jax.random.randint(corner_key, (2,), 0, MOST_SHIFT + 1)
    size = (count, video.shape[1] - MOST_SHIFT, video.shape[2] - MOST_SHIFT, 3)
    return jax.lax.dynamic_slice(frames, (0, row, column, 0), size)

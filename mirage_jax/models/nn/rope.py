"""Rotary positions of the segment layout reference | target | preceding (wan22: RoPE over time, height, width).

Each latent cell has three coordinates (time, row, column); each coordinate turns its own share of
the pairs of a head. Target and preceding frames share one time axis; reference frames are told
apart by negative times and by rows below the grid.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

THETA = 10_000.0


def axis_widths(head_dim: int) -> tuple[int, int, int]:
    """Channels of one head that time, row and column turn: Wan's rule, 128 -> (44, 42, 42)."""
    side = 2 * (head_dim // 6)
    return head_dim - 2 * side, side, side


def segment_times(reference: int, target: int, preceding: int) -> np.ndarray:
    """`[R+T+P]` times in token order: -R..-1 | 0..T-1 | T..T+P-1."""
    return np.concatenate([np.arange(-reference, 0), np.arange(target), target + np.arange(preceding)])


def segment_rotary(
    reference: int, target: int, preceding: int, rows: int, columns: int, head_dim: int
) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines of every token of a segment.

    Args:
      reference, target, preceding: numbers of latent frames `R, T, P`.
      rows, columns: the token grid of one latent frame.
      head_dim: width of one head, even.

    Returns:
      Two float32 arrays `[(R+T+P) * rows * columns, head_dim / 2]`.
    """
    times = segment_times(reference, target, preceding)
    row_offset = np.where(times < 0, rows, 0)
    positions = (times[:, None, None], row_offset[:, None, None] + np.arange(rows)[:, None], np.arange(columns))
    grid = (len(times), rows, columns)
    # Angles in float64 on the host, one small table an axis; the full grid is only ever made on the device.
    angles = [
        np.asarray(position, np.float64)[..., None] * THETA ** (-np.arange(0, width, 2) / width)
        for position, width in zip(positions, axis_widths(head_dim), strict=True)
    ]

    def spread(function) -> jax.Array:
        tables = [np.asarray(function(angle), np.float32) for angle in angles]
        whole = [jnp.broadcast_to(table, (*grid, table.shape[-1])) for table in tables]
        return jnp.concatenate(whole, axis=-1).reshape(-1, head_dim // 2)

    return spread(np.cos), spread(np.sin)


def rotate_pairs(x: jax.Array, cosine: jax.Array, sine: jax.Array) -> jax.Array:
    """Turns the pairs `(x[2i], x[2i+1])` of every head by the angle of their token.

    Args:
      x: `[..., heads, head_dim]`.
      cosine, sine: `[..., head_dim / 2]` float32.
    """
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    even, odd = pairs[..., 0], pairs[..., 1]
    cosine, sine = cosine[..., None, :], sine[..., None, :]
    turned = jnp.stack([even * cosine - odd * sine, even * sine + odd * cosine], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)

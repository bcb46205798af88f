"""The VAE's decoder and encoder in overlapping tiles, one after the other, where a whole frame does not fit.

Each tile runs with a cache of its own; all caches are one pytree with a leading axis of tiles, so that a tiled stream is
carried like any other. Tiles overlap and are blended linearly. A result differs from the whole frame's in what the
middle attention sees, the tile instead of the frame, and near the cuts in what the convolutions see: beyond their
reach (17 latent cells in the decoder of Wan2.2, with little weight on the far ones) nothing else differs.

The memory of a step falls with the area of a tile; what stays is the caches, which together are a little larger than
that of a whole frame.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from mirage_jax.errors import UserError
from mirage_jax.models import vae
from mirage_jax.models.vae import Cache, VAEConfig

OVERLAP = 4
"""Latent cells that neighbouring tiles share."""


@functools.partial(jax.jit, static_argnums=0, static_argnames=("tile", "overlap"))
def decode_stream(
    config: VAEConfig, params: Any, latents: chex.Array, cache: Cache = None, *, tile: int, overlap: int = OVERLAP
) -> tuple[jax.Array, Cache]:
    """`vae.decode_stream` in tiles.

    Args:
      config, params, latents: as there.
      cache: what this function gave for the latents before, with the same tiles.
      tile: rows and columns of a tile in latent cells; a frame that is smaller along a side is not cut along it.
      overlap: cells that neighbouring tiles share at least, less than `tile`.

    Returns:
      Frames, and the cache to carry, with a leading axis of tiles.

    Raises:
      UserError: if the overlap is not smaller than the tile.
    """
    return _tiled(
        functools.partial(vae.decode_stream, config, params), latents, cache, tile, overlap, 1, config.stride_space
    )


@functools.partial(jax.jit, static_argnums=0, static_argnames=("tile", "overlap"))
def encode_stream(
    config: VAEConfig, params: Any, frames: chex.Array, cache: Cache = None, *, tile: int, overlap: int = OVERLAP
) -> tuple[jax.Array, Cache]:
    """`vae.encode_stream` in tiles; `tile` and `overlap` in latent cells, as in `decode_stream`."""
    return _tiled(
        functools.partial(vae.encode_stream, config, params), frames, cache, tile, overlap, config.stride_space, 1
    )


def starts(length: int, tile: int, overlap: int) -> list[int]:
    """First cells of the tiles along a side of `length` cells: evenly spread, the last one ends at the end.

    Raises:
      UserError: if the overlap is not smaller than the tile.
    """
    if not 0 <= overlap < tile:
        raise UserError(f"VAE tiles of {tile} cells must overlap by at least 0 and less than {tile}, found {overlap}")
    if length <= tile:
        return [0]
    count = math.ceil((length - overlap) / (tile - overlap))
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def _tiled(function, x: jax.Array, cache: Cache, tile: int, overlap: int, inner: int, outer: int):
    """Runs `function(x, cache)` tile by tile; `inner` and `outer` are the cells of input and output in a latent cell."""
    cells = x.shape[1] // inner, x.shape[2] // inner
    rows, columns = (starts(length, tile, overlap) for length in cells)
    height, width = (min(tile, length) for length in cells)
    corners = np.array([(row, column) for row in rows for column in columns], np.int32)
    size = (len(x), height * inner, width * inner, x.shape[-1])

    def one(arguments):
        corner, cache = arguments
        piece = jax.lax.dynamic_slice(x, (0, corner[0] * inner, corner[1] * inner, 0), size)
        return function(piece, cache)

    pieces, cache = jax.lax.map(one, (corners, cache))
    row_weights = jnp.asarray(_weights(rows, height, cells[0], outer))
    column_weights = jnp.asarray(_weights(columns, width, cells[1], outer))

    def add(i: jax.Array, total: jax.Array) -> jax.Array:
        window = row_weights[i // len(columns)][:, None] * column_weights[i % len(columns)]
        corner = jnp.asarray(corners)[i] * outer
        at = (0, corner[0], corner[1], 0)
        before = jax.lax.dynamic_slice(total, at, pieces.shape[1:])
        return jax.lax.dynamic_update_slice(total, before + pieces[i] * window[..., None], at)

    blank = jnp.zeros((pieces.shape[1], cells[0] * outer, cells[1] * outer, pieces.shape[-1]), pieces.dtype)
    return jax.lax.fori_loop(0, len(corners), add, blank), cache


def _weights(first: list[int], size: int, length: int, scale: int) -> np.ndarray:
    """Blending weights `[tiles, size * scale]` along one side: ramps over the overlaps, 1 in all where summed."""
    place = np.arange(length * scale) + 0.5
    ramps = np.zeros((len(first), length * scale), np.float32)
    for i, start in enumerate(first):
        begin, end = start * scale, (start + size) * scale
        inside = (place > begin) & (place < end)
        # Distance to the borders of the tile, which are no borders at the sides of the frame.
        from_begin = place - begin if start else np.full_like(place, np.inf)
        from_end = end - place if start + size < length else np.full_like(place, np.inf)
        ramps[i] = np.where(inside, np.minimum(np.minimum(from_begin, from_end), length * scale), 0)
    ramps /= ramps.sum(axis=0)
    return np.stack([ramp[start * scale : (start + size) * scale] for ramp, start in zip(ramps, first, strict=True)])

"""The VAE in little memory: one latent frame at a time, in overlapping tiles, one after the other.

What the VAE needs grows with frames and area: at 704x1280 the decoder's cache alone is 6 GB in float32. Here each tile
goes through all frames before the next one starts, so that beside the result only one tile is ever in work:

    frames = vae_tiling.decode(config, params, latents, tile=24)                    # whole clip
    frames, cache = vae_tiling.decode_stream(config, params, latents, tile=24)      # first chunk of a stream
    frames, cache = vae_tiling.decode_stream(config, params, latents, cache, tile=24)

A stream has to keep the caches of all tiles, with a leading axis of tiles; a whole clip keeps none. A tile as large as
the frame cuts nothing, and then the result is that of `vae`.

Tiles overlap and are blended linearly. A result differs from the whole frame's in what the middle attention sees, the
tile instead of the frame, and near the cuts in what the convolutions see: beyond their reach (17 latent cells in the
decoder of Wan2.2, with little weight on the far ones) nothing else differs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
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

_compiled = functools.partial(jax.jit, static_argnums=0, static_argnames=("tile", "overlap"))


@_compiled
def decode(config: VAEConfig, params: Any, latents: chex.Array, *, tile: int, overlap: int = OVERLAP) -> jax.Array:
    """`vae.decode` in tiles.

    Args:
      config, params, latents: as there.
      tile: rows and columns of a tile in latent cells; a frame that is smaller along a side is not cut along it.
      overlap: cells that neighbouring tiles share at least, less than `tile`.

    Raises:
      UserError: if the overlap is not less than the tile.
    """
    step = functools.partial(vae.decode_stream, config, params)
    tiles = _Tiles(latents.shape[1:3], tile, overlap)
    return tiles.run(lambda piece, _: (_stream(step, piece, None, 1)[0], None), latents, None, 1, config.stride_space)[
        0
    ]


@_compiled
def decode_stream(
    config: VAEConfig, params: Any, latents: chex.Array, cache: Cache = None, *, tile: int, overlap: int = OVERLAP
) -> tuple[jax.Array, Cache]:
    """`vae.decode_stream` in tiles.

    Args:
      config, params, latents: as there.
      cache: what this function gave for the latents before, with the same tiles.
      tile, overlap: as in `decode`.

    Returns:
      Frames, and the cache to carry.

    Raises:
      UserError: if the overlap is not less than the tile.
    """
    step = functools.partial(vae.decode_stream, config, params)
    tiles = _Tiles(latents.shape[1:3], tile, overlap)
    return tiles.run(lambda piece, cache: _stream(step, piece, cache, 1), latents, cache, 1, config.stride_space)


@_compiled
def encode(config: VAEConfig, params: Any, frames: chex.Array, *, tile: int, overlap: int = OVERLAP) -> jax.Array:
    """`vae.encode` in tiles; `tile` and `overlap` in latent cells, as in `decode`.

    Raises `UserError` as `vae.encode`, or if the overlap is not less than the tile.
    """
    config.latent_frames(len(frames))
    step = functools.partial(vae.encode_stream, config, params)
    stride = config.stride_space
    if frames.shape[1] % stride or frames.shape[2] % stride:
        raise UserError(f"the VAE needs sides that are multiples of {stride}, got {frames.shape}")
    tiles = _Tiles((frames.shape[1] // stride, frames.shape[2] // stride), tile, overlap)
    whole = lambda piece, _: (_stream(step, piece, None, config.stride_time)[0], None)  # noqa: E731
    return tiles.run(whole, frames, None, stride, 1)[0]


def starts(length: int, tile: int, overlap: int) -> list[int]:
    """First cells of the tiles along a side of `length` cells: evenly spread, the last one ends at the end.

    Raises `UserError` if the overlap is not less than the tile.
    """
    if not 0 <= overlap < tile:
        raise UserError(f"VAE tiles of {tile} cells must overlap by at least 0 and less than {tile}, found {overlap}")
    if length <= tile:
        return [0]
    count = math.ceil((length - overlap) / (tile - overlap))
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


class _Tiles:
    """Where the tiles of a latent grid are, and how they are run and put together."""

    def __init__(self, grid: tuple[int, int], tile: int, overlap: int):
        self.grid = grid
        self.first = [starts(length, tile, overlap) for length in grid]
        self.size = [min(tile, length) for length in grid]
        self.corners = np.array([(row, column) for row in self.first[0] for column in self.first[1]], np.int32)

    def run(self, function: Callable, x: jax.Array, cache: Cache, inner: int, outer: int) -> tuple[jax.Array, Cache]:
        """`function(piece, cache) -> (piece, cache)` of each tile; a latent cell is `inner` wide in, `outer` out."""
        inputs = (len(x), *(side * inner for side in self.size), x.shape[-1])

        def piece_of(corner: jax.Array) -> jax.Array:
            return jax.lax.dynamic_slice(x, (0, corner[0] * inner, corner[1] * inner, 0), inputs)

        corners = jnp.asarray(self.corners)
        one = None if cache is None else jax.tree.map(lambda c: c[0], cache)
        shape, updated = jax.eval_shape(function, jax.ShapeDtypeStruct(inputs, x.dtype), one)
        if cache is None:
            cache = jax.tree.map(lambda c: jnp.zeros((len(corners), *c.shape), c.dtype), updated)
            given = lambda _, i: None  # noqa: E731
        else:
            given = lambda cache, i: jax.tree.map(lambda c: c[i], cache)  # noqa: E731
        weights = [jnp.asarray(_weights(*side, outer)) for side in zip(self.first, self.size, self.grid, strict=True)]

        def step(i: jax.Array, carry: tuple[jax.Array, Cache]) -> tuple[jax.Array, Cache]:
            # The caches are updated in place, so that there is never a second set of them.
            total, cache = carry
            piece, new = function(piece_of(corners[i]), given(cache, i))
            window = weights[0][i // len(self.first[1])][:, None] * weights[1][i % len(self.first[1])]
            at = (0, corners[i, 0] * outer, corners[i, 1] * outer, 0)
            before = jax.lax.dynamic_slice(total, at, piece.shape)
            total = jax.lax.dynamic_update_slice(total, before + piece * window[..., None], at)
            return total, jax.tree.map(lambda c, n: c.at[i].set(n), cache, new)

        blank = jnp.zeros((shape.shape[0], *(side * outer for side in self.grid), shape.shape[-1]), shape.dtype)
        return jax.lax.fori_loop(0, len(corners), step, (blank, cache))


def _stream(step: Callable, x: jax.Array, cache: Cache, chunk: int) -> tuple[jax.Array, Cache]:
    """`step(x, cache)` on `chunk` frames at a time, the first one of a stream alone."""
    parts = []
    if cache is None:
        first, cache = step(x[:1], None)
        parts, x = [first], x[1:]
    if len(x):

        def body(cache: Cache, x: jax.Array) -> tuple[Cache, jax.Array]:
            out, cache = step(x, cache)
            return cache, out

        cache, rest = jax.lax.scan(body, cache, x.reshape(-1, chunk, *x.shape[1:]))
        parts.append(rest.reshape(-1, *rest.shape[2:]))
    return jnp.concatenate(parts), cache


def _weights(first: list[int], size: int, length: int, scale: int) -> np.ndarray:
    """Blending weights `[tiles, size * scale]` along a side: ramps over the overlaps that sum to 1."""
    place = np.arange(length * scale) + 0.5
    ramps = np.zeros((len(first), length * scale))
    for i, start in enumerate(first):
        begin, end = start * scale, (start + size) * scale
        # Distance to the nearest cut; the sides of the frame are no cuts.
        from_begin = place - begin if start else np.full_like(place, length * scale)
        from_end = end - place if start + size < length else np.full_like(place, length * scale)
        ramps[i] = np.maximum(np.minimum(from_begin, from_end), 0) * ((place > begin) & (place < end))
    ramps /= ramps.sum(axis=0)
    pieces = [ramp[start * scale : (start + size) * scale] for ramp, start in zip(ramps, first, strict=True)]
    return np.stack(pieces).astype(np.float32)

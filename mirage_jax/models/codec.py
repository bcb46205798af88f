"""The one door to the VAE of a running world: whole or in tiles, a stream or clip by clip.

On a mesh each device works on its share of rows or columns, and takes the edges that it needs from its neighbours.
What leaves is whole on every device; the decoder's cache stays spread.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp

from mirage_jax.errors import UserError
from mirage_jax.models import partition, vae, vae_tiling
from mirage_jax.models.vae import Cache, VAEConfig

OVERLAPS = ("carry", "reencode")

LARGEST_WHOLE = 256 * 256
"""Pixels of a picture up to which a clip goes through the VAE whole: larger ones go frame by frame."""

DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Codec:
    """How the VAE of a world is run. `params` are those of the VAE everywhere.

    Attributes:
      vae: its sizes.
      overlap: where a segment begins. 'carry': at the last latent of the one before, with the decoder's cache, so that
        no pixel is touched. 'reencode': at the code of its last frame encoded alone, decoded as a new clip, which is
        what the released Wan weights were trained on.
      tile: latent cells of a side of the tiles it works in, one latent frame at a time (`vae_tiling`), so that it takes
        less memory; as large as the grid cuts nothing. 0 gives it whole clips. None chooses by the size of the picture:
        whole clips up to `LARGEST_WHOLE`, else frame by frame, uncut.
      dtype: in which it computes; bfloat16 takes half the time and memory on accelerators, and is a little off.
    """

    vae: VAEConfig
    overlap: str = "carry"
    tile: int | None = None
    dtype: str = "float32"

    def __post_init__(self):
        if self.overlap not in OVERLAPS:
            raise UserError(f"overlap must be one of {', '.join(OVERLAPS)}, found {self.overlap!r}")
        if self.tile and self.tile <= vae_tiling.OVERLAP:
            raise UserError(f"vae_tile must be 0 or above {vae_tiling.OVERLAP} cells, found {self.tile}")
        if self.dtype not in DTYPES:
            raise UserError(f"vae_dtype must be one of {', '.join(DTYPES)}, found {self.dtype!r}")

    def encode(self, params: Any, frames: chex.Array) -> jax.Array:
        """Latents `[1 + k, h, w, C]` of a clip `[1 + r k, H, W, 3]` in [-1, 1]."""
        params = partition.whole(params)
        frames = partition.over_space(jnp.asarray(frames, self.dtype), self.vae.stride_space)
        tile = self._tile(frames, 1)
        encode = functools.partial(vae_tiling.encode, tile=tile) if tile else vae.encode
        return partition.whole(encode(self.vae, params, frames).astype(jnp.float32))

    def decode(self, params: Any, latents: chex.Array) -> jax.Array:
        """Frames `[1 + r k, H, W, 3]` in [-1, 1] of a clip of latents `[1 + k, h, w, C]`."""
        params = partition.whole(params)
        latents = partition.over_space(jnp.asarray(latents, self.dtype))
        tile = self._tile(latents, self.vae.stride_space)
        decode = functools.partial(vae_tiling.decode, tile=tile) if tile else vae.decode
        return partition.whole(decode(self.vae, params, latents).astype(jnp.float32))

    def begin(self, params: Any, frames: chex.Array) -> tuple[jax.Array, jax.Array, Cache]:
        """A video that a world starts from.

        Returns:
          Its latents `[1 + k, h, w, C]`; the latent `[h, w, C]` where the first segment begins; the decoder's cache, or
          None where every segment is a clip of its own.
        """
        latents = self.encode(params, frames)
        if self.overlap == "carry":
            return latents, latents[-1], self.decode_stream(params, latents, None)[1]
        return latents, latents[-1] if len(frames) == 1 else self.encode(params, frames[-1:])[0], None

    def go_on(
        self, params: Any, begin: chex.Array, latents: chex.Array, cache: Cache
    ) -> tuple[jax.Array, jax.Array, Cache]:
        """The frames of a segment.

        Args:
          params: of the VAE.
          begin: `[h, w, C]`, where the segment begins.
          latents: `[n, h, w, C]`, new.
          cache: of the decoder.

        Returns:
          New frames `[r n, H, W, 3]` in [-1, 1]; the latent where the next segment begins; the decoder's cache.
        """
        if self.overlap == "carry":
            frames, cache = self.decode_stream(params, latents, cache)
            return frames, latents[-1], cache
        frames = self.decode(params, jnp.concatenate([begin[None], latents]))[1:]
        return frames, self.encode(params, frames[-1:])[0], None

    def decode_stream(self, params: Any, latents: chex.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        """Frames in [-1, 1] of the next latents `[n, h, w, C]` of one video, and the cache; None starts it."""
        params = partition.whole(params)
        latents = partition.over_space(latents.astype(self.dtype))
        tile = self._tile(latents, self.vae.stride_space)
        decode = functools.partial(vae_tiling.decode_stream, tile=tile) if tile else vae.decode_stream
        frames, cache = decode(self.vae, params, latents, cache)
        return partition.whole(frames.astype(jnp.float32)), partition.over_space(cache)

    def _tile(self, x: chex.Array, pixels: int) -> int:
        """The tile for frames of so many pixels a side of a cell of `x`."""
        if self.tile is not None:
            return self.tile
        height, width = (side * pixels for side in x.shape[1:3])
        return 0 if height * width <= LARGEST_WHOLE else max(height, width) // self.vae.stride_space

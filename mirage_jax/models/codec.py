"""The one door to the VAE of a running world: whole or in tiles, a stream or clip by clip, video or single pictures."""

from __future__ import annotations

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp

from mirage_jax.errors import UserError
from mirage_jax.models import vae, vae_tiling
from mirage_jax.models.vae import Cache, VAEConfig

OVERLAPS = ("carry", "reencode")


@dataclasses.dataclass(frozen=True)
class Codec:
    """How the VAE of a world is run. `params` are those of the VAE everywhere.

    Attributes:
      vae: its sizes.
      overlap: where a segment begins. 'carry': at the last latent of the one before, with the decoder's cache, so that
        no pixel is touched. 'reencode': at the code of its last frame encoded alone, decoded as a new clip, which is
        what the released Wan weights were trained on.
      tile: latent cells of a side of the tiles it works in, one latent frame at a time (`vae_tiling`), so that it takes
        less memory; as large as the grid cuts nothing. 0 gives it whole clips.
    """

    vae: VAEConfig
    overlap: str = "carry"
    tile: int = 0

    def __post_init__(self):
        if self.overlap not in OVERLAPS:
            raise UserError(f"overlap must be one of {', '.join(OVERLAPS)}, found {self.overlap!r}")
        if self.tile and self.tile <= vae_tiling.OVERLAP:
            raise UserError(f"vae_tile must be 0 or above {vae_tiling.OVERLAP} cells, found {self.tile}")

    def encode(self, params: Any, frames: chex.Array) -> jax.Array:
        """Latents `[1 + k, h, w, C]` of a clip `[1 + r k, H, W, 3]` in [-1, 1]."""
        if self.tile:
            return vae_tiling.encode(self.vae, params, frames, tile=self.tile)
        return vae.encode(self.vae, params, frames)

    def encode_still(self, params: Any, frames: chex.Array) -> jax.Array:
        """Tokens `[T, h, w, C]` of pictures `[T, H, W, 3]`, each as a video in which nothing moves."""
        if self.tile:
            return vae_tiling.encode_still(self.vae, params, frames, tile=self.tile)
        return vae.encode_still(self.vae, params, frames)

    def begin(self, params: Any, frames: chex.Array) -> tuple[jax.Array, jax.Array, Cache]:
        """A video that a world starts from.

        Returns:
          Its latents `[1 + k, h, w, C]`; the latent `[h, w, C]` where the first segment begins; the decoder's cache, or
          None where every segment is a clip of its own.
        """
        latents = self.encode(params, frames)
        if self.overlap == "carry":
            return latents, latents[-1], self._decode_stream(params, latents, None)[1]
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
            frames, cache = self._decode_stream(params, latents, cache)
            return frames, latents[-1], cache
        clip = jnp.concatenate([begin[None], latents])
        if self.tile:
            frames = vae_tiling.decode(self.vae, params, clip, tile=self.tile)[1:]
        else:
            frames = vae.decode(self.vae, params, clip)[1:]
        return frames, self.encode(params, frames[-1:])[0], None

    def _decode_stream(self, params: Any, latents: chex.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        if self.tile:
            return vae_tiling.decode_stream(self.vae, params, latents, cache, tile=self.tile)
        return vae.decode_stream(self.vae, params, latents, cache)

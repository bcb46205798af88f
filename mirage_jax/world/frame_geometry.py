"""Geometry of latent frames: their depth, what of them stands still, where the sky is."""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import struct

from mirage_jax import geometry
from mirage_jax.geometry import Camera
from mirage_jax.memory import resample
from mirage_jax.models import depth_anything, heads
from mirage_jax.world.config import WorldConfig


@struct.dataclass
class FrameGeometry:
    """Geometry of latent frames.

    Attributes:
      depth: `[T, h, w]` z-depth, metres.
      keep: bool `[T, h, w]`, static and not sky.
      sky: bool `[T, h, w]`.
    """

    depth: chex.Array  # [T, h, w]
    keep: chex.Array  # [T, h, w]
    sky: chex.Array  # [T, h, w]

    @property
    def moving(self) -> jax.Array:
        """Bool `[T, h, w]`, what is neither static nor sky, where its depth is known."""
        return ~self.keep & ~self.sky & jnp.isfinite(self.depth) & (self.depth > 0)

    def memorable_depth(self) -> jax.Array:
        """Depth with inf at the sky and 0 where nothing is to be kept, as the reference bank wants it."""
        return jnp.where(self.sky, jnp.inf, jnp.where(self.keep, self.depth, 0.0))


@struct.dataclass
class KnownGeometry:
    """What is known of pixel frames from outside.

    Attributes:
      depth: `[F, H, W]` metres, inf at the sky, 0 where unknown.
      keep: bool `[F, H, W]`, what stands still; None where it is not known.
    """

    depth: chex.Array  # [F, H, W]
    keep: chex.Array | None = None  # [F, H, W]

    def __getitem__(self, index) -> KnownGeometry:
        """Some of the frames."""
        return KnownGeometry(self.depth[index], None if self.keep is None else self.keep[index])


def estimate_geometry(
    config: WorldConfig,
    params: Any,
    latents: chex.Array,
    cameras: Camera,
    frames: chex.Array,
    known: KnownGeometry | None = None,
) -> FrameGeometry:
    """Geometry of latent frames: from outside, of the heads on latents, or of the depth network on pixels.

    Depth of a relative network is in units of its own.

    Args:
      config, params: of the world.
      latents: `[T, h, w, C]` normalised.
      cameras: `Camera[T]` on the latent grid.
      frames: `[T, H, W, 3]` in [-1, 1], the pixel frames these cameras took.
      known: of these frames; None for what the depth source says. Where it does not say what stands still, the keep
        head does, if there is one.
    """
    model, still = config.model, True
    if model.heads is not None:
        out = heads.predict(model.heads, params["heads"], latents, geometry.rays(cameras))
        keep, sky = heads.decide(out, config.recipe.moving_threshold)
        if known is None and config.depth_from == "heads":
            return FrameGeometry(depth=out["depth"], keep=keep, sky=sky)
        still = keep | sky
    if known is None:
        images = (frames + 1.0) / 2.0
        depth = jax.lax.map(lambda image: depth_anything.predict_depth(model.depth, params["depth"], image), images)
    else:
        depth = known.depth
        if known.keep is not None:
            still = ~resample.mask_to_grid(~known.keep, *config.grid, least=0.25)
    depth = resample.depth_to_grid(depth, *config.grid)
    return FrameGeometry(depth=depth, keep=still & jnp.isfinite(depth) & (depth > 0), sky=jnp.isinf(depth) & still)

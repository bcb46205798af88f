"""The RGB memory in a world: coloured points written at pixel resolution, rendered and encoded to condition a segment.

This is the detour that a latent memory does without; it is here as the fair comparison.
"""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp

from mirage_jax.geometry import Camera
from mirage_jax.memory import rgb
from mirage_jax.memory.latent import LatentMemory, Readout
from mirage_jax.models import vae
from mirage_jax.models.config import ModelConfig


def upsampled(cells: chex.Array, height: int, width: int) -> jax.Array:
    """`[T, h, w]` to `[T, H, W]`, each cell repeated."""
    rows = jnp.repeat(cells, height // cells.shape[1], axis=1)
    return jnp.repeat(rows, width // cells.shape[2], axis=2)


def write(
    memory: LatentMemory,
    frames: chex.Array,
    depth: chex.Array,
    cameras: Camera,
    keep: chex.Array,
    sky: chex.Array,
    near: float,
) -> LatentMemory:
    """Writes the pixels of frames.

    Args:
      memory: coloured points.
      frames: `[T, H, W, 3]` in [-1, 1].
      depth, keep, sky: `[T, H, W]`, or `[T, h, w]` cells to be repeated.
      cameras: `Camera[T]` at pixel resolution.
      near: metres.
    """
    size = cameras.height, cameras.width
    depth, keep, sky = (upsampled(x, *size) if x.shape[1:] != size else x for x in (depth, keep, sky))
    return rgb.write(memory, frames, depth, cameras, keep, sky, near=near)


def read(
    model: ModelConfig, params: Any, memory: LatentMemory, frame_cameras: Camera, footprint: int, near: float
) -> tuple[Readout, Readout]:
    """Renders the points into every frame and encodes the rendered video.

    Args:
      model, params: of the VAE.
      memory: coloured points.
      frame_cameras: `Camera[1 + F]` at pixel resolution: the frame of the overlap latent, then the new frames.
      footprint, near: as in `rgb.read`.

    Returns:
      The readout on the latent grid at the latent frames, `[1 + F / r, h, w, ..]`: encoded colours; a cell is visible
      where most of its pixels are, at their nearest depth, at its centre and at scale 1. And the rendering itself.
    """
    stride, time = model.vae.stride_space, model.vae.stride_time
    rendered = rgb.read(memory, frame_cameras, max_footprint=footprint, near=near)
    features = vae.encode(model.vae, params["vae"], rendered.features)
    grid = (features.shape[1], stride, features.shape[2], stride)
    visible = rendered.visible[::time].reshape(-1, *grid)
    depth = jnp.where(rendered.visible, rendered.depth, jnp.inf)[::time].reshape(-1, *grid)
    seen = visible.mean((2, 4)) >= 0.5
    nearest = depth.min((2, 4))
    readout = Readout(
        features=jnp.where(seen[..., None], features, 0.0),
        visible=seen,
        depth=jnp.where(seen, nearest, 0.0),
        offset=jnp.zeros((*seen.shape, 2)),
        scale=seen.astype(jnp.float32),
    )
    return readout, rendered

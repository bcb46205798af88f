"""A memory of coloured points, the control: the same three verbs, on frames at pixel resolution.

It is the latent memory with three channels. What differs is around it: cameras and depth are at
pixel resolution, and a readout is a picture `[T, H, W, 3]` that has to pass the VAE encoder before it can
condition a generator.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax.typing import DTypeLike

from mirage_jax.memory import latent
from mirage_jax.memory.latent import LatentMemory, nbytes, read, write

__all__ = ["create", "nbytes", "read", "write"]


def create(capacity: int, channels: int = 3, dtype: DTypeLike = jnp.float32) -> LatentMemory:
    """An empty memory of coloured points; see `latent.create`."""
    return latent.create(capacity, channels, dtype)

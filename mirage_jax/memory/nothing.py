"""No memory: nothing is remembered, so the generator is shown the latest frames alone, and an empty memory."""

from __future__ import annotations

import chex
import jax.numpy as jnp

from mirage_jax.memory.kinds import Encode, Observation, Views
from mirage_jax.memory.latent import frame_points
from mirage_jax.memory.points import PointMemory, Readout, create

__all__ = ["create", "frame_points", "recall", "remember"]

CONDITIONS = False


def remember(memory: PointMemory, observed: Observation) -> PointMemory:
    """The memory as it was."""
    del observed
    return memory


def recall(memory: PointMemory, views: Views, footprint: int, encode: Encode | None = None) -> Readout:
    """Nothing, at the latent frames of target and preceding."""
    del footprint, encode
    count = len(views.frame_cameras) // views.stride + len(views.context)
    grid: tuple[int, ...] = (count, views.context.height, views.context.width)
    blank: chex.Array = jnp.zeros(grid)
    return Readout(
        features=jnp.zeros((*grid, memory.features.shape[-1]), memory.features.dtype),
        visible=jnp.zeros(grid, bool),
        depth=blank,
        scale=blank,
        index=jnp.full(grid, -1, jnp.int32),
    )

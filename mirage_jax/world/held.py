"""What the memory holds already of what new frames show, and need not be told again.

A generated frame shows a known place a little worse than the frame that it was remembered from. Written as well, at a
depth that is a little nearer in half of the cells, it hides what was first seen there: with every visit the place
drifts.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from mirage_jax.memory.latent import Readout
from mirage_jax.world.dynamic import DEPTH_TOLERANCE

COARSEST = 1.5
"""Cells of the new view that a remembered cell may span and still count: a coarser one is worth a closer look."""


def held(depth: chex.Array, sky: chex.Array, readout: Readout) -> jax.Array:
    """Cells of new frames whose surface, or sky, the memory shows there, as finely as they do.

    Args:
      depth: `[T, h, w]` aligned depth; 0, inf and NaN are no surface.
      sky: bool `[T, h, w]`.
      readout: of the same cameras, before anything new is written, with `scale`.

    Returns:
      bool `[T, h, w]`, False where the memory shows nothing.
    """
    assert readout.scale is not None
    surface = jnp.isfinite(depth) & (depth > 0) & jnp.isfinite(readout.depth) & (readout.depth > 0)
    ratio = jnp.log(jnp.where(surface, depth, 1.0)) - jnp.log(jnp.where(surface, readout.depth, 1.0))
    same = jnp.where(sky, jnp.isinf(readout.depth), surface & (jnp.abs(ratio) <= DEPTH_TOLERANCE))
    return readout.visible & same & (readout.scale <= COARSEST)

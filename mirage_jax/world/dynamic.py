"""New frames against the memory, without a network: what disagrees with it moves, what agrees is known already.

Something stands in front of what the memory shows there and looks different: it is not written (`intruding`). Something
the memory holds is seen through, with all that is around its place clearly behind it: it has gone, and is retired
(`seen_through`). What becomes of what the memory shows already is said by `memory.merge`.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from mirage_jax.geometry import Camera
from mirage_jax.memory.comparison import DEPTH_TOLERANCE, met
from mirage_jax.memory.points import PointMemory, Readout

FEATURE_TOLERANCE = 0.5
"""Root mean square difference of tokens above which they look different; tokens have unit variance, so two unrelated
ones differ by 1.4."""


def intruding(features: chex.Array, depth: chex.Array, readout: Readout) -> jax.Array:
    """New cells in front of what the memory shows there, by depth and by look; both must disagree.

    Depth alone may be a bad guess, features alone light or a blurred token. In a scene at rest under one cell in a
    hundred is left out: where something near comes into a cell, or the memory has a hole, what is behind is shown.

    Args:
      features: `[T, h, w, C]` new tokens.
      depth: `[T, h, w]` aligned depth; inf the sky, 0 unknown.
      readout: of the same cameras, before anything new is written.

    Returns:
      bool `[T, h, w]`, False where the memory shows nothing.
    """
    known = readout.visible & (depth > 0) & jnp.isfinite(depth)
    near = jnp.log(jnp.where(known, depth, 1.0)) + DEPTH_TOLERANCE < jnp.log(jnp.where(known, readout.depth, 1.0))
    difference = features.astype(jnp.float32) - readout.features.astype(jnp.float32)
    return known & near & (jnp.sqrt(jnp.mean(difference**2, axis=-1)) > FEATURE_TOLERANCE)


def seen_through(memory: PointMemory, depth: chex.Array, cameras: Camera) -> jax.Array:
    """Points of the memory that new depth shows to be gone.

    A point is seen through in a frame where the depth at the cell it projects to and at all eight around it is clearly
    behind it (`DEPTH_TOLERANCE`, `SIZES`); cells off the grid or of unknown depth are not. It has gone if it is seen
    through in a frame, and found at its depth in none. Directions (sky) are never seen through.

    Args:
      memory: what is held.
      depth: `[T, h, w]` aligned depth; inf the sky, 0 unknown.
      cameras: `Camera[T]` on the `h x w` grid.

    Returns:
      bool `[N]`, False for empty slots.
    """
    through, found = met(memory, depth, cameras)
    return through & ~found & (memory.w != 0)

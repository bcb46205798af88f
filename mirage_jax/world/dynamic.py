"""New frames against the memory, without a network: what disagrees with it moves, what agrees is known already.

Something stands in front of what the memory shows there and looks different: it is not written (`intruding`). Something
the memory holds is seen through, with all that is around its place clearly behind it: it has gone, and is retired
(`seen_through`). What the memory shows already need not be told again (`already_in_memory`).
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from mirage_jax import geometry
from mirage_jax.geometry import Camera
from mirage_jax.memory.points import NEAR, PointMemory, Readout

DEPTH_TOLERANCE = 0.15
"""Log-ratio of depths below which two of them may be the same surface: several times the noise of aligned depth."""

FEATURE_TOLERANCE = 0.5
"""Root mean square difference of tokens above which they look different; tokens have unit variance, so two unrelated
ones differ by 1.4."""

COARSEST = 1.5
"""Cells of the new view that a remembered cell may span and still count: a coarser one is worth a closer look."""

SIZES = 2.0
"""A point is seen through only by depth at least this many sizes of its source cell behind it (slanted surfaces)."""


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


def already_in_memory(depth: chex.Array, sky: chex.Array, readout: Readout) -> jax.Array:
    """Cells of new frames whose surface, or sky, the memory shows there, or beside what hides it, as finely as they do.

    A generated frame shows a known place a little worse than the frame that it was remembered from. Written as well, at
    a depth that is a little nearer in half of the cells, it would hide what was first seen there: with every visit the
    place would drift.

    At an outline, where something near ends, the memory shows the near thing up to a cell further than a frame does.
    What the frame shows behind it would stay hidden from there if it were written, and so be written again with every
    visit. It is known if one of the eight cells around shows it.

    Args:
      depth: `[T, h, w]` aligned depth; 0, inf and NaN are no surface.
      sky: bool `[T, h, w]`.
      readout: of the same cameras, before anything new is written, with `scale`.

    Returns:
      bool `[T, h, w]`, False where the memory shows nothing.
    """
    assert readout.scale is not None
    height, width = depth.shape[1:]
    surface = jnp.isfinite(depth) & (depth > 0)
    log = jnp.log(jnp.where(surface, depth, 1.0))
    # The log of the depth that is shown; NaN, as which nothing is known, where none is, or too coarsely.
    shown = jnp.where(readout.visible & (readout.scale <= COARSEST) & (readout.depth > 0), readout.depth, jnp.nan)
    around = jnp.log(jnp.pad(shown, ((0, 0), (1, 1), (1, 1)), constant_values=jnp.nan))

    def same(i: int, j: int) -> jax.Array:
        there = around[:, i : i + height, j : j + width]
        return jnp.where(sky, there == jnp.inf, surface & (jnp.abs(log - there) <= DEPTH_TOLERANCE))

    hidden = readout.visible & (jnp.where(sky, jnp.inf, depth) > readout.depth)
    beside = jnp.any(jnp.stack([same(i, j) for i in range(3) for j in range(3)]), axis=0)
    return same(1, 1) | (hidden & beside)


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
    height, width = cameras.height, cameras.width
    held = (jnp.arange(memory.capacity) < memory.size) & (memory.w != 0)
    points = memory.points
    known = jnp.where(depth > 0, depth, 0.0)  # NaN is unknown too

    def one(frame: tuple[jax.Array, Camera]) -> tuple[jax.Array, jax.Array]:
        shown, camera = frame
        padded = jnp.pad(shown, 1)
        shifted = [padded[i : i + height, j : j + width] for i in range(3) for j in range(3)]
        least = jnp.min(jnp.stack(shifted), axis=0)
        uv, z = geometry.project(camera, points)
        cell = jnp.floor(uv)
        inside = held & (z > NEAR) & (cell >= 0).all(-1) & (cell < jnp.array([width, height])).all(-1)
        column, row = jnp.where(inside[:, None], cell, 0).astype(jnp.int32).T
        z = jnp.where(inside, z, 1.0)
        beyond = jnp.maximum(z * jnp.exp(DEPTH_TOLERANCE), z + SIZES * memory.cell_size)
        at = shown[row, column]
        there = inside & (at > 0) & (jnp.abs(jnp.log(jnp.where(at > 0, at, 1.0) / z)) <= DEPTH_TOLERANCE)
        return inside & (least[row, column] > beyond), there

    def add(found, frame):
        gone, there = one(frame)
        return (found[0] | gone, found[1] | there), None

    nothing = jnp.zeros(memory.capacity, bool)
    (gone, there), _ = jax.lax.scan(add, (nothing, nothing), (known, cameras))
    return gone & ~there

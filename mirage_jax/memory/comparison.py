"""New cells beside what a memory shows at them, and its points beside new depth: `merge` decides by these."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
from flax import struct

from mirage_jax.geometry import Camera, lift, project, ray_directions
from mirage_jax.geometry.exact import norm3
from mirage_jax.memory.points import NEAR, PointMemory, Readout

DEPTH_TOLERANCE = 0.15
"""Log-ratio of depths below which two of them may be the same surface: several times the noise of aligned depth."""

COARSEST = 1.5
"""Cells of the new view that a remembered cell may span and still count: a coarser one is worth a closer look."""

ASLANT = 0.2
"""Least cosine between a view and a surface's normal that is believed: at outlines normals are of no surface."""

SIZES = 2.0
"""A point is seen through only by depth at least this many sizes of its source cell behind it (slanted surfaces)."""


@struct.dataclass
class Comparison:
    """New cells beside what the memory shows at them, each `[T, h, w]`.

    Attributes:
      same: bool, the memory shows the cell's surface, or sky, there.
      hidden: bool, the memory shows something nearer there, and the cell's surface in one of the eight cells around, as
        finely. At an outline, where something near ends, it is shown up to a cell further than a frame shows it; what
        is behind would stay hidden from there if it entered, and so enter again with every visit.
      scale: float32, cells of the new view that the source cell of the point shown spans.
      gain: float32, how many times the new source cell fits into that of the point shown, on the surface; 1 where
        the memory does not tell from where its points were seen.
      turned: float32, (1 - cos) / 2 of the angle between both views of the surface; 0 likewise.
    """

    same: chex.Array  # [T, h, w]
    hidden: chex.Array  # [T, h, w]
    scale: chex.Array  # [T, h, w]
    gain: chex.Array  # [T, h, w]
    turned: chex.Array  # [T, h, w]

    @property
    def known(self) -> jax.Array:
        """Bool `[T, h, w]`: the memory has the surface, as finely."""
        return (self.same & (self.scale <= COARSEST)) | self.hidden


def compare(
    memory: PointMemory | None, depth: chex.Array, sky: chex.Array, cameras: Camera | None, readout: Readout
) -> Comparison:
    """New cells beside what a memory shows at them.

    Args:
      memory: what is held; None if the rule asks for no directions.
      depth, sky, cameras, readout: as in `merge.apply`.
    """
    assert readout.scale is not None
    height, width = depth.shape[1:]
    surface = jnp.isfinite(depth) & (depth > 0)
    log = jnp.log(jnp.where(surface, depth, 1.0))
    shown = jnp.where(readout.visible & (readout.depth > 0), readout.depth, jnp.nan)  # as NaN is nothing

    def around(depth: jax.Array, i: int, j: int) -> jax.Array:
        padded = jnp.log(jnp.pad(depth, ((0, 0), (1, 1), (1, 1)), constant_values=jnp.nan))
        there = padded[:, i : i + height, j : j + width]
        return jnp.where(sky, there == jnp.inf, surface & (jnp.abs(log - there) <= DEPTH_TOLERANCE))

    fine = jnp.where(readout.scale <= COARSEST, shown, jnp.nan)
    beside = jnp.any(jnp.stack([around(fine, i, j) for i in range(3) for j in range(3)]), axis=0)
    nearer = readout.visible & (jnp.where(sky, jnp.inf, depth) > readout.depth)
    same = around(shown, 1, 1)
    gain, turned = jnp.ones_like(depth), jnp.zeros_like(depth)
    if memory is not None and memory.seen_from is not None:
        old = memory.seen_from[jnp.maximum(readout.index, 0)].astype(jnp.float32) / 127
        new = -ray_directions(cameras)
        points = lift(cameras, jnp.where(surface, depth, 1.0))
        normal = jnp.cross(jnp.gradient(points, axis=2), jnp.gradient(points, axis=1))
        slant = [jnp.maximum(jnp.abs((normal * view).sum(-1)) / _length(normal), ASLANT) for view in (new, old)]
        gain = jnp.where(sky, 1.0, readout.scale**2 * slant[0] / slant[1])
        turned = jnp.where(sky, 0.0, 0.5 - 0.5 * (new * old).sum(-1) / _length(old))
    return Comparison(same=same, hidden=nearer & beside & ~same, scale=readout.scale, gain=gain, turned=turned)


def met(memory: PointMemory, depth: chex.Array, cameras: Camera) -> tuple[jax.Array, jax.Array]:
    """Points that new depth meets: bool `[N]` each, those seen through in a frame, those found at their depth in one.

    A point is seen through in a frame where the depth at the cell it projects to and at all eight around it is clearly
    behind it (`DEPTH_TOLERANCE`, `SIZES`); cells off the grid or of unknown depth are not.

    Args:
      memory: what is held.
      depth: `[T, h, w]` aligned depth; inf the sky, 0 unknown.
      cameras: `Camera[T]` on the `h x w` grid.
    """
    height, width = cameras.height, cameras.width
    held, point = jnp.arange(memory.capacity) < memory.size, memory.w != 0
    points = memory.points
    known = jnp.where(depth > 0, depth, 0.0)  # NaN is unknown too

    def one(frame: tuple[jax.Array, Camera]) -> tuple[jax.Array, jax.Array]:
        shown, camera = frame
        padded = jnp.pad(shown, 1)
        shifted = [padded[i : i + height, j : j + width] for i in range(3) for j in range(3)]
        least = jnp.min(jnp.stack(shifted), axis=0)
        uv, z = project(camera, points)
        cell = jnp.floor(uv)
        inside = held & (z > jnp.where(point, NEAR, 0.0))
        inside &= (cell >= 0).all(-1) & (cell < jnp.array([width, height])).all(-1)
        column, row = jnp.where(inside[:, None], cell, 0).astype(jnp.int32).T
        z = jnp.where(inside, z, 1.0)
        beyond = jnp.maximum(z * jnp.exp(DEPTH_TOLERANCE), z + SIZES * memory.cell_size)
        at = shown[row, column]
        near = (at > 0) & (jnp.abs(jnp.log(jnp.where(at > 0, at, 1.0) / z)) <= DEPTH_TOLERANCE)
        return inside & (least[row, column] > beyond), inside & jnp.where(point, near, at == jnp.inf)

    def add(found, frame):
        through, there = one(frame)
        return (found[0] | through, found[1] | there), None

    nothing = jnp.zeros(memory.capacity, bool)
    return jax.lax.scan(add, (nothing, nothing), (known, cameras))[0]


def _length(vector: jax.Array) -> jax.Array:
    return jnp.maximum(norm3(tuple(vector[..., i] for i in range(3))), 1e-12)

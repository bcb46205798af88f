"""Which stored point each cell of a view shows: z-buffering without a sort, the same to the bit on every path.

A view is decided by scatters alone. Minima and maxima do not care about the order of
their arguments, so the result does not depend on threads, on blocks or on what else is
compiled around it; ties are broken by the point's number, later written first.

Points are taken in blocks of those groups whose bounds a view may see: a memory
costs what is in view, not what it holds or could hold. The z-buffer of one view and one block of
points fit the caches of a CPU, which is why this module knows one view only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from mirage_jax.geometry import Camera, project
from mirage_jax.geometry.camera import rigid_inverse
from mirage_jax.geometry.exact import opaque, product

_State = TypeVar("_State")

BLOCK = 16384
"""Points taken at a time; a memory of at most this capacity is read without a loop."""

GROUP = 2048
"""Slots that share bounds, and are left out of a view together."""

ROUNDING = 1e-5
"""Relative error that bounds allow for: many times that of a projection in float32."""

SURFACE_TOLERANCE = 2.0
"""How far behind the front of a cell, in sizes of its own source cell, a point still counts as the same surface.

Slanted surfaces need it: the depth of a floor changes by (distance / camera height)
cell sizes from one cell to the next, and without tolerance the point nearest to the
camera wins over the point in the middle of the cell. The benchmark suite
`memory_quality` measures the choice: below 2 the readout is further from the truth,
above it more is shown from behind.
"""


SCALE_WEIGHT = 2.0
"""What a difference in scale costs a point that competes for a cell, beside its squared distance from the centre.

A token says what its own cell looked like, so one that was written from about the same distance tells more of a cell
than one that happens to project closer to its middle: `SCALE_WEIGHT (s + 1 / s - 2)` for a source cell that spans `s`
cells of this view, 0 at `s = 1` and the same for twice and half. Tokens of real video gain by it, up to about here;
what it costs is that more is shown from behind, which the benchmark suite `memory_quality` measures.
"""


@struct.dataclass
class Splats:
    """The geometry of N stored points, column by column (short minor axes vectorise badly).

    Attributes:
      x, y, z, w: `[N]` float32 homogeneous world coordinates.
      cell_size: `[N]` float32 world size of the source cells.
      bounds: `[2, 2, 3, G]` of every `GROUP` slots (`bounds`).
    """

    x: jax.Array  # [N]
    y: jax.Array  # [N]
    z: jax.Array  # [N]
    w: jax.Array  # [N]
    cell_size: jax.Array  # [N]
    bounds: jax.Array  # [2, 2, 3, G]


class _Seen(NamedTuple):
    """A block of points as one camera sees it, each `[B]`."""

    number: jax.Array  # position in the memory
    u: jax.Array
    v: jax.Array
    depth: jax.Array  # inf for directions, NaN for what cannot be seen
    extent: tuple[jax.Array, jax.Array]  # size of the source cell in cells of this view, along u and v
    cell_size: jax.Array


def no_bounds(capacity: int) -> jax.Array:
    """Bounds of the groups of an empty memory; one of them, beyond its end, makes room for a stretch of any length."""
    return jnp.tile(jnp.array([jnp.inf, -jnp.inf])[:, None, None], (2, 1, 3, capacity // GROUP + 2))


def bounds(x: jax.Array, y: jax.Array, z: jax.Array, w: jax.Array, held: jax.Array) -> jax.Array:
    """Least and greatest coordinates of the points, and of the directions, in each group.

    Args:
      x, y, z, w: `[G GROUP]` positions.
      held: bool `[G GROUP]`, which of them there are.

    Returns:
      `[2, 2, 3, G]`: points or directions, least or greatest, coordinate; inf and -inf where there are none.
    """
    position = lax.stop_gradient(jnp.stack([x, y, z])).reshape(3, -1, GROUP)

    def of(there: jax.Array) -> jax.Array:
        there = there.reshape(-1, GROUP)
        least, greatest = jnp.where(there, position, jnp.inf).min(2), jnp.where(there, position, -jnp.inf).max(2)
        return jnp.stack([least, greatest])

    return jnp.stack([of(held & (w != 0)), of(held & (w == 0))])


def may_see(camera: Camera, bounds: jax.Array, *, reach: int, near: float) -> jax.Array:
    """Bool `[G]`: groups that are not wholly behind one of the five planes of a view.

    Args:
      camera: one camera.
      bounds: `[2, 2, 3, G]` of the groups.
      reach: cells that a point covers beyond its own.
      near: near plane of the points, scene units; that of the directions is 0.
    """
    intrinsics, cam2world = camera.intrinsics, camera.cam2world
    view, margin, zero = rigid_inverse(cam2world), reach + 1.0, jnp.zeros(())
    (fx, skew, cx), (_, fy, cy) = intrinsics[0], intrinsics[1]
    sides = jnp.array(  # in camera axes, positive inside where z is
        [
            [fx, skew, cx + margin],
            [-fx, -skew, camera.width + margin - cx],
            [zero, fy, cy + margin],
            [zero, -fy, camera.height + margin - cy],
            [zero, zero, 1.0],
        ]
    )
    normal = (sides[:, :, None] * view[:3, :3]).sum(1)[..., None]  # [5, 3, 1]
    offset = jnp.stack([(sides * view[:3, 3]).sum(1) - jnp.array([0, 0, 0, 0, near]), jnp.zeros(5)])  # [2, 5]
    least, greatest = bounds[:, 0], bounds[:, 1]  # [2, 3, G]
    most = jnp.maximum(normal * least[:, None], normal * greatest[:, None]).sum(2) + offset[..., None]  # [2, 5, G]
    length = jnp.maximum(jnp.abs(least), jnp.abs(greatest)).sum(1) + jnp.abs(view[:3, 3]).sum()  # [2, G]
    outside = most + ROUNDING * jnp.abs(sides).sum(1)[:, None] * length[:, None] < 0  # what is NaN is not outside
    return jnp.any((least <= greatest)[:, 0] & ~outside.any(1), axis=0)


def nearest(camera: Camera, splats: Splats, size: jax.Array, *, near: float) -> jax.Array:
    """The point of smallest depth in each cell (paper eq. 9); at equal depth the one written later.

    Args:
      camera: one camera on the grid to fill.
      splats: the stored points.
      size: int32 `[]`; points from this number on do not exist.
      near: near plane, scene units.

    Returns:
      `[h, w]` int32 numbers of points, -1 where no point falls.
    """

    def step(best: tuple[jax.Array, jax.Array], seen: _Seen) -> tuple[jax.Array, jax.Array]:
        cell = _cell(camera, jnp.floor(seen.u), jnp.floor(seen.v), seen.depth > 0)
        return _keep_least(best, cell, seen.depth, seen.number)

    _, number = _over_blocks(camera, splats, size, near, 0, step, _nothing(camera))
    return number.reshape(camera.height, camera.width)


def footprint(
    camera: Camera,
    splats: Splats,
    size: jax.Array,
    *,
    max_footprint: int,
    near: float,
    tolerance: float = SURFACE_TOLERANCE,
    scale_weight: float = SCALE_WEIGHT,
) -> jax.Array:
    """The point of the front surface that fits each cell best, where points have the size of their source cells.

    A point covers its own cell, and those of the `max_footprint x max_footprint` around it
    whose centre is within half its projected size. The smallest depth that covers a
    cell is the front surface; among the points of that surface (no further behind the front than
    `tolerance` sizes of their source cells) that wins which projects near the centre of the cell and was written
    from about as far away (see `SCALE_WEIGHT`); of equals the one written later.

    Args:
      camera, splats, size, near: as in `nearest`.
      max_footprint: odd.
      tolerance: see `SURFACE_TOLERANCE`.
      scale_weight: see `SCALE_WEIGHT`.

    Returns:
      `[h, w]` int32 numbers of points, -1 where no point covers the centre.
    """

    def step_front(front: jax.Array, seen: _Seen) -> jax.Array:
        def lower(i: jax.Array, front: jax.Array) -> jax.Array:
            cell, _ = _covered(camera, seen, i, max_footprint)
            return front.at[cell].min(seen.depth, mode="drop")

        return lax.fori_loop(0, max_footprint**2, lower, front)

    reach = max_footprint // 2
    front = _over_blocks(camera, splats, size, near, reach, step_front, _nothing(camera)[0])

    def step_choose(best: tuple[jax.Array, jax.Array], seen: _Seen) -> tuple[jax.Array, jax.Array]:
        scale = jnp.maximum(*seen.extent)
        # As s + 1 / s - 2, but without its rounding, which would decide between points that fit equally well.
        rescaled = product(product(scale - 1.0, scale - 1.0) / scale, scale_weight)

        def choose(i: jax.Array, best: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            cell, distance = _covered(camera, seen, i, max_footprint)
            limit = front.at[cell].get(mode="fill", fill_value=-1.0) + product(seen.cell_size, tolerance)
            return _keep_least(best, jnp.where(seen.depth <= limit, cell, front.size), distance + rescaled, seen.number)

        return lax.fori_loop(0, max_footprint**2, choose, best)

    _, number = _over_blocks(camera, splats, size, near, reach, step_choose, _nothing(camera))
    return number.reshape(camera.height, camera.width)


def extent(camera: Camera, cell_size: jax.Array, depth: jax.Array) -> tuple[jax.Array, jax.Array]:
    """How many cells of a view a source cell spans along u and v.

    Args:
      camera: cameras of leading shape `[...]`.
      cell_size: `[..., *grid]` world size of the source cells.
      depth: `[..., *grid]` z-depth in these cameras; of a direction, its z-component.
    """
    focal = opaque(camera.intrinsics)[..., (0, 1), (0, 1)]
    focal = focal.reshape(*camera.shape, *(1,) * (depth.ndim - len(camera.shape)), 2)
    safe = jnp.where(depth > 0, depth, 1.0)
    return product(cell_size, focal[..., 0]) / safe, product(cell_size, focal[..., 1]) / safe


def _nothing(camera: Camera) -> tuple[jax.Array, jax.Array]:
    cells = camera.height * camera.width
    return jnp.full((cells,), jnp.inf), jnp.full((cells,), -1, jnp.int32)


def _over_blocks(
    camera: Camera,
    splats: Splats,
    size: jax.Array,
    near: float,
    reach: int,
    step: Callable[[_State, _Seen], _State],
    state: _State,
) -> _State:
    """Folds `step` over the points held that may be in view."""
    capacity, several = splats.x.shape[0], max(BLOCK // GROUP, 1)

    def take(number: jax.Array, part: Splats, state: _State) -> _State:
        return step(state, _see(camera, part, number, number < size, near))

    if capacity <= BLOCK:
        return take(jnp.arange(capacity, dtype=jnp.int32), splats, state)
    seen = may_see(camera, splats.bounds, reach=reach, near=near)
    (order,) = jnp.nonzero(seen, size=len(seen) + several, fill_value=len(seen))  # those beyond hold nothing

    columns, slots = splats.replace(bounds=None), jnp.arange(several * GROUP, dtype=jnp.int32)

    def stretch(group: jax.Array) -> tuple[jax.Array, Splats]:
        # The last one may begin early and see points twice, which minima and maxima forgive.
        start = jnp.minimum(group[0] * GROUP, max(capacity - slots.size, 0))
        return start + slots, jax.tree.map(lambda c: lax.dynamic_slice(c, (start,), (slots.size,)), columns)

    def pieces(group: jax.Array) -> tuple[jax.Array, Splats]:
        number = group[slots // GROUP] * GROUP + slots % GROUP
        return number, jax.tree.map(lambda column: column.at[number].get(mode="clip"), columns)

    def body(i: jax.Array, state: _State) -> _State:
        group = lax.dynamic_slice(order, (i * several,), (several,)).astype(jnp.int32)
        if slots.size > capacity:
            return take(*pieces(group), state)
        # One after the other, as where all is in view, they are read much faster.
        return take(*lax.cond(group[-1] - group[0] == several - 1, stretch, pieces, group), state)

    return lax.fori_loop(0, (seen.sum() + several - 1) // several, body, state)


def _see(camera: Camera, splats: Splats, number: jax.Array, held: jax.Array, near: float) -> _Seen:
    uv, depth = project(camera, jnp.stack([splats.x, splats.y, splats.z, splats.w], axis=-1))
    direction = splats.w == 0
    seen = held & (depth > jnp.where(direction, 0.0, near))
    return _Seen(
        number=number,
        u=uv[..., 0],
        v=uv[..., 1],
        depth=jnp.where(seen, jnp.where(direction, jnp.inf, depth), jnp.nan),
        extent=extent(camera, splats.cell_size, depth),
        cell_size=splats.cell_size,
    )


def _cell(camera: Camera, column: jax.Array, row: jax.Array, usable: jax.Array) -> jax.Array:
    """Flat cell numbers; `h w`, which scatters drop, for what is off the grid, not usable, or NaN."""
    inside = usable & (column >= 0) & (column < camera.width) & (row >= 0) & (row < camera.height)
    flat = jnp.where(inside, row * camera.width + column, camera.height * camera.width)
    return flat.astype(jnp.int32)


def _covered(camera: Camera, seen: _Seen, i: jax.Array, max_footprint: int) -> tuple[jax.Array, jax.Array]:
    """For the i-th neighbour of the points' own cells: the cell, dropped where not covered, and squared distance."""
    down, right = (jnp.asarray(x - max_footprint // 2, jnp.float32) for x in (i // max_footprint, i % max_footprint))
    row, column = jnp.floor(seen.v) + down, jnp.floor(seen.u) + right
    du, dv = seen.u - (column + 0.5), seen.v - (row + 0.5)
    covers = (jnp.abs(du) <= 0.5 * seen.extent[0]) & (jnp.abs(dv) <= 0.5 * seen.extent[1])
    own = (down == 0) & (right == 0)
    return _cell(camera, column, row, (own | covers) & (seen.depth > 0)), product(du, du) + product(dv, dv)


def _keep_least(
    best: tuple[jax.Array, jax.Array], cell: jax.Array, score: jax.Array, number: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Takes candidates into the best (score, number) of each cell: least score, then greatest number."""
    least = best[0].at[cell].min(score, mode="drop")
    # A score that was beaten takes its point's number with it.
    greatest = jnp.where(least < best[0], -1, best[1])
    wins = score == least.at[cell].get(mode="fill", fill_value=jnp.nan)
    return least, greatest.at[jnp.where(wins, cell, least.size)].max(number, mode="drop")

"""Which stored point each cell of a view shows: z-buffering without a sort, the same to the bit on every path.

A view is decided by scatters alone. Minima and maxima do not care about the order of
their arguments, so the result does not depend on threads, on blocks or on what else is
compiled around it; ties are broken by the point's number, later written first.

Points are taken in blocks (`groups`). The z-buffer of one view and one block of points fit the caches of a CPU, which
is why this module knows one view only. A device of several (`sharded`) knows its own points only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from mirage_jax.geometry import Camera, project
from mirage_jax.geometry.exact import dot3, norm3, opaque, product
from mirage_jax.memory import groups
from mirage_jax.memory.sharded import WHOLE, Share

_State = TypeVar("_State")

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

VIEW_WEIGHT = 2.0
"""What another side costs a point that competes for a cell, where a memory knows from where its points were seen: times
(1 - cos) / 2 of the angle between both views, so that of two that fit alike the one seen from nearer here is shown."""


@struct.dataclass
class Splats:
    """The geometry of N stored points, column by column (short minor axes vectorise badly).

    Attributes:
      x, y, z, w: `[N]` float32 homogeneous world coordinates.
      cell_size: `[N]` float32 world size of the source cells.
      bounds: `[2, 2, 3, G]` of every `groups.GROUP` slots.
      seen_from: `[N, 3]` int8, see `points.PointMemory`, or None.
    """

    x: jax.Array  # [N]
    y: jax.Array  # [N]
    z: jax.Array  # [N]
    w: jax.Array  # [N]
    cell_size: jax.Array  # [N]
    bounds: jax.Array  # [2, 2, 3, G]
    seen_from: jax.Array | None = None  # [N, 3]


class _Seen(NamedTuple):
    """A block of points as one camera sees it, each `[B]`."""

    number: jax.Array  # position in the memory
    u: jax.Array
    v: jax.Array
    depth: jax.Array  # inf for directions, NaN for what cannot be seen
    extent: tuple[jax.Array, jax.Array]  # size of the source cell in cells of this view, along u and v
    cell_size: jax.Array
    turned: jax.Array | float  # (1 - cos) / 2 of the angle between this view of the point and that which it is from


def nearest(camera: Camera, splats: Splats, size: jax.Array, *, near: float, share: Share = WHOLE) -> jax.Array:
    """The point of smallest depth in each cell (paper eq. 9); at equal depth the one written later.

    Args:
      camera: one camera on the grid to fill.
      splats: the stored points.
      size: int32 `[]`; points from this number on do not exist.
      near: near plane, scene units.
      share: of the points, if these are not all.

    Returns:
      `[h, w]` int32 numbers of points, -1 where no point falls.
    """

    def step(best: tuple[jax.Array, jax.Array], seen: _Seen) -> tuple[jax.Array, jax.Array]:
        cell = _cell(camera, jnp.floor(seen.u), jnp.floor(seen.v), seen.depth > 0)
        return _keep_least(best, cell, seen.depth, seen.number)

    number = share.winners(*_over_blocks(camera, splats, size, near, share, 0, step, _nothing(camera)))
    return number.reshape(camera.height, camera.width)


def footprint(
    camera: Camera,
    splats: Splats,
    size: jax.Array,
    *,
    max_footprint: int,
    near: float,
    share: Share = WHOLE,
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
      camera, splats, size, near, share: as in `nearest`.
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
    front = _over_blocks(camera, splats, size, near, share, reach, step_front, _nothing(camera)[0])
    front = share.least(front)

    def step_choose(best: tuple[jax.Array, jax.Array], seen: _Seen) -> tuple[jax.Array, jax.Array]:
        scale = jnp.maximum(*seen.extent)
        # As s + 1 / s - 2, but without its rounding, which would decide between points that fit equally well.
        rescaled = product(product(scale - 1.0, scale - 1.0) / scale, scale_weight)
        if splats.seen_from is not None:
            rescaled += product(seen.turned, VIEW_WEIGHT)

        def choose(i: jax.Array, best: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            cell, distance = _covered(camera, seen, i, max_footprint)
            limit = front.at[cell].get(mode="fill", fill_value=-1.0) + product(seen.cell_size, tolerance)
            return _keep_least(best, jnp.where(seen.depth <= limit, cell, front.size), distance + rescaled, seen.number)

        return lax.fori_loop(0, max_footprint**2, choose, best)

    number = share.winners(*_over_blocks(camera, splats, size, near, share, reach, step_choose, _nothing(camera)))
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
    share: Share,
    reach: int,
    step: Callable[[_State, _Seen], _State],
    state: _State,
) -> _State:
    """Folds `step` over the points held that may be in view."""
    slots, columns = splats.x.shape[0], splats.replace(bounds=None)
    first, bounds = share.first(slots), share.bounds(splats.bounds, slots)

    def take(state: _State, slot: jax.Array, part: Splats) -> _State:
        # A block of a device may reach beyond its slots, to numbers that are the next one's.
        number = jnp.where(slot < slots, first + slot, size)
        return step(state, _see(camera, part, number, number < size, near))

    return groups.fold(camera, columns, bounds, near=near, reach=reach, step=take, state=state)


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
        turned=_turned(camera, splats),
    )


def _turned(camera: Camera, splats: Splats) -> jax.Array | float:
    if splats.seen_from is None:
        return 0.0
    eye = opaque(camera.cam2world)[:3, 3]
    away = [jnp.where(splats.w == 0, -c, e - c) for c, e in zip((splats.x, splats.y, splats.z), eye, strict=True)]
    old = [splats.seen_from[..., i].astype(jnp.float32) for i in range(3)]
    lengths = product(jnp.maximum(norm3(tuple(away)), 1e-12), jnp.maximum(norm3(tuple(old)), 1.0))
    return 0.5 - product(dot3(tuple(away), tuple(old)) / lengths, 0.5)


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

"""Slots in groups with bounds: which of them a view may see, and a fold over just those.

Points are taken in blocks of those groups whose bounds a view may see: a memory costs what is in view, not what it
holds or could hold.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from mirage_jax.geometry import Camera
from mirage_jax.geometry.camera import rigid_inverse

_State = TypeVar("_State")
_Columns = TypeVar("_Columns")

BLOCK = 16384
"""Points taken at a time; a memory of at most this capacity is read without a loop."""

GROUP = 2048
"""Slots that share bounds, and are left out of a view together."""

ROUNDING = 1e-5
"""Relative error that bounds allow for: many times that of a projection in float32."""


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
    position = jnp.stack([column.reshape(-1, GROUP) for column in lax.stop_gradient((x, y, z))])
    point, held = (w != 0).reshape(-1, GROUP), held.reshape(-1, GROUP)
    there = jnp.stack([held & point, held & ~point])

    def of(number: jax.Array) -> jax.Array:
        column, mine = position[number % 3], there[number // 3]
        return jnp.stack([jnp.where(mine, column, jnp.inf).min(1), jnp.where(mine, column, -jnp.inf).max(1)])

    # One after the other, so that they need room for one.
    return lax.map(of, jnp.arange(6)).reshape(2, 3, 2, -1).swapaxes(1, 2)


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


def fold(
    camera: Camera,
    columns: _Columns,
    bounds: jax.Array,
    *,
    near: float,
    reach: int,
    step: Callable[[_State, jax.Array, _Columns], _State],
    state: _State,
) -> _State:
    """Folds `step(state, slots, columns of these slots)` over the points that may be in view, and more.

    Args:
      camera: one camera.
      columns: a tree of `[N, ..]`.
      bounds: `[2, 2, 3, G]` of the groups.
      near, reach: as in `may_see`.
      step: may be given slots twice, and slots beyond the points that are held.
      state: what it begins with.
    """
    capacity, several = jax.tree.leaves(columns)[0].shape[0], max(BLOCK // GROUP, 1)
    if capacity <= BLOCK:
        return step(state, jnp.arange(capacity, dtype=jnp.int32), columns)
    seen = may_see(camera, bounds, reach=reach, near=near)
    (order,) = jnp.nonzero(seen, size=len(seen) + several, fill_value=len(seen))  # those beyond hold nothing

    slots = jnp.arange(several * GROUP, dtype=jnp.int32)

    def stretch(group: jax.Array) -> tuple[jax.Array, _Columns]:
        # The last one may begin early and see points twice, which minima and maxima forgive.
        start = jnp.minimum(group[0] * GROUP, max(capacity - slots.size, 0))
        return start + slots, jax.tree.map(lambda c: lax.dynamic_slice_in_dim(c, start, slots.size), columns)

    def pieces(group: jax.Array) -> tuple[jax.Array, _Columns]:
        number = group[slots // GROUP] * GROUP + slots % GROUP
        return number, jax.tree.map(lambda column: column.at[number].get(mode="clip"), columns)

    def body(i: jax.Array, state: _State) -> _State:
        group = lax.dynamic_slice(order, (i * several,), (several,)).astype(jnp.int32)
        if slots.size > capacity:
            return step(state, *pieces(group))
        # One after the other, as where all is in view, they are read much faster.
        return step(state, *lax.cond(group[-1] - group[0] == several - 1, stretch, pieces, group))

    return lax.fori_loop(0, (seen.sum() + several - 1) // several, body, state)

"""How frames enter a memory of points: every cell is lifted to its place, and what is to be remembered is appended."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
from jax import lax

from mirage_jax.geometry import Camera, lift, ray_directions, rays
from mirage_jax.geometry.exact import norm3, opaque, product
from mirage_jax.memory import evict, groups
from mirage_jax.memory.points import NEAR, PointMemory, retire
from mirage_jax.memory.sharded import Share, on_shares


def write(
    memory: PointMemory,
    features: chex.Array,
    depth: chex.Array,
    cameras: Camera,
    keep: chex.Array,
    sky: chex.Array | None = None,
) -> PointMemory:
    """Appends the cells of T frames (paper eq. 4, 6, 8), in the order frame, row, column.

    A cell enters as a point if `keep` is set, `sky` is not, and its depth is finite and beyond the near plane; as a
    direction if `sky` is set, whatever `keep` and depth say. Cells of cameras that are not finite never enter. Where
    there is no room, the points worth least go, of those held and those that enter (`evict`), and `overflow` counts
    them. Costs what is written, where the memory is donated and none has to go.
    Differentiable in `features` only: positions are data.

    Args:
      memory: what is held so far.
      features: `[T, h, w, C]` tokens.
      depth: `[T, h, w]` z-depth in scene units, at the centres of the cells.
      cameras: `Camera[T]` on the `h x w` grid.
      keep: bool `[T, h, w]`, what is to be remembered (static).
      sky: bool `[T, h, w]`, what is infinitely far away; none if not given.
    """
    grid = (*cameras.shape, cameras.height, cameras.width)
    chex.assert_rank(cameras.cam2world, 3)
    chex.assert_shape(features, (*grid, memory.features.shape[-1]))
    chex.assert_shape([depth, keep] if sky is None else [depth, keep, sky], grid)
    sky = jnp.zeros(grid, bool) if sky is None else jnp.asarray(sky, bool)
    new, enters = _lifted(cameras, jnp.asarray(depth), jnp.asarray(keep, bool), sky)
    new |= {"features": jnp.asarray(features), "last_seen": jnp.broadcast_to(memory.clock, grid)}
    new = {name: new[name].reshape(enters.size, *column.shape[1:]) for name, column in memory.columns.items()}
    enters = enters.reshape(-1)

    surplus = jnp.maximum(memory.size + jnp.sum(enters, dtype=jnp.int32) - memory.capacity, 0)
    centre = lax.stop_gradient(jnp.asarray(cameras.cam2world)[-1, :3, 3])

    def make_room(memory: PointMemory) -> tuple[PointMemory, jax.Array]:
        held = jnp.concatenate([jnp.arange(memory.capacity) < memory.size, enters])
        every = (jnp.concatenate([getattr(memory, name), new[name]]) for name in evict.DECIDES)
        goes = evict.least_valuable(*every, held, centre, surplus)
        return retire(memory, goes[: memory.capacity]), enters & ~goes[memory.capacity :]

    memory, enters = lax.cond(surplus > 0, make_room, lambda memory: (memory, enters), memory)
    return _appended(memory, new, enters).replace(overflow=memory.overflow + surplus, clock=memory.clock + 1)


def _appended(memory: PointMemory, new: dict[str, jax.Array], enters: jax.Array) -> PointMemory:
    """The memory with those of `new` cells, `[M, ..]` a column, that enter; there must be room for them."""
    number, rank = jnp.arange(enters.size), jnp.cumsum(enters, dtype=jnp.int32)
    entered = rank[-1]
    order = jnp.zeros_like(number).at[jnp.where(enters, rank - 1, enters.size + number)].set(number, mode="drop")

    def fill(
        share: Share, columns: dict[str, jax.Array], new: dict[str, jax.Array], order: jax.Array, *sizes: jax.Array
    ) -> dict[str, jax.Array]:
        size, entered = sizes
        slots = columns["x"].shape[0]
        start, row = _stretch(size - share.first(slots), slots, len(order))
        cell, fresh = order[jnp.clip(row, 0, len(order) - 1)], (row >= 0) & (row < entered)

        def filled(name: str, column: jax.Array) -> jax.Array:
            mine = fresh.reshape(-1, *(1,) * (column.ndim - 1))
            stretch = lax.dynamic_slice_in_dim(column, start, len(row))
            stretch = jnp.where(mine, new[name][cell].astype(column.dtype), stretch)
            return lax.dynamic_update_slice_in_dim(column, stretch, start, 0)

        return {name: filled(name, column) for name, column in columns.items()}

    columns = on_shares(fill, memory.columns, new, order, memory.size, entered, columns_back=True)

    # Bounds of the groups that the stretch touches; the first of them may begin before it does.
    start, row = _stretch(memory.size, memory.capacity, len(order))
    group, touched = start // groups.GROUP, len(row) // groups.GROUP + 2
    row = group * groups.GROUP - memory.size + jnp.arange(touched * groups.GROUP)
    cell = order[jnp.clip(row, 0, len(order) - 1)]
    added = groups.bounds(*(new[name][cell] for name in ("x", "y", "z", "w")), (row >= 0) & (row < entered))
    old = lax.dynamic_slice_in_dim(memory.bounds, group, touched, 3)
    both = jnp.stack([jnp.minimum(old[:, 0], added[:, 0]), jnp.maximum(old[:, 1], added[:, 1])], axis=1)
    bounds = lax.dynamic_update_slice_in_dim(memory.bounds, both, group, 3)
    return memory.replace(**columns, bounds=bounds, size=memory.size + entered)


def _stretch(begin: jax.Array, slots: int, count: int) -> tuple[jax.Array, jax.Array]:
    """The stretch of slots that is written again, in place: from `begin` on, or where they end before it does, earlier.

    Its first slot; and for each of its slots, of `count` or all, how many come before it of those from `begin` on.
    """
    count = min(count, slots)
    start = jnp.clip(begin, 0, slots - count)
    return start, start - begin + jnp.arange(count)


def _lifted(
    cameras: Camera, depth: jax.Array, keep: jax.Array, sky: jax.Array
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Positions and cell sizes by name, and which cells enter, each `[T, h, w]`."""
    depth, cameras = lax.stop_gradient((depth, cameras))
    solid = keep & ~sky & jnp.isfinite(depth) & (depth > NEAR)
    depth = jnp.where(solid, depth, 1.0)
    position = jnp.where(sky[..., None], ray_directions(cameras), lift(cameras, depth))

    ray = tuple(rays(cameras)[..., i] for i in range(3))
    forward = jnp.where(sky, 1.0 / norm3(ray), depth)
    intrinsics = opaque(cameras.intrinsics)
    focal = jnp.maximum(intrinsics[..., 0, 0], intrinsics[..., 1, 1])
    cell_size = product(forward, (1.0 / focal)[..., None, None])
    finite = jnp.isfinite(cell_size) & jnp.all(jnp.isfinite(position), axis=-1)
    x, y, z = (position[..., i] for i in range(3))
    seen_from = jnp.round(-127 * ray_directions(cameras)).astype(jnp.int8)
    cells = {"x": x, "y": y, "z": z, "w": jnp.where(sky, 0.0, 1.0), "cell_size": cell_size, "seen_from": seen_from}
    return cells, (solid | sky) & finite

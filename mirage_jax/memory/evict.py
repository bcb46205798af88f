"""Which points go when a memory is full: pure functions of the points alone, exact and without a sort."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from mirage_jax.geometry.exact import product

DECIDES = ("x", "y", "z", "w", "cell_size", "last_seen")
"""Columns of a memory that decide, in the order in which `least_valuable` takes them."""

FINER = 1.5
"""How many times smaller the source cell of a point must be for it to make another of the same place needless."""

_POWERS = 3  # of two, up to which a finer point is found at the place of a coarse one
_TABLES = (0, 0x85EBCA6B)  # numbers that their hashes begin with


def least_valuable(
    x: jax.Array,
    y: jax.Array,
    z: jax.Array,
    w: jax.Array,
    cell_size: jax.Array,
    last_seen: jax.Array,
    held: jax.Array,
    centre: jax.Array,
    count: jax.Array,
) -> jax.Array:
    """Bool `[M]`: the `count` points that are worth least.

    Those not seen for longest come first; of these, those coarser than another point of the same place (`superseded`);
    of these, the farthest from the camera, directions before all; of these, the first.

    Args:
      x, y, z, w, cell_size, last_seen: `[M]` columns of points (`points.PointMemory`).
      held: bool `[M]`, which of them there are.
      centre: `[3]` position of the camera; where it is not finite, nothing is farther than anything.
      count: int32 `[]`, at most as many as there are.
    """
    x, y, z, w, cell_size = lax.stop_gradient((x, y, z, w, cell_size))
    fine = ~superseded(x, y, z, w, cell_size, held)
    dx, dy, dz = (a - b for a, b in zip((x, y, z), centre, strict=True))
    distance = product(product(dx, dx) + product(dy, dy) + product(dz, dz), 1.0)
    distance = jnp.where(w == 0, jnp.inf, jnp.where(jnp.isfinite(centre).all(), distance, 0.0))
    # Of numbers that are not negative, the bits are in their order.
    nearness = ~lax.bitcast_convert_type(distance, jnp.uint32)
    goes, among = jnp.zeros_like(held), held
    for key in (last_seen.astype(jnp.uint32) * 2 + fine, nearness):
        limit = _limit(key, among, count - goes.sum())
        goes, among = goes | (among & (key < limit)), among & (key == limit)
    return goes | (among & (jnp.cumsum(among) <= count - goes.sum()))


def superseded(
    x: jax.Array, y: jax.Array, z: jax.Array, w: jax.Array, cell_size: jax.Array, held: jax.Array
) -> jax.Array:
    """Bool `[M]`: points at whose place there is a finer one.

    The place of a point is the cube that holds it, of the grid whose edge is the least power of two above its cell
    size. Places are rows of two tables, found by hashes: a point passes for superseded that is not where in both of
    them it shares its row with another place, a finer one; of a full memory's points about one in thirty.

    Args:
      x, y, z, w, cell_size, held: as in `least_valuable`.
    """
    rows = 2 ** (4 * x.size - 1).bit_length()
    level = jnp.frexp(cell_size)[1]

    def row(level: jax.Array, begin: int) -> jax.Array:
        edge = jnp.ldexp(jnp.ones_like(x), level)
        cube = (jnp.clip(jnp.floor(c / edge), -(2.0**30), 2.0**30).astype(jnp.int32) for c in (x, y, z))
        value = level.astype(jnp.uint32) * jnp.uint32(2654435761) + (w == 0) + jnp.uint32(begin)
        for c, factor in zip(cube, (73856093, 19349663, 83492791), strict=True):
            value = (value ^ (c.astype(jnp.uint32) * jnp.uint32(factor))) * jnp.uint32(0x9E3779B1)
            value ^= value >> 15
        return value % rows

    found = held
    for begin in _TABLES:
        finest = jnp.full((rows,), jnp.inf)
        for power in range(_POWERS):
            finest = finest.at[row(level + power, begin)].min(jnp.where(held, cell_size, jnp.inf))
        found &= finest[row(level, begin)] * FINER < cell_size
    return found


def _limit(key: jax.Array, among: jax.Array, count: jax.Array) -> jax.Array:
    """The greatest number that at most `count` of the keys are below, bit by bit."""

    def bit(i: jax.Array, limit: jax.Array) -> jax.Array:
        higher = limit | (jnp.uint32(1) << (31 - i).astype(jnp.uint32))
        return jnp.where(jnp.sum(among & (key < higher)) <= count, higher, limit)

    return lax.fori_loop(0, 32, bit, jnp.zeros((), jnp.uint32))

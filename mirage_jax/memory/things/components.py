"""Things in one frame: cells that move, grouped by touch and depth, each measured."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
from flax import struct

from mirage_jax.geometry import Camera, lift
from mirage_jax.memory.points import NEAR

SAME_THING = 0.15
"""Log-ratio of depths up to which two cells that touch belong to one thing; also how far the depth of a cell may be
from that of its thing."""

FRONT = 0.25
"""Share of the cells of a thing that are nearer than what counts as its depth: at silhouettes depth is a mixture of the
thing and of what is behind it, never of anything nearer."""

PASSES = 6
"""Of label propagation. In each, every group takes the least label that touches it, and all that lead there follow at
once: groups grow manifold with every pass, whatever their shape."""

DEEP = 0.45
"""How far behind the middle of the side that is seen the centre of a thing is, in its sizes: that of a ball."""

LEAST_CELLS = 2
"""A thing smaller than this is noise of the mask."""


@struct.dataclass
class Components:
    """Up to K things of one frame, the one of most cells first.

    Attributes:
      there: bool `[K]`.
      cells: int32 `[K]` cells on the grid.
      partial: bool `[K]`, whether it is cut by the border of the picture or hidden in part by something nearer: its
        centre is not the thing's.
      centre: `[K, 3]` world position: of the mean of its cells, and behind it as if it were as deep as wide (`DEEP`).
      size: `[K]` extent in scene units: twice the root mean square distance of its cells from their mean.
      offsets: `[K, P, 3]` its cells in the world, relative to the centre.
      features: `[K, P, C]` their tokens.
      cell_size: `[K, P]` world size of a cell; larger where not all cells found room.
      valid: bool `[K, P]`.
    """

    there: chex.Array  # [K]
    cells: chex.Array  # [K]
    partial: chex.Array  # [K]
    centre: chex.Array  # [K, 3]
    size: chex.Array  # [K]
    offsets: chex.Array  # [K, P, 3]
    features: chex.Array  # [K, P, C]
    cell_size: chex.Array  # [K, P]
    valid: chex.Array  # [K, P]


def label(moving: chex.Array, depth: chex.Array) -> jax.Array:
    """Connected components of moving cells: neighbours of eight whose depths agree within `SAME_THING`.

    Depth counts as that of the nearest moving cell that touches: a silhouette belongs to what is in front.

    Args:
      moving: bool `[h, w]`.
      depth: `[h, w]` scene units; what is not finite or not positive belongs to nothing.

    Returns:
      int32 `[h, w]`: the number of the first cell of the same component in reading order; `h w` where nothing moves.
    """
    height, width = moving.shape
    nothing = height * width
    usable = moving & jnp.isfinite(depth) & (depth > NEAR)
    logs = jnp.where(usable, jnp.log(jnp.where(usable, depth, 1.0)), jnp.inf)
    start = jnp.where(usable, jnp.arange(nothing, dtype=jnp.int32).reshape(height, width), nothing)

    def neighbours(x: jax.Array, fill: float) -> list[jax.Array]:
        padded = jnp.pad(x, 1, constant_values=fill)
        return [padded[i : i + height, j : j + width] for i in range(3) for j in range(3) if (i, j) != (1, 1)]

    logs = jnp.minimum(logs, jnp.min(jnp.stack(neighbours(logs, jnp.inf)), axis=0))
    logs = jnp.where(usable, logs, 0.0)
    agree = [jnp.abs(other - logs) <= SAME_THING for other in neighbours(logs, jnp.inf)]

    def spread(_, labels: jax.Array) -> jax.Array:
        near = [jnp.where(same, other, nothing) for same, other in zip(agree, neighbours(labels, nothing), strict=True)]
        least = jnp.where(usable, jnp.minimum(labels, jnp.min(jnp.stack(near), axis=0)), nothing)
        # Each label leads to the least one that touches its group, and no further than that leads in turn.
        leads = jnp.arange(nothing + 1, dtype=jnp.int32).at[labels.reshape(-1)].min(least.reshape(-1))
        leads = jax.lax.fori_loop(0, nothing.bit_length(), lambda _, leads: leads[leads], leads)
        return leads[labels]

    return jax.lax.fori_loop(0, PASSES, spread, start)


def find(
    features: chex.Array, depth: chex.Array, moving: chex.Array, camera: Camera, things: int, cells: int
) -> Components:
    """The largest things that move in one frame.

    Args:
      features: `[h, w, C]` tokens.
      depth: `[h, w]` z-depth, scene units.
      moving: bool `[h, w]`.
      camera: of the frame, on the `h x w` grid.
      things: K.
      cells: P, the most cells kept of one thing; of a larger one, evenly many of its cells in reading order.
    """
    height, width = moving.shape
    labels = label(moving, depth).reshape(-1)
    counts = jnp.zeros(height * width, jnp.int32).at[labels].add(1, mode="drop")
    area, first = jax.lax.top_k(counts, things)
    row, column = jnp.divmod(jnp.arange(height * width), width)
    border = (row == 0) | (row == height - 1) | (column == 0) | (column == width - 1)
    flat_depth, tokens = depth.reshape(-1), features.reshape(-1, features.shape[-1])
    focal = jnp.maximum(camera.intrinsics[0, 0], camera.intrinsics[1, 1])

    # Only what stands beside a thing may hide it (the floor below its feet is nearer too), up to two cells away: the
    # first may be its own that went to what is in front (`label`).
    beside = jnp.pad(jnp.where(jnp.isfinite(depth) & (depth > NEAR), depth, jnp.inf), 2, constant_values=jnp.inf)
    nearest = jnp.min(jnp.stack([beside[2:-2, i : i + width] for i in (0, 1, 3, 4)]), axis=0).reshape(-1)

    def measure(number: jax.Array, count: jax.Array) -> Components:
        mine = (labels == number) & (count >= LEAST_CELLS)
        front = jnp.nanquantile(jnp.where(mine, flat_depth, jnp.nan), FRONT)
        low, high = front * jnp.exp(-SAME_THING), front * jnp.exp(SAME_THING)
        flattened = jnp.clip(jnp.where(mine, flat_depth, 1.0), low, high).reshape(height, width)
        world = lift(camera, jnp.where(mine.reshape(height, width), flattened, 1.0)).reshape(-1, 3)
        total = jnp.maximum(count, 1)
        centre = jnp.where(mine[:, None], world, 0.0).sum(0) / total
        spread = jnp.where(mine, ((world - centre) ** 2).sum(-1), 0.0).sum() / total
        size = 2.0 * jnp.sqrt(spread)
        ray = centre - camera.cam2world[:3, 3]
        centre = centre + DEEP * size * ray / jnp.maximum(jnp.sqrt((ray**2).sum()), 1e-9)
        hidden = mine & (nearest < low)
        (order,) = jnp.nonzero(mine, size=height * width, fill_value=0)
        kept = jnp.minimum(count, cells)
        slot = jnp.arange(cells)
        chosen = order[jnp.minimum(slot * count // jnp.maximum(kept, 1), height * width - 1)]
        valid = (slot < kept) & (count >= LEAST_CELLS)
        coarser = jnp.sqrt(count / jnp.maximum(kept, 1))
        scale = flattened.reshape(-1)[chosen] / focal
        return Components(
            there=count >= LEAST_CELLS,
            cells=count,
            partial=(mine & border).any() | (hidden.sum() * 4 >= count),
            centre=centre,
            size=size,
            offsets=jnp.where(valid[:, None], world[chosen] - centre, 0.0),
            features=jnp.where(valid[:, None], tokens[chosen], 0),
            cell_size=jnp.where(valid, scale * coarser, 0.0),
            valid=valid,
        )

    return jax.vmap(measure)(first, area)

"""A memory over several devices: each holds and z-buffers its share of the points, and they agree on what is shown.

On a mesh (`jax.set_mesh`) with an axis `sequence`, over which the tokens of latent frames are split too, slots are
split into equal stretches, one a device. New cells go to every device, which writes those of its own slots. To read,
each fills z-buffers with its own points; the least depth wins, of equals the greatest number; the token of a winner
comes from its owner. So the result is that of one device to the bit, but for the sign of a zero. Where points go
(`points.retire`, eviction) those that stay move up, over devices as over slots.

A memory whose slots do not divide evenly is held whole by each device: `splits` says so. It holds for what stands
inside `vmap` and `lax.scan` too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from mirage_jax.memory import groups

AXIS = "sequence"
"""Of a mesh, over which points are split."""


@dataclasses.dataclass(frozen=True)
class Share:
    """A device's part of the points, or, where `axis` is None, all of them."""

    axis: str | None = None

    def first(self, slots: int) -> jax.Array | int:
        """The number of the first slot of a device that has so many."""
        return 0 if self.axis is None else lax.axis_index(self.axis).astype(jnp.int32) * slots

    def least(self, score: jax.Array) -> jax.Array:
        """The least of all devices', element by element."""
        return score if self.axis is None else lax.pmin(score, self.axis)

    def winners(self, score: jax.Array, number: jax.Array) -> jax.Array:
        """The number that goes with the least score of all devices, of equals the greatest."""
        if self.axis is None:
            return number
        return lax.pmax(jnp.where(score == self.least(score), number, -1), self.axis)

    def gather(self, column: jax.Array, index: jax.Array) -> jax.Array:
        """Rows of a column `[slots, ..]` by their number in the whole memory, from the device that holds them."""
        if self.axis is None:
            return column[index]
        slot = index - self.first(len(column))
        mine = ((slot >= 0) & (slot < len(column))).reshape(*index.shape, *(1,) * (column.ndim - 1))
        row = column[jnp.clip(slot, 0, len(column) - 1)]
        return lax.psum(jnp.where(mine, row, jnp.zeros((), row.dtype)), self.axis)

    def bounds(self, bounds: jax.Array, slots: int) -> jax.Array:
        """Of the groups of a device's slots."""
        if self.axis is None or slots <= groups.BLOCK:
            return bounds
        return lax.dynamic_slice_in_dim(bounds, self.first(slots) // groups.GROUP, slots // groups.GROUP, 3)


WHOLE = Share()
"""All points, on one device."""


def splits(capacity: int) -> int:
    """Devices over which a memory of so many slots is split by the mesh in use; 1 if it is not."""
    mesh = jax.sharding.get_abstract_mesh()
    parts = 1 if mesh.empty or mesh.manual_axes else mesh.shape.get(AXIS, 1)
    share, left = divmod(capacity, parts)
    return parts if left == 0 and (share <= groups.BLOCK or share % groups.GROUP == 0) else 1


def on_shares(function: Callable[..., Any], columns: chex.ArrayTree, *others: Any, columns_back: bool = False) -> Any:
    """`function(share, columns, *others)` on every device with its share of the columns `[N, ..]`.

    Args:
      function: of a `Share`, this device's columns, and the others.
      columns: of a memory.
      others: whole on every device.
      columns_back: whether the result is columns; else it must be the same on every device.
    """
    capacity = jax.tree.leaves(columns)[0].shape[0]
    if splits(capacity) == 1:
        return function(WHOLE, columns, *others)
    split, whole = PartitionSpec(AXIS), PartitionSpec()
    return jax.shard_map(
        lambda columns, *others: function(Share(AXIS), columns, *others),
        mesh=jax.sharding.get_abstract_mesh(),
        in_specs=(split, *(whole,) * len(others)),
        out_specs=split if columns_back else whole,
        check_vma=False,
    )(columns, *others)


def bytes_exchanged(cells: int, channels: int, itemsize: int, max_footprint: int, devices: int) -> int:
    """Bytes that each device sends to read so many cells: reductions to all, in a ring.

    They do not depend on how many points there are. Of every cell: least score and number of the winner, with
    footprints the depth of the front, and of the point its position, the size of its source cell, and its token.
    """
    cell = 2 * 4 + (4 if max_footprint > 1 else 0) + 5 * 4 + channels * itemsize
    return 2 * (devices - 1) * cells * cell // devices

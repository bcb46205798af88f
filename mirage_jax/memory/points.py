"""Points in 3D with a feature each, written once and read by one projection (paper section 3): the stuff of memories.

A memory is a value of fixed capacity. `writing.write` returns a new one with the entering cells
appended; `read` projects all points into new cameras. Cameras and depth are at latent
resolution. One memory, unbatched: batches are `jax.vmap`. Called outside `jit` they give the same
bits, but compile anew each time.
"""

from __future__ import annotations

import functools

import chex
import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from mirage_jax.geometry import Camera, project
from mirage_jax.memory import groups, splat
from mirage_jax.memory.sharded import Share, on_shares

NEAR = 0.05
"""Near plane in scene units: nothing closer enters a memory or is read from it."""


COLUMNS = ("x", "y", "z", "w", "features", "cell_size", "last_seen", "seen_from")
"""What a memory holds of each point, one array a name; the last is None in most."""


@struct.dataclass
class PointMemory:
    """N slots, of which the first `size` hold points, in the order in which they were written.

    Attributes:
      x, y, z, w: `[N]` float32 homogeneous world positions: `w = 1` a point, `w = 0` a unit direction (sky).
      features: `[N, C]` tokens.
      cell_size: `[N]` float32 world size of the source cell at its depth, in scene units: depth over
        the larger focal length in cells. Seen again from its own camera, the footprint of a point is
        one cell along that axis and at most one along the other. For a direction
        the same with its z-component as depth, so an angle.
      last_seen: `[N]` int32 `clock` when the point was written, or last shown (`mark_seen`).
      bounds: `[2, 2, 3, N // GROUP + 2]` float32 least and greatest x, y, z of the points, and of the directions, in
        each `groups.GROUP` slots; inf and -inf where there are none.
      size: int32 `[]` points held.
      overflow: int32 `[]` points that had to go for others, over all writes.
      clock: int32 `[]` writes so far: in a world, the number of the next segment.
      seen_from: `[N, 3]` int8, 127 times the unit direction from the point to the camera that it was seen from; None
        but where a rule of `merge` needs it (`with_directions`). Reads then prefer points seen from their own side.
    """

    x: jax.Array  # [N]
    y: jax.Array  # [N]
    z: jax.Array  # [N]
    w: jax.Array  # [N]
    features: jax.Array  # [N, C]
    cell_size: jax.Array  # [N]
    last_seen: jax.Array  # [N]
    bounds: jax.Array  # [2, 2, 3, N // GROUP + 2]
    size: jax.Array  # []
    overflow: jax.Array  # []
    clock: jax.Array  # []
    seen_from: jax.Array | None = None  # [N, 3]

    @property
    def capacity(self) -> int:
        """The number of slots N."""
        return self.x.shape[0]

    @property
    def points(self) -> jax.Array:
        """`[N, 4]` homogeneous positions, put together: costs a pass over all slots."""
        return jnp.stack([self.x, self.y, self.z, self.w], axis=-1)

    @property
    def splats(self) -> splat.Splats:
        """What decides which points a view shows."""
        columns = {name: getattr(self, name) for name in ("x", "y", "z", "w", "cell_size", "seen_from")}
        return splat.Splats(**columns, bounds=self.bounds)

    @property
    def columns(self) -> dict[str, jax.Array]:
        """What there is of `COLUMNS`, by name."""
        return {name: column for name in COLUMNS if (column := getattr(self, name)) is not None}


@struct.dataclass
class Readout:
    """What T cameras see of a memory.

    Attributes:
      features: `[T, h, w, C]` tokens, 0 where nothing is seen.
      visible: `[T, h, w]` bool, which cells were seen ("unseen" and "seen, value zero" differ).
      depth: `[T, h, w]` float32 z-depth of the point that was read; inf for sky, 0 where not visible.
      scale: `[T, h, w]` float32 cells of this view that one source cell spans (above 1: closer
        than when it was written); 0 where not visible.
      index: `[T, h, w]` int32 slot of the point in the memory, -1 where not visible; of cells that were rendered,
        `[T, h, w, s, s]`, those of their pixels.
      moving: `[T, h, w]` bool, whether the cell shows a thing that moves (`entities`); None where none are remembered,
        as for the next two.
      age: `[T, h, w]` float32 latent frames since that thing was seen; 0 elsewhere.
      turned: `[T, h, w]` float32 how far round it the view has gone since, `(1 - cos) / 2`; 0 elsewhere.
    """

    features: jax.Array  # [T, h, w, C]
    visible: jax.Array  # [T, h, w]
    depth: jax.Array  # [T, h, w]
    scale: jax.Array | None = None  # [T, h, w]
    index: jax.Array | None = None  # [T, h, w]
    moving: jax.Array | None = None  # [T, h, w]
    age: jax.Array | None = None  # [T, h, w]
    turned: jax.Array | None = None  # [T, h, w]


def create(capacity: int, channels: int, dtype: jax.typing.DTypeLike = jnp.float32) -> PointMemory:
    """An empty memory.

    Args:
      capacity: N, the most points it can ever hold.
      channels: C, channels of a token.
      dtype: of the tokens.

    Raises:
      ValueError: if capacity or channels are below 1.
    """
    if capacity < 1 or channels < 1:
        raise ValueError(f"a memory needs room for a point and a channel, got capacity {capacity}, channels {channels}")
    column = lambda dtype=jnp.float32: jnp.zeros((capacity,), dtype)  # noqa: E731  (each its own, to be donated)
    return PointMemory(
        **{name: column() for name in ("x", "y", "z", "w", "cell_size")},
        features=jnp.zeros((capacity, channels), dtype),
        last_seen=column(jnp.int32),
        bounds=groups.no_bounds(capacity),
        **{name: jnp.zeros((), jnp.int32) for name in ("size", "overflow", "clock")},
    )


def with_directions(memory: PointMemory) -> PointMemory:
    """The same memory, empty still, that will know from where its points were seen."""
    return memory.replace(seen_from=jnp.zeros((memory.capacity, 3), jnp.int8))


def grown(memory: PointMemory, capacity: int) -> PointMemory:
    """The same points with room for `capacity`, to go on with a memory that would run full.

    Raises:
      ValueError: if there are more slots than that already.
    """
    added = capacity - memory.capacity
    if added < 0:
        raise ValueError(f"a memory of {memory.capacity} slots cannot grow to {capacity}")

    def padded(column: jax.Array) -> jax.Array:
        return jnp.pad(column, [(0, added), *[(0, 0)] * (column.ndim - 1)])

    bounds = groups.no_bounds(capacity).at[..., : memory.bounds.shape[-1]].set(memory.bounds)
    return memory.replace(**{name: padded(column) for name, column in memory.columns.items()}, bounds=bounds)


def mark_seen(memory: PointMemory, index: chex.Array) -> PointMemory:
    """The memory in which the points of a readout's `index` (-1: none) count as seen now."""

    def mark(share: Share, last_seen: jax.Array, index: jax.Array, clock: jax.Array) -> jax.Array:
        slot = jnp.where(index >= 0, index - share.first(len(last_seen)), -1)
        return last_seen.at[jnp.where(slot >= 0, slot, len(last_seen))].set(clock, mode="drop")

    marked = on_shares(mark, memory.last_seen, index, memory.clock, columns_back=True)
    return memory.replace(last_seen=marked)


def read(memory: PointMemory, cameras: Camera, *, max_footprint: int = 1) -> Readout:
    """What cameras see of the memory (paper eq. 5, 9, 10).

    With `max_footprint=1` a point fills the cell it projects into, and in each cell the smallest depth
    wins. With a larger one, points are as large as their source cells look from
    here, up to that many cells across (see `splat.footprint`): fewer holes where the camera came
    closer. Sky is behind everything. Either way, reading the view that was written
    gives back its tokens. Differentiable in the features, exactly.

    Args:
      memory: what is held.
      cameras: `Camera[T]` on the grid to read.
      max_footprint: odd, 1 for the paper's nearest cell.

    Raises:
      ValueError: if `max_footprint` is not a positive odd number.
    """
    if max_footprint < 1 or max_footprint % 2 == 0:
        raise ValueError(f"max_footprint must be odd and at least 1, got {max_footprint}")
    chex.assert_rank(cameras.cam2world, 3)
    splats, cameras = lax.stop_gradient((memory.splats, cameras))
    columns = splats.replace(bounds=None), memory.features
    look = functools.partial(_read, max_footprint=max_footprint)
    return on_shares(look, columns, splats.bounds, memory.size, cameras)


def _read(
    share: Share,
    columns: tuple[splat.Splats, jax.Array],
    bounds: jax.Array,
    size: jax.Array,
    cameras: Camera,
    max_footprint: int,
) -> Readout:
    splats, features = columns
    splats = splats.replace(bounds=bounds)

    def winners(camera: Camera) -> jax.Array:
        if max_footprint == 1:
            return splat.nearest(camera, splats, size, near=NEAR, share=share)
        return splat.footprint(camera, splats, size, max_footprint=max_footprint, near=NEAR, share=share)

    index = lax.map(winners, cameras)
    visible = index >= 0
    slot = jnp.maximum(index, 0)

    def seen(value: jax.Array) -> jax.Array:
        return jnp.where(visible.reshape(*visible.shape, *(1,) * (value.ndim - visible.ndim)), value, 0)

    x, y, z, w = (share.gather(column, slot) for column in (splats.x, splats.y, splats.z, splats.w))
    _, depth = project(cameras, jnp.stack([x, y, z, w], axis=-1))
    return Readout(
        features=seen(share.gather(features, slot)),
        visible=visible,
        depth=seen(jnp.where(w == 0, jnp.inf, depth)),
        scale=seen(jnp.maximum(*splat.extent(cameras, share.gather(splats.cell_size, slot), depth))),
        index=index,
    )


def retire(memory: PointMemory, gone: chex.Array) -> PointMemory:
    """The memory without some of its points; the others keep their order, and empty slots are zero again.

    Args:
      memory: what is held.
      gone: bool `[N]`; what it says of empty slots does not matter.
    """
    chex.assert_shape(gone, (memory.capacity,))
    stays = (jnp.arange(memory.capacity) < memory.size) & ~gone
    return lax.cond(jnp.sum(stays) < memory.size, _compacted, lambda memory, _: memory, memory, stays)


def nbytes(memory: PointMemory) -> dict[str, int]:
    """Bytes of the points `held` and of all slots `allocated`, for reports (on the host)."""
    allocated = sum(column.size * column.dtype.itemsize for column in memory.columns.values())
    return {"held": allocated // memory.capacity * int(memory.size), "allocated": allocated}


def _compacted(memory: PointMemory, stays: jax.Array) -> PointMemory:
    """Only the points that stay, bool `[N]`."""
    number = jnp.arange(memory.capacity)
    left = jnp.sum(stays, dtype=jnp.int32)
    # Every point that goes gets a slot of its own outside the memory, where scatters drop it.
    slot = jnp.where(stays, jnp.cumsum(stays, dtype=jnp.int32) - 1, memory.capacity + number)
    source = jnp.zeros(memory.capacity, jnp.int32).at[slot].set(number, mode="drop", unique_indices=True)

    def compacted(column: jax.Array) -> jax.Array:
        return jnp.where((number < left).reshape(-1, *(1,) * (column.ndim - 1)), column[source], 0)

    columns = {name: compacted(column) for name, column in memory.columns.items()}
    padding = (0, memory.bounds.shape[-1] * groups.GROUP - memory.capacity)
    position = (jnp.pad(columns[name], padding) for name in ("x", "y", "z", "w"))
    bounds = groups.bounds(*position, jnp.pad(number < left, padding))
    return memory.replace(**columns, size=left, bounds=bounds)

"""Points in 3D with a feature each, written once and read by one projection (paper section 3): the stuff of memories.

A memory is a value of fixed capacity. `write` returns a new one with the entering cells
appended; `read` projects all points into new cameras. Cameras and depth are at latent
resolution. One memory, unbatched: batches are `jax.vmap`. Called outside `jit` they give the same
bits, but compile anew each time.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from mirage_jax.geometry import Camera, cell_centres, lift, project, ray_directions, rays
from mirage_jax.geometry.exact import norm3, opaque, product
from mirage_jax.memory import splat

NEAR = 0.05
"""Near plane in scene units: nothing closer enters a memory or is read from it."""


@struct.dataclass
class PointMemory:
    """N slots, of which the first `size` hold points, in the order in which they were written.

    Attributes:
      points: `[N, 4]` float32 homogeneous world positions: `w = 1` a point, `w = 0` a
        unit direction (sky).
      features: `[N, C]` tokens.
      cell_size: `[N]` float32 world size of the source cell at its depth, in scene units: depth over
        the larger focal length in cells. Seen again from its own camera, the footprint of a point is
        one cell along that axis and at most one along the other. For a direction
        the same with its z-component as depth, so an angle.
      size: int32 `[]` points held.
      overflow: int32 `[]` points that found no room, over all writes.
    """

    points: jax.Array  # [N, 4]
    features: jax.Array  # [N, C]
    cell_size: jax.Array  # [N]
    size: jax.Array  # []
    overflow: jax.Array  # []

    @property
    def capacity(self) -> int:
        """The number of slots N."""
        return self.points.shape[0]


@struct.dataclass
class Readout:
    """What T cameras see of a memory.

    Attributes:
      features: `[T, h, w, C]` tokens, 0 where nothing is seen.
      visible: `[T, h, w]` bool, which cells were seen ("unseen" and "seen, value zero" differ).
      depth: `[T, h, w]` float32 z-depth of the point that was read; inf for sky, 0 where not visible.
      offset: `[T, h, w, 2]` float32 where in the cell that point projects, in cells from the
        centre (u, v): within +-1/2 for the nearest cell, further for footprints; 0 where not visible.
      scale: `[T, h, w]` float32 cells of this view that one source cell spans (above 1: closer
        than when it was written); 0 where not visible.
      index: `[T, h, w]` int32 slot of the point in the memory, -1 where not visible.
      between: `[T, b, h, w, ..]` features, visible and depth at the `b` video frames before each latent frame; None
        where they were not asked for (see `kinds.Views`).
    """

    features: jax.Array  # [T, h, w, C]
    visible: jax.Array  # [T, h, w]
    depth: jax.Array  # [T, h, w]
    offset: jax.Array | None = None  # [T, h, w, 2]
    scale: jax.Array | None = None  # [T, h, w]
    index: jax.Array | None = None  # [T, h, w]
    between: Readout | None = None  # [T, b, h, w, ..]


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
    zero = jnp.zeros((), jnp.int32)
    return PointMemory(
        points=jnp.zeros((capacity, 4), jnp.float32),
        features=jnp.zeros((capacity, channels), dtype),
        cell_size=jnp.zeros((capacity,), jnp.float32),
        size=zero,
        overflow=zero,
    )


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

    columns = {name: padded(getattr(memory, name)) for name in ("points", "features", "cell_size")}
    return memory.replace(**columns)


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
    direction if `sky` is set, whatever `keep` and depth say. Cells of cameras that are not finite never enter. What
    finds no room is counted in `overflow`.
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
    points, cell_size, enters = _lifted(cameras, jnp.asarray(depth), jnp.asarray(keep, bool), sky)

    slot = memory.size + jnp.cumsum(enters.reshape(-1), dtype=jnp.int32) - 1
    room = enters.reshape(-1) & (slot < memory.capacity)
    # Every cell that is not stored gets a slot of its own outside the memory, where scatters drop it.
    slot = jnp.where(room, slot, memory.capacity + jnp.arange(slot.size))

    def stored(held: jax.Array, new: jax.Array) -> jax.Array:
        new = new.reshape(slot.size, *held.shape[1:]).astype(held.dtype)
        return held.at[slot].set(new, mode="drop", unique_indices=True)

    entered = jnp.sum(enters, dtype=jnp.int32)
    kept = jnp.minimum(entered, memory.capacity - memory.size)
    return PointMemory(
        points=stored(memory.points, points),
        features=stored(memory.features, jnp.asarray(features)),
        cell_size=stored(memory.cell_size, cell_size),
        size=memory.size + kept,
        overflow=memory.overflow + entered - kept,
    )


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
    points, cell_size, cameras = lax.stop_gradient((memory.points, memory.cell_size, cameras))
    x, y, z, w = (points[:, i] for i in range(4))
    splats = splat.Splats(x=x, y=y, z=z, w=w, cell_size=cell_size)

    def winners(camera: Camera) -> jax.Array:
        if max_footprint == 1:
            return splat.nearest(camera, splats, memory.size, near=NEAR)
        return splat.footprint(camera, splats, memory.size, max_footprint=max_footprint, near=NEAR)

    index = lax.map(winners, cameras)
    visible = index >= 0
    slot = jnp.maximum(index, 0)

    def seen(value: jax.Array) -> jax.Array:
        return jnp.where(visible.reshape(*visible.shape, *(1,) * (value.ndim - visible.ndim)), value, 0)

    uv, depth = project(cameras, points[slot])
    return Readout(
        features=seen(memory.features[slot]),
        visible=visible,
        depth=seen(jnp.where(w[slot] == 0, jnp.inf, depth)),
        offset=seen(uv - cell_centres(cameras.height, cameras.width)),
        scale=seen(jnp.maximum(*splat.extent(cameras, cell_size[slot], depth))),
        index=index,
    )


def retire(memory: PointMemory, gone: chex.Array) -> PointMemory:
    """The memory without some of its points; the others keep their order, and empty slots are zero again.

    Args:
      memory: what is held.
      gone: bool `[N]`; what it says of empty slots does not matter.
    """
    chex.assert_shape(gone, (memory.capacity,))
    number = jnp.arange(memory.capacity)
    stays = (number < memory.size) & ~gone
    # As in `write`, every point that goes gets a slot of its own outside the memory.
    slot = jnp.where(stays, jnp.cumsum(stays, dtype=jnp.int32) - 1, memory.capacity + number)

    def compacted(column: jax.Array) -> jax.Array:
        return jnp.zeros_like(column).at[slot].set(column, mode="drop", unique_indices=True)

    columns = {name: compacted(getattr(memory, name)) for name in ("points", "features", "cell_size")}
    return memory.replace(**columns, size=jnp.sum(stays, dtype=jnp.int32))


def nbytes(memory: PointMemory) -> dict[str, int]:
    """Bytes of the points `held` and of all slots `allocated`, for reports (on the host)."""
    arrays = (memory.points, memory.features, memory.cell_size)
    allocated = sum(array.size * array.dtype.itemsize for array in arrays)
    return {"held": allocated // memory.capacity * int(memory.size), "allocated": allocated}


def _lifted(
    cameras: Camera, depth: jax.Array, keep: jax.Array, sky: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Homogeneous points `[T, h, w, 4]`, cell sizes `[T, h, w]`, and which cells enter `[T, h, w]`."""
    depth, cameras = lax.stop_gradient((depth, cameras))
    solid = keep & ~sky & jnp.isfinite(depth) & (depth > NEAR)
    depth = jnp.where(solid, depth, 1.0)
    position = jnp.where(sky[..., None], ray_directions(cameras), lift(cameras, depth))
    points = jnp.concatenate([position, jnp.where(sky, 0.0, 1.0)[..., None]], axis=-1)

    ray = tuple(rays(cameras)[..., i] for i in range(3))
    forward = jnp.where(sky, 1.0 / norm3(ray), depth)
    intrinsics = opaque(cameras.intrinsics)
    focal = jnp.maximum(intrinsics[..., 0, 0], intrinsics[..., 1, 1])
    cell_size = product(forward, (1.0 / focal)[..., None, None])
    finite = jnp.isfinite(cell_size) & jnp.all(jnp.isfinite(points), axis=-1)
    return points, cell_size, (solid | sky) & finite

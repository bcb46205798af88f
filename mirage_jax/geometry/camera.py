"""Pinhole cameras, and the two maps between a depth grid and the world.

Conventions, used everywhere: OpenCV camera axes (x right, y down, z forward);
`cam2world` maps camera to world coordinates; depth is z-depth along the optical
axis; the centre of cell `(u, v)` (column, row) lies at `(u + 1/2, v + 1/2)`.

Products of small matrices are written out as sums of elementwise products: a `dot` would run in reduced precision on
TPU and on GPUs with TF32, and half a cell of error is a visible seam. The products go through `exact.product`, so that
positions do not depend on what else is compiled around them.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
from flax import struct

from mirage_jax.geometry.exact import dot3, norm3, opaque, product


@struct.dataclass
class Camera:
    """One pinhole camera, or an array of cameras that share one image size.

    Attributes:
      intrinsics: `[..., 3, 3]` float32 `K`, in pixels of a `height x width` grid.
      cam2world: `[..., 4, 4]` float32 rigid transform, scene units.
      height, width: static grid size (part of the tree structure, not leaves).
    """

    intrinsics: chex.Array  # [..., 3, 3]
    cam2world: chex.Array  # [..., 4, 4]
    height: int = struct.field(pytree_node=False)
    width: int = struct.field(pytree_node=False)

    @property
    def world2cam(self) -> jax.Array:
        """`[..., 4, 4]` world-to-camera transform `E`, the rigid inverse of `cam2world`."""
        return rigid_inverse(self.cam2world)

    @property
    def shape(self) -> tuple[int, ...]:
        """The leading (batch or time) shape."""
        return tuple(self.cam2world.shape[:-2])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index) -> Camera:
        """Indexes the leading axes of both arrays."""
        return self.replace(intrinsics=self.intrinsics[index], cam2world=self.cam2world[index])

    def resized(self, height: int, width: int) -> Camera:
        """The same camera seen on another grid: `K_l = diag(w/W, h/H, 1) K`.

        Args:
          height, width: rows and columns of the new grid, at least 1.

        Raises:
          ValueError: if the grid is empty.
        """
        if height < 1 or width < 1:
            raise ValueError(f"camera grid must be at least 1x1, got {height}x{width}")
        scale = jnp.array([width / self.width, height / self.height, 1.0], jnp.float32)
        return self.replace(intrinsics=jnp.asarray(self.intrinsics) * scale[:, None], height=height, width=width)


def concatenate(*cameras: Camera) -> Camera:
    """Arrays of cameras of one image size, one after the other."""
    return jax.tree.map(lambda *x: jnp.concatenate(x), *cameras)


def rigid_inverse(transform: chex.Array) -> jax.Array:
    """Inverts rigid transforms `[..., 4, 4]` exactly: rotation transposed, `-R^T t`."""
    transform = jnp.asarray(transform)
    chex.assert_shape(transform, (..., 4, 4))
    rotation = jnp.swapaxes(transform[..., :3, :3], -1, -2)
    translation = -rotate(rotation, transform[..., :3, 3])
    top = jnp.concatenate([rotation, translation[..., None]], axis=-1)
    return jnp.concatenate([top, jnp.broadcast_to(transform[..., 3:, :], top[..., :1, :].shape)], axis=-2)


def rotate(rotation: chex.Array, vectors: chex.Array) -> jax.Array:
    """`R v` for `[..., 3, 3]` and `[..., 3]`, in full precision and to the same bit on every path."""
    rotation, vectors = jnp.asarray(rotation), jnp.asarray(vectors)
    x, y, z = (vectors[..., i] for i in range(3))
    return jnp.stack(_rotated(rotation, x, y, z), axis=-1)


def cell_centres(height: int, width: int) -> jax.Array:
    """`[h, w, 2]` float32 positions `(u + 1/2, v + 1/2)` of the cells of a grid."""
    u, v = jnp.meshgrid(jnp.arange(width) + 0.5, jnp.arange(height) + 0.5)
    return jnp.stack([u, v], axis=-1).astype(jnp.float32)


def rays(camera: Camera) -> jax.Array:
    """`[..., h, w, 3]` rays `K^-1 (u+1/2, v+1/2, 1)` in camera axes, with z = 1."""
    k = opaque(camera.intrinsics)[..., None, None, :, :]
    uv = cell_centres(camera.height, camera.width)
    # Reciprocals by hand: XLA may or may not turn a division by a broadcast number into one.
    y = (uv[..., 1] - k[..., 1, 2]) * (1 / k[..., 1, 1])
    x = (uv[..., 0] - k[..., 0, 2] - product(k[..., 0, 1], y)) * (1 / k[..., 0, 0])
    return jnp.stack([x, y, jnp.ones_like(x)], axis=-1)


def lift(camera: Camera, depth: chex.Array) -> jax.Array:
    """World points of a depth map (paper eq. 4).

    Args:
      camera: cameras of leading shape `[...]` on the grid of `depth`.
      depth: `[..., h, w]` z-depth in scene units.

    Returns:
      `[..., h, w, 3]` world points; NaN where depth is not finite.
    """
    depth = jnp.asarray(depth)
    chex.assert_shape(depth, (*camera.shape, camera.height, camera.width))
    pose = opaque(camera.cam2world)[..., None, None, :, :]
    points = rotate(pose[..., :3, :3], rays(camera) * depth[..., None]) + pose[..., :3, 3]
    return jnp.where(jnp.isfinite(depth)[..., None], points, jnp.nan)


def ray_directions(camera: Camera) -> jax.Array:
    """`[..., h, w, 3]` unit world directions through the cell centres."""
    pose = opaque(camera.cam2world)[..., None, None, :, :]
    directions = rotate(pose[..., :3, :3], rays(camera))
    components = tuple(directions[..., i] for i in range(3))
    length = norm3(components)
    return jnp.stack([component / length for component in components], axis=-1)


def project(camera: Camera, points: chex.Array) -> tuple[jax.Array, jax.Array]:
    """Pixel positions and depths of world points (paper eq. 5).

    Results are the same to the bit eagerly, under `jit`, `vmap` and `lax.scan`, and in
    a float32 numpy transcription (see `exact`).

    Args:
      camera: cameras of leading shape `[...]`.
      points: `[..., *grid, 3]` world points, or homogeneous `[..., *grid, 4]` whose `w` is 1 for a point and 0 for a
        direction (a point at infinity); the leading axes are those of `camera` and broadcast against them.

    Returns:
      `uv [..., *grid, 2]` in pixels, centres at `.5`, and `depth [..., *grid]`, the z-depth. Behind the camera (`depth
      <= 0`) `uv` has no meaning. For a direction, depth is the z-component of the direction in camera axes.

    Raises:
      ValueError: if `points` has fewer leading axes than `camera`.
    """
    points = jnp.asarray(points)
    inner = points.ndim - 1 - len(camera.shape)
    if inner < 0:
        raise ValueError(f"points of shape {points.shape} have fewer axes than cameras of shape {camera.shape}")

    def expand(matrix: jax.Array) -> jax.Array:
        return jnp.reshape(matrix, (*camera.shape, *(1,) * inner, *matrix.shape[-2:]))

    intrinsics, cam2world = opaque((camera.intrinsics, camera.cam2world))
    view, k = expand(rigid_inverse(cam2world)), expand(intrinsics)
    x, y, z = (points[..., i] for i in range(3))
    local = _rotated(view[..., :3, :3], x, y, z)
    shift = tuple(view[..., i, 3] for i in range(3))
    if points.shape[-1] == 4:
        shift = tuple(product(s, points[..., 3]) for s in shift)
    x, y, depth = (component + s for component, s in zip(local, shift, strict=True))
    z = jnp.where(depth == 0, 1.0, depth)
    x, y = x / z, y / z
    u = product(k[..., 0, 0], x) + product(k[..., 0, 1], y) + k[..., 0, 2]
    v = product(k[..., 1, 1], y) + k[..., 1, 2]
    return jnp.stack([u, v], axis=-1), depth


def _rotated(rotation: jax.Array, *vector: jax.Array) -> tuple[jax.Array, ...]:
    """The three components of `R v`; kept apart because short minor axes vectorise badly."""
    return tuple(dot3(tuple(rotation[..., i, j] for j in range(3)), vector) for i in range(3))

"""What cropping a picture does to its camera."""

from __future__ import annotations

import jax.numpy as jnp

from mirage_jax.geometry.camera import Camera


def centre_cropped(camera: Camera, height: int, width: int) -> Camera:
    """The camera of the largest centred part with the shape of `height x width`, scaled to that grid.

    This is what becomes of a camera when its picture is scaled, keeping its proportions,
    until it covers the new grid, and what hangs over is cut off on both sides alike
    (`PIL.ImageOps.fit`): focal lengths times `s = max(h/H, w/W)`, principal point
    `(c - W/2) s + w/2`.

    Args:
      camera: cameras of any leading shape.
      height, width: rows and columns of the new grid, at least 1.

    Raises:
      ValueError: if the grid is empty.
    """
    if height < 1 or width < 1:
        raise ValueError(f"camera grid must be at least 1x1, got {height}x{width}")
    scale = max(height / camera.height, width / camera.width)
    shift = jnp.array([[width - scale * camera.width], [height - scale * camera.height]], jnp.float32) / 2
    intrinsics = jnp.asarray(camera.intrinsics)
    top = scale * intrinsics[..., :2, :] + shift * jnp.array([0.0, 0.0, 1.0])
    return Camera(
        intrinsics=jnp.concatenate([top, intrinsics[..., 2:, :]], axis=-2),
        cam2world=camera.cam2world,
        height=height,
        width=width,
    )

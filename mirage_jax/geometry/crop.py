"""A picture, its camera and its depth brought to another size together."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
import PIL.Image
import PIL.ImageOps

from mirage_jax.errors import UserError
from mirage_jax.geometry.camera import Camera

ASSUMED_FOV = 64.0
"""Degrees across assumed for a picture whose lens is not known: that of the default model's training views."""


def centre_cropped(camera: Camera, height: int, width: int) -> Camera:
    """The camera of the largest centred part with the shape of `height x width`, scaled to that grid.

    This is what becomes of a camera when its picture is scaled, keeping its proportions, until it covers the new grid,
    and what hangs over is cut off on both sides alike (`PIL.ImageOps.fit`): focal lengths times `s = max(h/H, w/W)`,
    principal point `(c - W/2) s + w/2`.

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
    return camera.replace(
        intrinsics=jnp.concatenate([top, intrinsics[..., 2:, :]], axis=-2), height=height, width=width
    )


def fit_view(
    picture: np.ndarray,
    height: int,
    width: int,
    *,
    intrinsics: np.ndarray | None = None,
    fov: float = ASSUMED_FOV,
    depth: np.ndarray | None = None,
) -> tuple[np.ndarray, Camera, np.ndarray | None]:
    """The first view of a world at the model's size: scaled to cover it, what hangs over cut off evenly.

    Args:
      picture: uint8 `[H, W, 3]`, of any size from 16 pixels a side.
      height, width: of the model.
      intrinsics: `[3, 3]` or `fx, fy, cx, cy`, in pixels of `picture`.
      fov: degrees across `picture`, where its intrinsics are not known.
      depth: `[H, W]` metres on the grid of `picture`; inf = sky, 0 = unknown.

    Returns:
      The picture `[height, width, 3]`, its camera at the origin, and depth `[height, width]` or None.

    Raises:
      UserError: for a picture that is too small, a lens that cannot belong to it, or depth of another size, with NaN,
        or with no positive depth in the part that is left.
    """
    rows, columns = picture.shape[:2]
    if picture.shape != (rows, columns, 3) or picture.dtype != np.uint8:
        raise ValueError(f"a picture is uint8 [H, W, 3], got {picture.dtype} {picture.shape}")
    if min(rows, columns) < 16:
        raise UserError(f"{columns}x{rows} pixels are too few, at least 16 a side are needed")
    camera = centre_cropped(_first_camera(intrinsics, fov, rows, columns), height, width)
    image = _fitted(picture, height, width, PIL.Image.Resampling.LANCZOS)
    if depth is None:
        return image, camera, None
    if np.shape(depth) != (rows, columns):
        raise UserError(f"depth has shape {np.shape(depth)}, the picture has {(rows, columns)} (rows, columns)")
    depth = np.maximum(np.asarray(depth, np.float32), 0.0)
    if np.isnan(depth).any() or not (np.isfinite(depth) & (depth > 0)).any():
        raise UserError("depth holds NaN, or no positive depth; expected metres, inf = sky, 0 = unknown")
    depth = _fitted(depth, height, width, PIL.Image.Resampling.NEAREST)
    if not (np.isfinite(depth) & (depth > 0)).any():
        raise UserError(
            f"depth is known only outside the part that is left of {columns}x{rows} once it is cut to {width}x{height}"
        )
    return image, camera, depth


def view_angles(intrinsics: np.ndarray, height: float, width: float) -> tuple[float, float]:
    """Degrees that a camera of `[3, 3]` intrinsics sees from left to right, and from top to bottom."""
    axes = ((intrinsics[0][0], intrinsics[0][2], width), (intrinsics[1][1], intrinsics[1][2], height))
    across, down = (math.degrees(math.atan2(c, f) + math.atan2(extent - c, f)) for f, c, extent in axes)
    return across, down


def _fitted(values: np.ndarray, height: int, width: int, resampling: PIL.Image.Resampling) -> np.ndarray:
    return np.asarray(PIL.ImageOps.fit(PIL.Image.fromarray(values), (width, height), resampling))


def _first_camera(intrinsics: np.ndarray | None, fov: float, height: int, width: int) -> Camera:
    """The camera at the origin of a picture."""
    if intrinsics is None:
        if not 5 <= fov <= 150:
            raise UserError(f"a field of view of {fov:g} degrees; expected 5 to 150")
        fx = fy = 0.5 * width / math.tan(math.radians(fov) / 2)
        cx, cy = width / 2, height / 2
    else:
        given = np.asarray(intrinsics, np.float64)
        fx, fy, cx, cy = given[[0, 1, 0, 1], [0, 1, 2, 2]] if given.shape == (3, 3) else given
        if not (0 < cx < width and 0 < cy < height) or not (0.2 < fx / width < 10 and 0.2 < fy / height < 10):
            raise UserError(
                f"intrinsics {fx:g},{fy:g},{cx:g},{cy:g} cannot belong to a picture of {width}x{height} pixels: they "
                "are fx,fy,cx,cy in its pixels"
            )
    matrix = jnp.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], jnp.float32)
    return Camera(intrinsics=matrix, cam2world=jnp.eye(4), height=height, width=width)

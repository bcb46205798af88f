"""A furnished room whose every depth and every visibility is known exactly: the yardstick of the memory's benchmark.

Axis-aligned walls, floor and ceiling at the outside, two boxes inside, in metres; y points
down. Plain numpy in float64, so that nothing under test has a part in the truth.
"""

from __future__ import annotations

import numpy as np

_WALLS = np.array([[-4.0, -2.0, -3.0], [4.0, 1.5, 10.0]])
_BOXES = np.array([[[-1.0, -0.5, 6.0], [1.0, 1.5, 7.0]], [[1.8, 0.2, 4.0], [2.6, 1.5, 4.8]]])


def distance(origin: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """How far rays go until they hit something.

    Args:
      origin: `[3]`, inside the room and outside the boxes.
      directions: `[..., 3]`, not zero.

    Returns:
      `[...]` multiples of each direction; z-depth for directions with z = 1 in camera axes.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        reach = np.where(directions > 0, _WALLS[1] - origin, _WALLS[0] - origin) / directions
        nearest = np.where(directions == 0, np.inf, reach).min(axis=-1)
        for low, high in _BOXES:
            first, second = (low - origin) / directions, (high - origin) / directions
            enter, leave = np.minimum(first, second).max(axis=-1), np.maximum(first, second).min(axis=-1)
            nearest = np.where((enter < leave) & (enter > 0), np.minimum(nearest, enter), nearest)
    return nearest


def depth_and_points(
    intrinsics: np.ndarray, cam2world: np.ndarray, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """What a camera sees through the centres of its cells: z-depth `[h, w]` and world points `[h, w, 3]`."""
    u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    k = intrinsics
    rays = np.stack([(u - k[0, 2]) / k[0, 0], (v - k[1, 2]) / k[1, 1], np.ones_like(u)], axis=-1)
    directions, origin = rays @ cam2world[:3, :3].T, cam2world[:3, 3]
    depth = distance(origin, directions)
    return depth, origin + depth[..., None] * directions


def sees(intrinsics: np.ndarray, cam2world: np.ndarray, height: int, width: int, points: np.ndarray) -> np.ndarray:
    """Whether points on the surfaces `[..., 3]` are in the picture of a camera and not hidden from it, `[...]` bool."""
    to_points = points - cam2world[:3, 3]
    x, y, z = np.moveaxis(to_points @ cam2world[:3, :3], -1, 0)
    z = np.where(z > 0.05, z, np.nan)
    u = intrinsics[0, 0] * x / z + intrinsics[0, 2]
    v = intrinsics[1, 1] * y / z + intrinsics[1, 2]
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    return inside & (distance(cam2world[:3, 3], to_points) > 0.999)


def intrinsics(height: int, width: int) -> np.ndarray:
    """`K` of a grid that looks 90 degrees wide, with square cells."""
    return np.array([[width / 2, 0, width / 2], [0, width / 2, height / 2], [0, 0, 1.0]])


def pose(x: float, z: float, yaw: float) -> np.ndarray:
    """`cam2world` at eye level, turned by `yaw` radians to the right."""
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, 0, s, x], [0, 1, 0, 0], [-s, 0, c, z], [0, 0, 0, 1]], float)

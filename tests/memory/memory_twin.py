"""The memory in plain numpy, one point and one cell at a time: the oracle of the memory's tests.

Single operations in float32, in the order in which the formulas are written.
"""

import dataclasses

import numpy as np

from mirage_jax.memory.points import NEAR
from mirage_jax.memory.splat import SCALE_WEIGHT, SURFACE_TOLERANCE

F = np.float32


@dataclasses.dataclass
class View:
    """One camera."""

    intrinsics: np.ndarray
    cam2world: np.ndarray
    height: int
    width: int


@dataclasses.dataclass
class Point:
    """One stored point."""

    position: np.ndarray  # [4]
    feature: np.ndarray
    cell_size: np.float32
    last_seen: int = 0


class Memory:
    """Points in the order in which they were written."""

    def __init__(self, capacity):
        self.capacity, self.points, self.overflow, self.clock = capacity, [], 0, 0

    def write(self, features, depth, views, keep, sky):
        for t, view in enumerate(views):
            for row in range(view.height):
                for column in range(view.width):
                    point = lifted(view, row, column, depth[t, row, column], keep[t, row, column], sky[t, row, column])
                    if point is None:
                        continue
                    self.points.append(Point(point[0], features[t, row, column], point[1], self.clock))
        self.clock += 1
        self.evict(views[-1].cam2world[:3, 3], self.capacity + depth.size)

    def evict(self, centre, slots):
        """Those seen longest ago go, then those coarser than another there, then the farthest, then the first."""
        surplus = max(len(self.points) - self.capacity, 0)
        coarse = superseded(self.points, slots) if surplus else []

        def value(number):
            point = self.points[number]
            away = point.position[:3] - centre
            distance = away[0] * away[0] + away[1] * away[1] + away[2] * away[2] if np.isfinite(centre).all() else F(0)
            distance = np.inf if point.position[3] == 0 else min(distance, np.finfo(F).max)
            return point.last_seen, not coarse[number], -distance, number

        gone = set(sorted(range(len(self.points)), key=value)[:surplus]) if surplus else set()
        self.points = [point for number, point in enumerate(self.points) if number not in gone]
        self.overflow += surplus


def superseded(points, slots):
    """For each point whether one finer by half, up to three powers of two, lies in the cube that is its place.

    As in the memory, a place is a row in each of two tables with at least four times as many rows as slots.
    """

    def place(point, level, begin):
        cube = [int(np.clip(np.floor(c / F(2.0**level)), -(2.0**30), 2.0**30)) for c in point.position[:3]]
        value = (level * 2654435761 + int(point.position[3] == 0) + begin) % 2**32
        for c, factor in zip(cube, (73856093, 19349663, 83492791), strict=True):
            value = (value ^ (c * factor % 2**32)) * 0x9E3779B1 % 2**32
            value ^= value >> 15
        return value % (1 << (4 * slots - 1).bit_length())

    levels = [int(np.frexp(point.cell_size)[1]) for point in points]
    found = [True] * len(points)
    for begin in (0, 0x85EBCA6B):
        finest = {}
        for point, level in zip(points, levels, strict=True):
            for power in range(3):
                at = place(point, level + power, begin)
                finest[at] = min(finest.get(at, np.inf), point.cell_size)
        for number, (point, level) in enumerate(zip(points, levels, strict=True)):
            found[number] &= bool(finest[place(point, level, begin)] * F(1.5) < point.cell_size)
    return found


def matrix_times(m, x, y, z):
    return [m[i, 0] * x + m[i, 1] * y + m[i, 2] * z for i in range(3)]


def lifted(view, row, column, depth, keep, sky):
    """Homogeneous position and cell size of a cell, or None if it does not enter."""
    solid = keep and not sky and np.isfinite(depth) and depth > F(NEAR)
    if not (solid or sky):
        return None
    k, pose = view.intrinsics, view.cam2world
    y = (F(row + 0.5) - k[1, 2]) * (F(1) / k[1, 1])
    x = (F(column + 0.5) - k[0, 2] - k[0, 1] * y) * (F(1) / k[0, 0])
    along = F(1) if sky else depth
    position = np.array(matrix_times(pose, x * along, y * along, F(1) * along), F)
    if sky:
        position = position / np.sqrt(position[0] * position[0] + position[1] * position[1] + position[2] * position[2])
        along = F(1) / np.sqrt(x * x + y * y + F(1))
    else:
        position = position + pose[:3, 3]
    size = along * (F(1) / max(k[0, 0], k[1, 1]))
    if not np.isfinite(position).all():
        return None
    return np.append(position, F(0 if sky else 1)), size


def project(view, position):
    """Column, row and depth in pixels and scene units."""
    inverse = view.cam2world[:3, :3].T
    shift = [-s for s in matrix_times(inverse, *view.cam2world[:3, 3])]
    x, y, z = (a + s * position[3] for a, s in zip(matrix_times(inverse, *position[:3]), shift, strict=True))
    divisor = z if z != 0 else F(1)
    x, y, k = x / divisor, y / divisor, view.intrinsics
    return k[0, 0] * x + k[0, 1] * y + k[0, 2], k[1, 1] * y + k[1, 2], z


def read(memory, view, max_footprint):
    """`features, visible, depth, scale, index` of one view."""
    grid = (view.height, view.width)
    candidates = {}  # cell -> [(depth, how ill it fits, number)]
    facts = {}
    reach = max_footprint // 2
    for number, point in enumerate(memory.points):
        u, v, depth = project(view, point.position)
        direction = point.position[3] == 0
        if not depth > F(0 if direction else NEAR) or not (np.isfinite(u) and np.isfinite(v)):
            continue
        extent = [point.cell_size * view.intrinsics[i, i] / depth for i in range(2)]
        level = F(np.inf) if direction else depth
        facts[number] = (level, max(extent))
        for down in range(-reach, reach + 1):
            for right in range(-reach, reach + 1):
                row, column = int(np.floor(v)) + down, int(np.floor(u)) + right
                if not (0 <= row < view.height and 0 <= column < view.width):
                    continue
                du, dv = u - (F(column) + F(0.5)), v - (F(row) + F(0.5))
                covers = abs(du) <= F(0.5) * extent[0] and abs(dv) <= F(0.5) * extent[1]
                if covers or (down == 0 and right == 0):
                    s = max(extent)
                    misfit = du * du + dv * dv + (s - F(1)) * (s - F(1)) / s * F(SCALE_WEIGHT)
                    candidates.setdefault((row, column), []).append((level, misfit, number))
    features = np.zeros((*grid, memory.points[0].feature.size if memory.points else 1), F)
    visible, depth = np.zeros(grid, bool), np.zeros(grid, F)
    scale, index = np.zeros(grid, F), np.full(grid, -1)
    for cell, found in candidates.items():
        front = min(level for level, _, _ in found)
        if max_footprint == 1:
            number = max(n for level, _, n in found if level == front)
        else:
            surface = [
                (misfit, -n)
                for level, misfit, n in found
                if level <= front + F(SURFACE_TOLERANCE) * memory.points[n].cell_size
            ]
            number = -min(surface)[1]
        level, wide = facts[number]
        features[cell], visible[cell], depth[cell] = memory.points[number].feature, True, level
        scale[cell], index[cell] = wide, number
    return features, visible, depth, scale, index

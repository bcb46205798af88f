"""Benchmark suite `memory_quality`: what a read shows, against a room in which the truth is known.

A camera takes one or five frames on its way, then walks on, turned and to the side. Tokens are a smooth
texture of the world position, about ten cells to a wave at 6 m, blurred over the cell that they stand for, so the
right token of every cell is known, and one of a larger or smaller cell is a little wrong.

- avoidable holes: cells whose surface, at the cell's centre, some frame saw, that show nothing.
- leaks: cells that show what is behind everything in them, by over 5 % of depth.
- bleeding: cells that show what is in front of everything in them, by over 5 %.
- error: mean squared error of the shown tokens, whose variance is 1.
- error with holes: the same over all cells whose surface was seen, holes counted as zeros.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.bench import records, room
from experiments.evaluation.statistics import bootstrap_mean
from mirage_jax.geometry import Camera
from mirage_jax.memory import latent, splat
from mirage_jax.memory.points import NEAR, PointMemory

GRIDS = ((16, 16), (44, 80))
SOURCES = (1, 5)
COLUMNS = (*("grid", "frames held", "read", "avoidable holes %", "leaks %", "bleeding %", "error", "error with holes"),)
FIGURES = ("holes", "leaks", "bleeding", "error", "error_with_holes")

_CHANNELS = 16
_TRIALS = 24


def measure() -> dict[str, Any]:
    """The figures of every read, with 95 % intervals over walks."""
    rows = []
    for grid in GRIDS:
        for sources in SOURCES:
            for name, values in _walks(grid, sources).items():
                intervals = zip(FIGURES, map(bootstrap_mean, np.array(values).T), strict=True)
                found = {figure: {"mean": i.mean, "low": i.low, "high": i.high} for figure, i in intervals}
                rows.append({"grid": list(grid), "sources": sources, "read": name, **found})
    return {"walks": _TRIALS, "reads": rows}


def markdown(record: dict[str, Any]) -> str:
    """The record as a table of means."""
    rows = []
    for row in record["reads"]:
        shares = [f"{100 * row[name]['mean']:.1f}" for name in FIGURES[:3]]
        errors = [f"{row[name]['mean']:.3f}" for name in FIGURES[3:]]
        rows.append(["x".join(map(str, row["grid"])), row["sources"], row["read"], *shares, *errors])
    lines = records.table(COLUMNS, rows)
    return "\n".join([f"Means over {record['walks']} walks.", "", *lines, ""])


def _reads() -> dict[str, Callable[[PointMemory, Camera], jax.Array]]:
    """Ways to choose the points that a view shows, `[h, w]` slots or -1."""

    def chosen(memory: PointMemory, cameras: Camera, select: Callable[..., jax.Array]) -> jax.Array:
        return select(cameras[0], memory.splats, memory.size, near=NEAR)

    ways = {"nearest cell": splat.nearest, "footprint": functools.partial(splat.footprint, max_footprint=3)}
    return {name: jax.jit(functools.partial(chosen, select=select)) for name, select in ways.items()}


def _walks(grid: tuple[int, int], sources: int) -> dict[str, list[list[float]]]:
    """For every read, `FIGURES` of each walk."""
    height, width = grid
    k = room.intrinsics(height, width)
    fine = k * np.array([[8], [8], [1]])
    reads = _reads()
    figures = {name: [] for name in reads}
    write = jax.jit(latent.write)
    for walk in range(_TRIALS):
        random = np.random.default_rng(walk)
        texture = _texture(random, 60 / k[0, 0])
        start = random.uniform(-2, 0)
        written = [
            room.pose(random.uniform(-0.3, 0.3), start + 0.4 * i, random.uniform(-0.15, 0.15)) for i in range(sources)
        ]
        target = room.pose(
            random.uniform(-0.6, 0.6), written[-1][2, 3] + random.uniform(0.3, 3), random.uniform(-0.3, 0.3)
        )
        views = [room.depth_and_points(k, pose, height, width) for pose in written]
        memory = write(
            latent.create(sources * height * width, _CHANNELS),
            np.stack([texture(points, depth / k[0, 0]) for depth, points in views]).astype(np.float32),
            np.stack([depth for depth, _ in views]).astype(np.float32),
            _cameras(k, written, grid),
            np.ones((sources, *grid), bool),
        )
        depth, points = room.depth_and_points(k, target, height, width)
        seen = np.any([room.sees(k, pose, height, width, points) for pose in written], axis=0)
        inside = room.depth_and_points(fine, target, 8 * height, 8 * width)[0].reshape(height, 8, width, 8)
        truth = texture(points, depth / k[0, 0])
        for name, read in reads.items():
            slot = np.asarray(read(memory, _cameras(k, [target], grid)))
            visible, slot = slot >= 0, np.maximum(slot, 0)
            shown = (np.asarray(memory.points)[slot][..., :3] - target[:3, 3]) @ target[:3, 2]
            error = np.mean((np.asarray(memory.features)[slot] - truth) ** 2, axis=-1)
            figures[name].append(
                [
                    (seen & ~visible).sum() / seen.sum(),
                    (shown > 1.05 * inside.max(axis=(1, 3)))[visible].mean(),
                    (shown < 0.95 * inside.min(axis=(1, 3)))[visible].mean(),
                    error[visible].mean(),
                    np.where(visible, error, np.mean(truth**2, axis=-1))[seen].mean(),
                ]
            )
    return figures


def _cameras(k: np.ndarray, poses: list[np.ndarray], grid: tuple[int, int]) -> Camera:
    return Camera(np.stack([k] * len(poses)).astype(np.float32), np.stack(poses).astype(np.float32), *grid)


def _texture(random: np.random.Generator, wavelength: float) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Plane waves of about that wavelength in metres, one for each channel, of variance 1, at points `[.., 3]`.

    Blurred by a Gaussian as wide as a box of so many metres `[..]`.
    """
    wave = random.normal(size=(3, _CHANNELS))
    wave /= np.linalg.norm(wave, axis=0)
    wave *= 2 * np.pi / (wavelength * np.exp(random.uniform(-0.5, 0.5, _CHANNELS)))
    phase = random.uniform(0, 2 * np.pi, _CHANNELS)
    sharp = (wave**2).sum(0) / 24
    return lambda points, cell: np.sqrt(2) * np.sin(points @ wave + phase) * np.exp(-sharp * cell[..., None] ** 2)

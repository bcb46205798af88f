"""Benchmark suite `memory`: how long reading and writing take at the size of Wan2.2 latents.

Nine views of 44 x 80 cells, 48 channels, read from one or five segments of nine frames each, in the
room of `room`. Beside it, on the same machine, what the PyTorch release does per view, transcribed to numpy:
all points sorted by depth, far to near, and assigned in that order, so that the nearest stays.
The figures of the release itself were measured once, on two CPU cores, and are constants here.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.bench import room, timing
from mirage_jax.geometry import Camera
from mirage_jax.memory import latent
from mirage_jax.memory.points import NEAR, PointMemory

HEIGHT, WIDTH, CHANNELS, FRAMES = 44, 80, 48, 9
SEGMENTS = 5
RELEASE_MILLISECONDS = {SEGMENTS: 830.0, 1: 1170.0}
"""The PyTorch release, by segments held: nine views read, median, two CPU cores."""

_REPEATS = 31
_SLOW_REPEATS = 7  # of the sort, which takes most of the suite's time


def measure() -> dict[str, Any]:
    """Times every operation; the record that `markdown` prints."""
    load = os.getloadavg()[0]
    rows = []
    for segments in (1, SEGMENTS):
        views = _walk(segments)
        memory = _filled(segments, capacity=segments * FRAMES * HEIGHT * WIDTH)
        nearest, speed = _timed(_REPEATS, jax.jit(latent.read), memory, views)
        rows.append(_row("read, nearest cell", memory, speed, RELEASE_MILLISECONDS[segments]))
        if segments < SEGMENTS:
            roomy = _filled(segments, capacity=SEGMENTS * FRAMES * HEIGHT * WIDTH)
            _, speed = _timed(_REPEATS, jax.jit(latent.read), roomy, views)
            rows.append(_row("read, nearest cell", roomy, speed, RELEASE_MILLISECONDS[segments]))
        _, speed = _timed(_REPEATS, jax.jit(functools.partial(latent.read, max_footprint=3)), memory, views)
        rows.append(_row("read, footprint up to 3x3", memory, speed))
        (features, _, depth), speed = _timed(_SLOW_REPEATS, _sorted_read, *_on_host(memory, views))
        rows.append(_row("release's method in numpy: sort, assign", memory, speed))
        same = np.isclose(depth, nearest.depth, rtol=1e-4)
        rows[-1]["same_cells"] = float(np.mean(same))
        rows[-1]["same_tokens"] = float(np.mean(np.all(features == np.asarray(nearest.features), axis=-1)))
    empty = latent.create(SEGMENTS * FRAMES * HEIGHT * WIDTH, CHANNELS)
    _, speed = _timed(_REPEATS, jax.jit(latent.write), empty, *_segment(0))
    rows.append(_row("write, nine frames", empty, speed))
    return {
        "work": f"{FRAMES} views of {HEIGHT}x{WIDTH} cells, {CHANNELS} channels",
        "repeats": _REPEATS,
        "repeats_of_the_sort": _SLOW_REPEATS,
        "processor": timing.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_before_and_after": [load, os.getloadavg()[0]],
        "rows": rows,
    }


def markdown(record: dict[str, Any]) -> str:
    """The record as a table."""
    load = " to ".join(f"{load:.1f}" for load in record["load_before_and_after"])
    lines = [
        f"{record['work']}; median of {record['repeats']} calls ({record['repeats_of_the_sort']} of the sort) [10th to "
        f"90th percentile], compiled before; {record['processor']}, {record['cores']} cores, load {load}",
        "",
        "| | points held | capacity | held, MiB | ms | PyTorch release, ms | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in record["rows"]:
        published, ratio = row.get("release_milliseconds"), row.get("times_faster_than_release")
        lines.append(
            f"| {row['what']} | {row['points']:,} | {row['capacity']:,} | {row['bytes']['held'] / 2**20:.1f} "
            f"| {row['median']:.1f} [{row['low']:.1f}, {row['high']:.1f}] "
            f"| {'' if published is None else f'{published:.0f}'} | {'' if ratio is None else f'{ratio:.0f}x'} |"
        )
    return "\n".join([*lines, ""])


def _timed(repeats: int, function: Callable[..., Any], *arguments: Any) -> tuple[Any, list[float]]:
    """The result, and milliseconds of calls after two that compile and warm up."""
    call = functools.partial(function, *arguments)
    return call(), [1e3 * seconds for seconds in timing.alone(call, repeats)]


def _row(what: str, memory: PointMemory, milliseconds: list[float], release: float | None = None) -> dict[str, Any]:
    low, median, high = np.percentile(milliseconds, [10, 50, 90])
    row = {
        "what": what,
        "points": int(memory.size),
        "capacity": memory.capacity,
        "bytes": latent.nbytes(memory),
        "median": float(median),
        "low": float(low),
        "high": float(high),
        "milliseconds": milliseconds,
    }
    if release is not None:
        row |= {"release_milliseconds": release, "times_faster_than_release": release / float(median)}
    return row


def _walk(segment: int) -> Camera:
    """Nine cameras of a walk through the room that goes on from segment to segment."""
    steps = segment * FRAMES + np.arange(FRAMES)
    poses = [room.pose(0.3 * np.sin(step / 7), -2 + 0.08 * step, 0.15 * np.sin(step / 5)) for step in steps]
    k = np.tile(room.intrinsics(HEIGHT, WIDTH), (FRAMES, 1, 1))
    return jax.device_put(Camera(k.astype(np.float32), np.stack(poses).astype(np.float32), HEIGHT, WIDTH))


def _segment(segment: int) -> tuple[Any, ...]:
    """What is written: tokens, depth, cameras, keep."""
    cameras = _walk(segment)
    k = room.intrinsics(HEIGHT, WIDTH)
    poses = np.asarray(cameras.cam2world, np.float64)
    depth = np.stack([room.depth_and_points(k, pose, HEIGHT, WIDTH)[0] for pose in poses]).astype(np.float32)
    features = np.random.default_rng(segment).normal(size=(*depth.shape, CHANNELS)).astype(np.float32)
    return jax.device_put((features, depth, cameras, np.ones(depth.shape, bool)))


def _filled(segments: int, capacity: int) -> PointMemory:
    memory, write = latent.create(capacity, CHANNELS), jax.jit(latent.write)
    for segment in range(segments):
        memory = write(memory, *_segment(segment))
    return memory


def _on_host(memory: PointMemory, views: Camera) -> tuple[np.ndarray, ...]:
    size = int(memory.size)
    world2cam = np.linalg.inv(np.asarray(views.cam2world)).astype(np.float32)
    return (
        np.asarray(memory.points[:size, :3]),
        np.asarray(memory.features[:size]),
        np.asarray(views.intrinsics),
        world2cam,
    )


def _sorted_read(
    points: np.ndarray, features: np.ndarray, intrinsics: np.ndarray, world2cam: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, visibility and depth by the release's method: sort all points by depth, assign far to near."""
    frames = len(world2cam)
    seen = np.zeros((frames, HEIGHT, WIDTH, features.shape[-1]), np.float32)
    visible, shown = np.zeros((frames, HEIGHT, WIDTH), bool), np.zeros((frames, HEIGHT, WIDTH), np.float32)
    for t in range(frames):
        local = points @ world2cam[t, :3, :3].T + world2cam[t, :3, 3]
        depth = local[:, 2]
        pixels = (local / np.where(depth > NEAR, depth, 1)[:, None]) @ intrinsics[t].T
        column, row = np.floor(pixels[:, 0]).astype(int), np.floor(pixels[:, 1]).astype(int)
        inside = (depth > NEAR) & (column >= 0) & (column < WIDTH) & (row >= 0) & (row < HEIGHT)
        order = np.argsort(-np.where(inside, depth, np.inf))
        order = order[inside[order]]
        seen[t, row[order], column[order]] = features[order]
        visible[t, row[order], column[order]] = True
        shown[t, row[order], column[order]] = depth[order]
    return seen, visible, shown

"""Benchmark suite `memory`: how long reading and writing take at the size of Wan2.2 latents.

Nine views of 44 x 80 cells, 48 channels, read from one or five segments of nine frames each, in the room of `room`.
Beside it, on the same machine and in turn with ours, what the PyTorch release does per view: all points sorted by
depth, far to near, and assigned in that order, so that the nearest stays. PyTorch promises no order for assignments to
one place: with several threads another point may stay, and features and depth may be those of different ones. With one
thread the nearest stays, so this is what our time is compared with; the default threads stand beside it, with the share
of cells that they get wrong. Without PyTorch (extra `parity`) those columns stay empty.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.bench import records, room, timing
from mirage_jax.geometry import Camera
from mirage_jax.memory import latent
from mirage_jax.memory.points import NEAR, PointMemory

HEIGHT, WIDTH, CHANNELS, FRAMES = 44, 80, 48, 9
SEGMENTS = 5
COLUMNS = (
    *("", "points held", "capacity", "held, MiB", "ms", "release, one thread, ms", "times faster"),
    *("release, default threads, ms", "of its cells wrong"),
)

_REPEATS = 31
_SLOW_REPEATS = 7  # of the sorts, which take most of the suite's time


def measure() -> dict[str, Any]:
    """Times every operation; the record that `markdown` prints."""
    load, torch = os.getloadavg()[0], _torch()
    rows = []
    for segments in (1, SEGMENTS):
        views = _walk(segments)
        memory = _filled(segments, capacity=segments * FRAMES * HEIGHT * WIDTH)
        nearest, speed = _timed(_REPEATS, jax.jit(latent.read), memory, views)
        rows.append(_row("read, nearest cell", memory, speed))
        if torch is not None:
            rows[-1] |= _release(torch, memory, views)
        if segments < SEGMENTS:
            roomy = _filled(segments, capacity=SEGMENTS * FRAMES * HEIGHT * WIDTH)
            _, speed = _timed(_REPEATS, jax.jit(latent.read), roomy, views)
            rows.append(_row("read, nearest cell", roomy, speed))
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
        "cores": timing.cores(),
        "torch": None if torch is None else {"version": torch.__version__, "threads": torch.get_num_threads()},
        "load_before_and_after": [load, os.getloadavg()[0]],
        "rows": rows,
    }


def markdown(record: dict[str, Any]) -> str:
    """The record as a table."""
    load = " to ".join(f"{load:.1f}" for load in record["load_before_and_after"])
    torch = record["torch"]
    release = "not installed" if torch is None else f"{torch['version']}, {torch['threads']} threads by default"
    rows = []
    for row in record["rows"]:
        cells = [row["what"], f"{row['points']:,}", f"{row['capacity']:,}", f"{row['bytes']['held'] / 2**20:.1f}"]
        cells += [timing.spread(row), "", "", "", ""]
        if "release" in row:
            one, several = row["release"]["one thread"], row["release"]["default threads"]
            faster, wrong = f"{row['times_faster_than_release']:.0f}x", f"{100 * several['wrong_cells']:.1f} %"
            cells[-4:] = [timing.spread(one), faster, timing.spread(several), wrong]
        rows.append(cells)
    lines = [
        f"{record['work']}; median of {record['repeats']} calls ({record['repeats_of_the_sort']} of the sorts) "
        f"[10th to 90th percentile], compiled before; {record['processor']}, {record['cores']} cores, load {load}; "
        f"PyTorch {release}",
        "",
        *records.table(COLUMNS, rows),
    ]
    if any("release" in row for row in record["rows"]):
        shares = [row["release"]["one thread"]["wrong_cells"] for row in record["rows"] if "release" in row]
        lines += [
            "",
            f"With one thread, {100 * max(shares):.1f} % of the release's cells are wrong; `times faster` is against "
            "that, of calls in turn with ours.",
        ]
    return "\n".join([*lines, ""])


def _torch() -> Any:
    """PyTorch, or None."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    return torch


def _release(torch: Any, memory: PointMemory, views: Camera) -> dict[str, Any]:
    """The release's read with one thread and with the default ones, in turn with ours.

    Returns:
      `release`: number of threads -> times and `wrong_cells`, the share of filled cells that show another point than
      the nearest, or depth and features of different points, in the worst of the calls; `times_faster_than_release`:
      the median of one thread over that of our calls in between.
    """
    arrays = [np.array(array) for array in _on_host(memory, views)]
    arrays[1][:, 0] = np.arange(len(arrays[1]))  # tells which point a cell shows, exactly up to 2^24
    points, features, intrinsics, world2cam = (torch.from_numpy(array) for array in arrays)
    threads = {"one thread": 1, "default threads": torch.get_num_threads()}
    made: dict[str, list[Any]] = {name: [] for name in threads}

    def run(name: str) -> None:
        torch.set_num_threads(threads[name])
        made[name].append(_torch_read(torch, points, features, intrinsics, world2cam))

    read = jax.jit(latent.read)
    calls = {"ours": lambda: read(memory, views), **{name: functools.partial(run, name) for name in threads}}
    times = {
        name: timing.summary([1e3 * s for s in seconds])
        for name, seconds in timing.in_turn(calls, _SLOW_REPEATS).items()
    }
    torch.set_num_threads(threads["default threads"])

    nearest = _torch_nearest(torch, points, intrinsics, world2cam)
    depths, view = _torch_depth(points, world2cam), torch.arange(FRAMES)[:, None, None]
    filled = torch.isfinite(nearest)

    def wrong(seen: Any, depth: Any) -> float:
        other = (depth != nearest) | (depths[view, seen[..., 0].long()] != nearest)
        return float((filled & other).sum() / filled.sum())

    release = {name: {**times[name], "wrong_cells": max(wrong(*one) for one in made[name])} for name in threads}
    faster = times["one thread"]["median"] / times["ours"]["median"]
    return {"release": release, "ours_in_turn": times["ours"], "times_faster_than_release": faster}


def _timed(repeats: int, function: Callable[..., Any], *arguments: Any) -> tuple[Any, list[float]]:
    """The result, and milliseconds of calls after two that compile and warm up."""
    call = functools.partial(function, *arguments)
    return call(), [1e3 * seconds for seconds in timing.alone(call, repeats)]


def _row(what: str, memory: PointMemory, milliseconds: list[float]) -> dict[str, Any]:
    about = {"what": what, "points": int(memory.size), "capacity": memory.capacity, "bytes": latent.nbytes(memory)}
    return about | timing.summary(milliseconds) | {"milliseconds": milliseconds}


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


def _torch_depth(points: Any, world2cam: Any) -> Any:
    """z-depth of every point in every view, `[T, N]`."""
    return (points @ world2cam[:, 2, :3].T + world2cam[:, 2, 3]).T


def _torch_cells(torch: Any, depth: Any, points: Any, intrinsics: Any, world2cam: Any) -> Any:
    """Row, column and whether it is in the picture, of every point in one view."""
    local = points @ world2cam[:3, :3].T + world2cam[:3, 3]
    pixels = (local / torch.where(depth > NEAR, depth, 1)[:, None]) @ intrinsics.T
    column, row = pixels[:, 0].floor().long(), pixels[:, 1].floor().long()
    inside = (depth > NEAR) & (column >= 0) & (column < WIDTH) & (row >= 0) & (row < HEIGHT)
    return row, column, inside


def _torch_read(torch: Any, points: Any, features: Any, intrinsics: Any, world2cam: Any) -> tuple[Any, Any]:
    """`_sorted_read` as the release has it: whichever assignment to a cell comes last stays."""
    seen = torch.zeros(len(world2cam), HEIGHT, WIDTH, features.shape[-1])
    shown = torch.zeros(len(world2cam), HEIGHT, WIDTH)
    for t, depth in enumerate(_torch_depth(points, world2cam)):
        row, column, inside = _torch_cells(torch, depth, points, intrinsics[t], world2cam[t])
        order = torch.argsort(depth[inside], descending=True)
        row, column = row[inside][order], column[inside][order]
        seen[t, row, column] = features[inside][order]
        shown[t, row, column] = depth[inside][order]
    return seen, shown


def _torch_nearest(torch: Any, points: Any, intrinsics: Any, world2cam: Any) -> Any:
    """The depth that each cell should show, `[T, h, w]`, inf where no point is."""
    nearest = torch.full((len(world2cam), HEIGHT * WIDTH), torch.inf)
    for t, depth in enumerate(_torch_depth(points, world2cam)):
        row, column, inside = _torch_cells(torch, depth, points, intrinsics[t], world2cam[t])
        nearest[t].scatter_reduce_(0, (row * WIDTH + column)[inside], depth[inside], "amin")
    return nearest.reshape(-1, HEIGHT, WIDTH)

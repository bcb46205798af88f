"""Benchmark suite `lasting`: what a memory costs by what it holds and by what is in view, and whether it stops growing.

Nine views of 44 x 80 cells, 48 channels, as in suite `memory`; every ratio is of calls made in turn. The memory that
holds much holds the room of `room` many times over, all but one behind the cameras. Then the room is walked round
fifty times: what is new of every view is written (`merge.first`), in a memory that has room for it and in one that has
room for what the first loop wrote only, and, for comparison, everything. At the end every view is read.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench import records, room, timing
from mirage_jax.geometry import Camera, lift
from mirage_jax.memory import latent, merge, points
from mirage_jax.memory.points import PointMemory

HEIGHT, WIDTH, CHANNELS, FRAMES = 44, 80, 48, 9
CAPACITY = 5_000_000
LOOPS, STEPS = 50, 24

_REPEATS = 15
_APART = 100.0  # metres from room to room


def measure() -> dict[str, Any]:
    """Times reads and writes, and walks the loops; the record that `markdown` prints."""
    load = os.getloadavg()[0]
    cells, views = FRAMES * HEIGHT * WIDTH, _walk()
    write = jax.jit(latent.write, donate_argnums=0)
    rooms = CAPACITY // cells
    memories = {"alone": write(latent.create(cells, CHANNELS), *_segment()), "empty": latent.create(CAPACITY, CHANNELS)}
    full = latent.create(CAPACITY, CHANNELS)
    for place in range(rooms):
        full = write(full, *_segment(place))
    memories["one room of many"] = full
    rows = []
    for footprint in (1, 3):
        read = jax.jit(functools.partial(latent.read, max_footprint=footprint))
        calls = {name: functools.partial(read, memory, views) for name, memory in memories.items()}
        rows += _rows(f"read, {footprint}x{footprint}", timing.in_turn(calls, _REPEATS), memories)
    del memories["one room of many"], full
    slots = {"alone": latent.create(2 * cells, CHANNELS), "empty": memories.pop("empty")}
    rows += _rows("write, in place", timing.in_turn({n: _again(write, m) for n, m in slots.items()}, _REPEATS), slots)
    return {
        "work": f"{FRAMES} views of {HEIGHT}x{WIDTH} cells, {CHANNELS} channels",
        "repeats": _REPEATS,
        "device": timing.device(),
        "cores": timing.cores(),
        "load_before_and_after": [load, os.getloadavg()[0]],
        "rows": rows,
        "loops": _loops(),
    }


def markdown(record: dict[str, Any]) -> str:
    """The record as tables."""
    load = " to ".join(f"{load:.1f}" for load in record["load_before_and_after"])
    rows = [
        (r["what"], r["memory"], f"{r['slots']:,}", f"{r['points']:,}", timing.spread(r), f"{r['ratio']:.2f}")
        for r in record["rows"]
    ]
    loops = [
        (r["rule"], *(f"{n:,}" for n in (r["slots"], r["points"][0], r["points"][-1], r["gone"])), f"{r['psnr']:.2f}")
        for r in record["loops"]
    ]
    return "\n".join(
        [
            f"{record['work']}; median of {record['repeats']} calls [10th to 90th percentile], in turn; "
            f"{record['device']}, {record['cores']} cores, load {load}",
            "",
            *records.table(("", "memory", "slots", "points", "ms", "median to alone"), rows),
            "",
            *records.table(("rule", "slots", "points, loop 1", f"loop {LOOPS}", "gone", "PSNR of tokens, dB"), loops),
            "",
        ]
    )


def _rows(what: str, seconds: dict[str, list[float]], memories: dict[str, PointMemory]) -> list[dict[str, Any]]:
    times = {name: timing.summary([1e3 * s for s in values]) for name, values in seconds.items()}
    return [
        {"what": what, "memory": name, "slots": memories[name].capacity, "points": int(np.sum(memories[name].size))}
        | {**time, "ratio": time["median"] / times["alone"]["median"]}
        for name, time in times.items()
    ]


def _again(write: Callable[..., PointMemory], memory: PointMemory) -> Callable[[], jax.Array]:
    """A call that writes a segment to the same slots every time, in place."""
    held, segment, zero = [jax.tree.map(jnp.copy, memory)], _segment(), np.int32(0)

    def call() -> jax.Array:
        held[0] = write(held[0].replace(size=jnp.asarray(zero)), *segment)
        return held[0].x

    return call


def _walk(place: int = 0) -> Camera:
    """Nine cameras that walk through one of the rooms."""
    steps = np.arange(FRAMES)
    poses = [room.pose(0.3 * np.sin(step / 7), -2 + 0.08 * step, 0.15 * np.sin(step / 5)) for step in steps]
    return _cameras(poses, place)


def _cameras(poses: list[np.ndarray], place: int = 0) -> Camera:
    moved = np.stack(poses).astype(np.float32)
    moved[:, 2, 3] -= _APART * place
    k = np.tile(room.intrinsics(HEIGHT, WIDTH), (len(poses), 1, 1)).astype(np.float32)
    return jax.device_put(Camera(k, moved, HEIGHT, WIDTH))


def _depth(cameras: Camera) -> np.ndarray:
    """Of cameras in the first room."""
    k = room.intrinsics(HEIGHT, WIDTH)
    poses = np.asarray(cameras.cam2world, np.float64)
    return np.stack([room.depth_and_points(k, pose, HEIGHT, WIDTH)[0] for pose in poses]).astype(np.float32)


@functools.lru_cache(maxsize=1)
def _seen(channels: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Tokens, depth and keep of the walk."""
    depth = _depth(_walk())
    features = np.random.default_rng(0).normal(size=(*depth.shape, channels)).astype(np.float32)
    return jax.device_put((features, depth, np.ones(depth.shape, bool)))


def _segment(place: int = 0) -> tuple[Any, ...]:
    """What is written: tokens, depth, cameras, keep."""
    features, depth, keep = _seen(CHANNELS)
    return features, depth, _walk(place), keep


def _loops() -> list[dict[str, Any]]:
    """Points held after each of the loops, by rule and room, and how well every view is read at the end.

    A turn on the spot while walking round; errors of depth and tokens are drawn anew for every view. Tokens are a
    smooth texture of the place in the world.
    """
    turn = 2 * np.pi * np.arange(STEPS) / STEPS
    cameras = _cameras([room.pose(0.5 * np.sin(a), 1.0 + 0.5 * np.cos(a), a) for a in turn])
    depth = _depth(cameras)
    truth = _texture(cameras, depth)

    @functools.partial(jax.jit, donate_argnums=0, static_argnums=1)
    def look(memory: PointMemory, rule: str, tokens: jax.Array, depth: jax.Array, camera: Camera) -> PointMemory:
        sky, every = jnp.zeros(depth.shape, bool), jnp.ones(depth.shape, bool)
        if rule == "all":
            return latent.write(memory, tokens, depth, camera, every)
        shown = latent.read(memory, camera, max_footprint=3)
        memory = points.mark_seen(memory, shown.index)
        memory, _, enters = merge.apply(rule, memory, tokens, depth, sky, camera, shown, every)
        return latent.write(memory, tokens, depth, camera, enters)

    read, rows, frame = jax.jit(functools.partial(latent.read, max_footprint=3)), [], HEIGHT * WIDTH
    tight = STEPS * frame
    for rule, capacity in (("first", STEPS * frame), ("first", 0), ("all", LOOPS * STEPS * frame)):
        memory, held, random = latent.create(capacity or tight, truth.shape[-1]), [], np.random.default_rng(0)
        for _ in range(LOOPS):
            for step in range(STEPS):
                at = slice(step, step + 1)
                guessed = depth[at] * np.exp(0.03 * random.normal(size=depth[at].shape))
                tokens = truth[at] + 0.1 * random.normal(size=truth[at].shape)
                memory = look(memory, rule, tokens.astype(np.float32), guessed.astype(np.float32), cameras[at])
            held.append(int(memory.size))
        if len(rows) == 0:
            tight = held[0]  # as much as the first loop wrote
        shown = [read(memory, cameras[step : step + 1]) for step in range(STEPS)]
        error = np.mean([np.mean((np.asarray(s.features[0]) - t) ** 2) for s, t in zip(shown, truth, strict=True)])
        rows.append(
            {
                "rule": rule,
                "slots": memory.capacity,
                "points": held,
                "gone": int(memory.overflow),
                "psnr": float(10 * np.log10(4 / error)),
            }
        )
    return rows


def _texture(cameras: Camera, depth: np.ndarray) -> np.ndarray:
    """Tokens `[T, h, w, 8]` from -1 to 1: waves of a few metres through the world."""
    places = np.asarray(lift(cameras, depth), np.float64)
    return np.sin(places @ np.random.default_rng(1).normal(size=(3, 8)) * 2)

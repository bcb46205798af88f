"""Benchmark suite `moving`: is what moves found again where it is by now? Of the memory alone, no generator.

The clips are those of the held-out set in which the camera looks away from things that move, and comes back
(`experiments.build_dataset --dataset evaluation`). A memory is given everything up to the frame before a thing comes
back into view, and is then asked for the next frames, with true cameras. Depth is true; which cells move is true too,
or what the keep head of the model says.

- forgotten: what moves is not remembered.
- frozen points: everything is written as points, moving or not, as a coloured point cloud without a filter has it.
- frozen: remembered as things that stand where they were last seen.
- entities: remembered as things that go on (`memory.things`).
- true track: the same things, put where they truly are: what better prediction could gain.

Of every thing that was seen and returns, over the first frames of its return: `found`, the share of frames in which the
memory shows something that moves over at least a quarter of it; `off`, how far what is remembered of it is from where
it is, in its sizes, median over returns (of those that are remembered; what was nearest when it was last seen counts as
it); `ghosts`, cells that show something that moves where nothing is, in shares of the cells that the thing has.
What differs between two ways to remember is told clip by clip. `moving.png` shows in how many clips things are off by
how much.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage

from experiments.bench import records
from experiments.evaluation.objects import MOTION_CLASSES, motion_class
from experiments.evaluation.statistics import bootstrap_mean, bootstrap_median
from experiments.shared import drawings
from mirage_jax import data, geometry, weights
from mirage_jax.geometry import Camera
from mirage_jax.memory import latent, resample
from mirage_jax.memory.points import PointMemory
from mirage_jax.memory.things import entities
from mirage_jax.memory.things.entities import Entities
from mirage_jax.models import heads
from mirage_jax.training import encode, posed
from mirage_jax.world.state import entity_cells

OPTIONS = ("out", "clips", "checkpoint")
METHODS = ("forgotten", "frozen points", "frozen", "entities", "true track")
FIGURES = ("found", "off", "ghosts")
PAIRS = ("entities", "frozen"), ("entities", "frozen points"), ("true track", "entities")
SLOTS = 8

_JUDGED = 6  # latent frames from the return on
_GAP = 4  # frames out of view that count as an absence
_LEAST_CELLS = 3  # of a thing, to be judged
_COVERED = 0.25


def measure(out: pathlib.Path, clips: str, checkpoint: str | None) -> dict[str, Any]:
    """The figures of every clip, method and mask; the record that `markdown` prints.

    Args:
      out: folder of `moving.png`, and of `moving.json`, to go on from.
      clips: folder of the held-out set.
      checkpoint: a model with a VAE, and heads or not; None is the one that ships.
    """
    parts = weights.parts_of(checkpoint or weights.DEFAULT)
    model, params = weights.load(checkpoint, [part for part in ("vae", "heads") if part in parts])
    masks = ("true", "heads") if "heads" in parts else ("true",)
    source = data.load_source(clips, "motion")

    @functools.lru_cache(maxsize=1)
    def coded(index: int) -> tuple[Any, list[Any], Any]:
        clip = source.clip(index)
        returns = list(_returns(model, clip))
        return clip, returns, posed.from_batch(encode.code(model, params, clip)) if returns else None

    def make(spec: Mapping[str, Any]) -> dict[str, Any]:
        (clip, returns, sample), found = coded(spec["clip"]), []
        if not returns:
            return {"found": found}
        moving = sample.dynamic if spec["masks"] == "true" else _by_heads(model, params, sample.latents, sample.cameras)
        memories = [_held(sample.latents, sample.depth, moving, sample.cameras, one[-1]) for one in returns]
        for method in METHODS:
            values = [_judge(method, held, sample, *one) for held, one in zip(memories, returns, strict=True)]
            row = {"clip": clip.source, "motion": motion_class(clip.dynamic), "masks": spec["masks"], "method": method}
            found.append(row | {name: _mean([value[name] for value in values]) for name in FIGURES})
        return {"found": found}

    # A run that is stopped goes on where it was, and has some of every kind, the same with every mask.
    order = np.random.default_rng(0).permutation(len(source)).tolist()
    specs = [{"masks": mask, "clip": index} for index in order for mask in masks]
    record = records.resumed(out / "moving.json", specs, make, same={"model": model.name, "judged": _JUDGED})
    _draw(out / "moving.png", _rows(record))
    return record


def markdown(record: dict[str, Any]) -> str:
    """Two tables for each kind of mask, with 95 % intervals: over clips, and of what differs in a clip."""
    rows = _rows(record)
    lines = [f"Model {record['model']}; the first {record['judged']} frames of every return."]
    for mask in _masks(rows):
        looked = sum(clip["spec"]["masks"] == mask for clip in record["rows"])
        lines += ["", f"Masks: {mask}; {looked} clips were looked at, of those in which a thing returns:", ""]
        table, of = [], {method: _of(rows, mask, method) for method in METHODS}
        for method, mine in of.items():
            for motion in ("all", *MOTION_CLASSES[1:]):
                chosen = [row for row in mine if motion in ("all", row["motion"])]
                if len(chosen) > 1:
                    table.append([method if motion == "all" else "", motion, len(chosen), *_cells(chosen)])
        lines += records.table(("memory", "moving pixels, %", "clips", *FIGURES), table)
        pairs = [[f"{one} less {other}", *_differences(of[one], of[other])] for one, other in PAIRS]
        lines += ["", *records.table(("in the same clip", *FIGURES), pairs)]
    return "\n".join([*lines, ""])


def _rows(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Of all clips in which a thing returns."""
    return [row for looked_at in record["rows"] for row in looked_at["found"]]


def _masks(rows: list[dict[str, Any]]) -> list[str]:
    return sorted({row["masks"] for row in rows}, reverse=True)


def _of(rows: list[dict[str, Any]], mask: str, method: str) -> list[dict[str, Any]]:
    return [row for row in rows if (row["masks"], row["method"]) == (mask, method)]


def _cells(rows: list[dict[str, Any]]) -> list[str]:
    return [_told(name, [row[name] for row in rows if row[name] is not None]) for name in FIGURES]


def _differences(ours: list[dict[str, Any]], others: list[dict[str, Any]]) -> list[str]:
    both = [(one, other) for one, other in zip(ours, others, strict=True) if one["clip"] == other["clip"]]
    known = {name: [(a[name], b[name]) for a, b in both if None not in (a[name], b[name])] for name in FIGURES}
    return [_told(name, [a - b for a, b in pairs], signed=True) for name, pairs in known.items()]


def _told(name: str, values: list[float], *, signed: bool = False) -> str:
    if len(values) < 2:
        return "-"
    statistic = bootstrap_median if name == "off" else bootstrap_mean
    return records.interval(statistic(np.array(values, float)), 2, signed=signed)


def _draw(path: pathlib.Path, rows: list[dict[str, Any]]) -> None:
    """Share of clips in which things are off by at most so much, by method that remembers things."""
    limits = np.linspace(0, 4, 41)
    curves = {}
    for mask in _masks(rows):
        for method in ("frozen", "entities"):
            off = [row["off"] for row in _of(rows, mask, method)]
            off = np.array([np.inf if value is None else value for value in off])
            curves[f"{method}, masks: {mask}"] = (off[:, None] <= limits).mean(0)
    drawings.plot_curves(
        path, curves, xlabel="off by at most, tenths of its size", ylabel="share of clips", title="where things return"
    )


def _mean(values: list[float]) -> float | None:
    """None where nothing is remembered."""
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else None


def _returns(model, clip):
    """Of each thing that is seen, away and back: its masks `[t, h, w]` on the latent grid, track `[t, 3]`, frame."""
    at = slice(None, None, model.vae.stride_time)
    instances, tracks = clip.instances[at], clip.tracks[at]
    every = np.asarray(resample.mask_to_grid(clip.dynamic[at], *model.grid))
    for number in range(tracks.shape[1]):
        mine = np.asarray(resample.mask_to_grid(instances == number + 1, *model.grid, least=0.3))
        seen = mine.sum((1, 2)) >= _LEAST_CELLS
        for frame in np.flatnonzero(seen):
            before = np.flatnonzero(seen[:frame])
            if len(before) and frame - before[-1] > _GAP // model.vae.stride_time + 1:
                yield mine, every, tracks[:, number], int(before[-1]), int(frame)


def _by_heads(model, params, tokens: jax.Array, cameras: Camera) -> jax.Array:
    keep, sky = heads.decide(heads.predict(model.heads, params["heads"], tokens, geometry.rays(cameras)))
    return ~keep & ~sky


class _Held(NamedTuple):
    """What is remembered of the frames before a return."""

    points: PointMemory  # everything, moving or not; its one feature says which
    static: PointMemory  # what does not move
    things: Entities


def _judge(method, held: _Held, sample, mine, every, track, last: int, back: int) -> dict[str, float]:
    """Figures of one return."""
    count = min(_JUDGED, len(mine) - back)
    at = back + np.arange(_JUDGED).clip(max=count - 1)
    found = _remembered(method, held, sample.cameras, at, track, last)
    shown, off = (np.asarray(x)[:count] for x in found)
    true = mine[back : back + count]
    judged = true.sum((1, 2)) >= _LEAST_CELLS
    near = np.stack([scipy.ndimage.binary_dilation(frame, np.ones((3, 3))) for frame in every[back : back + count]])
    cells = np.maximum(true.sum((1, 2)), 1)
    return {
        "found": float(((shown & true).sum((1, 2)) >= _COVERED * cells)[judged].mean()),
        "off": float(off[judged].mean()),
        "ghosts": float(((shown & ~near).sum((1, 2)) / cells)[judged].mean()),
    }


@jax.jit
def _held(tokens, depth, moving, cameras: Camera, back) -> _Held:
    """Of the frames `[t, ..]` before frame `back`."""
    frames, height, width, channels = tokens.shape
    before = jnp.arange(frames) < back
    sky = jnp.isinf(depth) & ~moving
    solid, sky = before[:, None, None] & (depth > 0) & ~sky, before[:, None, None] & sky
    everything = latent.create(depth.size, 1)
    everything = latent.write(everything, moving[..., None].astype(jnp.float32), depth, cameras, solid, sky)
    static = latent.create(depth.size, 1)
    static = latent.write(static, jnp.zeros((*depth.shape, 1)), depth, cameras, solid & ~moving, sky)
    things = entities.create(SLOTS, entity_cells(height, width), channels)
    return _Held(everything, static, entities.write(things, static, tokens, depth, cameras, moving, before))


@functools.partial(jax.jit, static_argnums=0)
def _remembered(method, held: _Held, cameras: Camera, at, track, last):
    """Cells that show what moves, bool `[n, h, w]`, and `off` `[n]`, inf where the thing is not remembered."""
    nowhere = jnp.full(len(at), jnp.inf)
    if method == "forgotten":
        return jnp.zeros((len(at), cameras.height, cameras.width), bool), nowhere
    if method == "frozen points":
        return latent.read(held.points, cameras[at], max_footprint=3).features[..., 0] > 0, nowhere
    things = held.things
    if method == "frozen":
        things = _standing(things, things.position)
    nothing = latent.read(held.static, cameras[at], max_footprint=3)
    nothing = nothing.replace(features=jnp.zeros((*nothing.visible.shape, things.features.shape[-1])))
    # What is nearest to the thing when it was last seen is it; its place is aside by that of the side that was seen.
    aside = entities.predicted(things, last) - track[last]
    distance = jnp.where(things.held, jnp.linalg.norm(aside, axis=-1), jnp.inf)
    mine = jnp.argmin(distance)

    def one(frame):
        now, camera, static = frame
        placed, right = things, track[now] + aside[mine]
        if method == "true track":
            placed = _standing(things, things.position.at[mine].set(right))
        single = lambda tree: jax.tree.map(lambda x: x[None], tree)  # noqa: E731
        shown = entities.read(placed, single(static), single(camera), now[None]).moving[0]
        off = jnp.linalg.norm(entities.predicted(placed, now)[mine] - right) / things.size[mine]
        return shown, jnp.where(distance[mine] <= 2.0 * things.size[mine], off, jnp.inf)

    return jax.lax.map(one, (at, cameras[at], nothing))


def _standing(things: Entities, places: jax.Array) -> Entities:
    """The things, expected to stand at these places `[K, 3]` for ever."""
    return things.replace(position=places, velocity=jnp.zeros_like(things.velocity), middle=places)

"""Benchmark suite `endless`: whether a world stays as large, as fast and as it looked, over thousands of segments.

The model that ships walks the path of the clip that ships there and back, over and over, in segments of its shortest
length, in one process, each written in place. It walks with much room and again with little: the memory fills, and
points go from then on. Of every segment: seconds, points held, points that had to go, memory of the process, and beside
the true frames of the same views: brightness (0 to 255), contrast (standard deviation) and sharpness
(`metrics.sharpness`).
"""

from __future__ import annotations

import pathlib
import resource
import time
from typing import Any

import jax
import numpy as np
import tqdm

from experiments.bench import records, timing
from experiments.shared import drawings
from mirage_jax import weights, world
from mirage_jax.data import clip as clips
from mirage_jax.evaluation import metrics
from mirage_jax.evaluation.truth import camera_of
from mirage_jax.world import sound

OPTIONS = ("out", "segments", "checkpoint")
CAPACITIES = {"much room": 1 << 16, "little room": 1 << 12}
"""Points; one way through the path writes some 12,000."""

_PARTS = 10  # of the run, that are compared
_PAGE = resource.getpagesize()


def measure(out: pathlib.Path, segments: int, checkpoint: str | None) -> dict[str, Any]:
    """Walks, and draws `endless.png` and `endless_pictures.png`; the record that `markdown` prints."""
    parts = [part for part in weights.parts_of(checkpoint or weights.DEFAULT) if part != "text"]
    model, params = weights.load(checkpoint, parts)
    model, clip = model.at_any_length(), clips.load(clips.DEMO)
    walks = {
        name: {"capacity": capacity, "rows": _walked(model, params, clip, capacity, segments)}
        for name, capacity in CAPACITIES.items()
    }
    loop = 2 * (len(clip) - 1) // model.segment_frames
    record = {"model": model.name, "frames": model.segment_frames, "loop": loop, "device": timing.device()}
    record |= {"walks": walks}
    _draw(out, record)
    return record


def _walked(model: Any, params: Any, clip: clips.PosedClip, capacity: int, segments: int) -> list[list[float]]:
    """Of each segment: seconds, MiB of the process, points held, points gone, brightness, contrast, sharpness."""
    cameras, count = camera_of(clip), model.segment_frames
    config = world.WorldConfig(model=model, capacity=capacity, bank=32)
    params = world.prepare(config, params)
    state = world.init(config, params, clip.frames[0], None, cameras[0], jax.random.key(0))
    frames = np.concatenate([np.arange(1, len(clip)), np.arange(len(clip) - 2, -1, -1)])
    rows = []
    for index in tqdm.trange(segments, unit="segment", dynamic_ncols=True):
        at = frames[(index * count + np.arange(count)) % len(frames)]
        begun = time.perf_counter()
        state, output = world.segment(config, params, state, cameras[at], donate=True)
        output = jax.block_until_ready(output)
        seconds = time.perf_counter() - begun
        sound.check_output(jax.device_get(output), f"segment {index + 1}")
        shown, truth = np.asarray(output.frames), clip.frames[at]
        contrast = float(shown.std() / truth.std())
        looks = [float(shown.mean() - truth.mean()), contrast, metrics.sharpness(shown, truth)]
        held = int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * _PAGE
        memory = state.memory
        rows.append([seconds, held / 2**20, int(memory.size), int(memory.overflow), *looks])
    return rows


def markdown(record: dict[str, Any]) -> str:
    """Each walk in tenths: medians of seconds and memory, and points at the end of each."""
    lines = [f"Model {record['model']}, segments of {record['frames']} frames; {record['device']}."]
    header = ("segments", "seconds each", "process, MiB", "points", "gone", "brightness", "contrast", "sharpness")
    for name, walk in record["walks"].items():
        values, table = np.array(walk["rows"]), []
        for part in np.array_split(np.arange(1, len(values)), min(_PARTS, len(values) - 1)):
            of = values[part]
            looks = (f"{of[:, 4].mean():+.1f}", f"{of[:, 5].mean():.2f}", f"{of[:, 6].mean():.2f}")
            sizes = f"{np.median(of[:, 0]):.2f}", f"{np.median(of[:, 1]):.0f}", int(of[-1, 2]), int(of[-1, 3])
            table.append((f"{part[0] + 1} to {part[-1] + 1}", *sizes, *looks))
        title = f"{name[:1].upper()}{name[1:]}: capacity {walk['capacity']:,}"
        lines += ["", f"{title}.", "", *records.table(header, table)]
    return "\n".join([*lines, ""])


def _draw(out: pathlib.Path, record: dict[str, Any]) -> None:
    """Both pictures of a record, in the folder `out`: means over one way there and back."""
    costs, looks = {}, {}
    for name, walk in record["walks"].items():
        values = np.array(walk["rows"])[1:]
        kept = min(record["loop"], len(values))
        window = np.ones(kept) / kept
        mean = [np.convolve(column, window, "valid") for column in values.T]
        costs |= {
            f"{name}: seconds, of those at first": mean[0] / mean[0][0],
            f"{name}: memory of the process, of that at first": mean[1] / mean[1][0],
            f"{name}: points held, of capacity": mean[2] / walk["capacity"],
        }
        looks |= {
            f"{name}: brightness less the truth's, of 255": mean[4] / 255,
            f"{name}: contrast, of the truth's": mean[5],
            f"{name}: sharpness, of the truth's": mean[6],
        }
    titles = {
        "endless.png": (costs, f"{record['model']}, segments of {record['frames']} frames in one process"),
        "endless_pictures.png": (looks, f"{record['model']}, how they look"),
    }
    for file, (curves, title) in titles.items():
        drawings.plot_curves(out / file, curves, ylabel="share", xlabel="segment", title=title)

"""Benchmark suite `endless`: whether a world stays as large, as fast and as it looked, over thousands of segments.

The model that ships walks the path of the clip that ships there and back, over and over, in segments of its shortest
length, in one process and one capacity, each written in place. The capacity is less than the path needs: the memory
fills, and points go from then on. Of every segment: seconds, points held, points that had to go, memory of the process,
and beside the true frames of the same views: brightness (0 to 255), contrast (standard deviation) and sharpness
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
CAPACITY = 1 << 12
"""Points, fewer than the path writes."""

_PARTS = 10  # of the run, that are compared
_PAGE = resource.getpagesize()


def measure(out: pathlib.Path, segments: int, checkpoint: str | None) -> dict[str, Any]:
    """Walks, and draws `endless.png` and `endless_pictures.png`; the record that `markdown` prints."""
    parts = [part for part in weights.parts_of(checkpoint or weights.DEFAULT) if part != "text"]
    model, params = weights.load(checkpoint, parts)
    model = model.at_any_length()
    clip = clips.load(clips.DEMO)
    cameras, count = camera_of(clip), model.segment_frames
    config = world.WorldConfig(model=model, capacity=CAPACITY, bank=32)
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
    record = {"model": model.name, "frames": count, "capacity": CAPACITY, "device": timing.device(), "rows": rows}
    _draw(out, record)
    return record


def markdown(record: dict[str, Any]) -> str:
    """The run in tenths: medians of seconds and memory, and points at the end of each."""
    values = np.array(record["rows"])
    table = []
    for part in np.array_split(np.arange(1, len(values)), min(_PARTS, len(values) - 1)):
        of = values[part]
        name = f"{part[0] + 1} to {part[-1] + 1}"
        looks = (f"{of[:, 4].mean():+.1f}", f"{of[:, 5].mean():.2f}", f"{of[:, 6].mean():.2f}")
        sizes = f"{np.median(of[:, 0]):.2f}", f"{np.median(of[:, 1]):.0f}", int(of[-1, 2]), int(of[-1, 3])
        table.append((name, *sizes, *looks))
    header = ("segments", "seconds each", "process, MiB", "points", "gone", "brightness", "contrast", "sharpness")
    lines = records.table(header, table)
    what = f"Model {record['model']}, segments of {record['frames']} frames, capacity {record['capacity']:,}"
    return "\n".join([f"{what}; {record['device']}.", "", *lines, ""])


def _draw(out: pathlib.Path, record: dict[str, Any]) -> None:
    """Both pictures of a record, in the folder `out`."""
    values = np.array(record["rows"])
    segments = f"{len(values)} segments of {record['frames']} frames"
    drawings.plot_curves(
        out / "endless.png",
        {
            "seconds a segment": values[1:, 0],
            "memory of the process, GiB": values[1:, 1] / 1024,
            "points held, of capacity": values[1:, 2] / record["capacity"],
        },
        ylabel="seconds; GiB; share",
        xlabel="segment",
        title=f"{record['model']}, {segments} in one process",
    )
    drawings.plot_curves(
        out / "endless_pictures.png",
        {
            "brightness above the truth, of 255": values[:, 4] / 255,
            "contrast, share of the truth's": values[:, 5],
            "sharpness, share of the truth's": values[:, 6],
        },
        ylabel="share",
        xlabel="segment",
        title=f"{record['model']}, how {segments} look",
    )

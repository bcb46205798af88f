"""Benchmark suite `rollout`: what a readout costs and what the cache holds as a rollout grows, latent and RGB memory.

Both memories hold the same frames of a walk through the room of `room` and are read for the same segment, in turn. The
latent readout is one read of target and preceding latent frames; the RGB readout is a rendering of every pixel frame of
the segment and its encoding by the VAE. The encoder sees pictures of one size whatever the memory holds, so it is timed
once for each size, at its end; until then what is said of the RGB readout is of rendering alone. Rows found in the
record of an earlier run are kept, so a run that was stopped goes on.

At 704x1280 a frame has 901,120 points: memories of all frames go to 5 segments, and those of one frame a segment, as
many as the published figures are of, to 50, whose coloured points take 1.7 GB.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import report
from experiments.bench import records, room, timing
from experiments.bench.full_size import programs, segment
from mirage_jax import weights
from mirage_jax.geometry import Camera
from mirage_jax.memory import latent, rgb
from mirage_jax.memory.points import PointMemory
from mirage_jax.models import config as model_config
from mirage_jax.models import vae
from mirage_jax.models.config import ModelConfig
from mirage_jax.world import recipe as recipes

OPTIONS = ("out", "scale")
"""What the command hands to `measure`."""

AIM_FASTER, AIM_SMALLER = 10.57, 55.0
"""What the paper says of its own latent memory against RGB memories."""

SEGMENTS = (1, 2, 5, 10, 20, 50)
COLUMNS = (
    *("size", "frames written a segment", "segments", "latent", "RGB: render", "RGB: encode", "RGB", "times faster"),
    *("latent, MiB", "RGB, MiB", "times smaller", "in small types"),
)
_GEOMETRY_BYTES = 4 * 4 + 4 + 4  # of a point: position, size of its cell, number of its write


@dataclasses.dataclass(frozen=True)
class Size:
    """A size at which memories are compared.

    Attributes:
      model: gives grid, channels, segment and footprint.
      contents: (frames written a segment, numbers of segments) to be measured.
      repeats: timed reads of each memory.
      views: RGB frames that one timed rendering makes; the others of a segment take as long.
      encodes: timed encodings.
      grouped: whether the encoder is timed on the first frame and on one group of frames that give a latent, and
        the whole computed from both, rather than on the whole segment.
      shipped: whether the VAE has the weights that ship with the project; else random ones.
    """

    model: ModelConfig
    contents: tuple[tuple[int, tuple[int, ...]], ...]
    repeats: int
    views: int
    encodes: int
    grouped: bool
    shipped: bool


def sizes(scale: str) -> dict[str, Size]:
    """What is compared: 'tiny' the size of the default model, 'full' that of Wan2.2 too."""
    small, large = model_config.default(), model_config.wan22_ti2v_5b()
    found = {"default": Size(small, ((small.segment.latents, SEGMENTS),), 9, 1 + small.segment_frames, 9, False, True)}
    if scale == "full":
        contents = ((1, SEGMENTS), (large.segment.latents, SEGMENTS[:3]))
        found["wan22"] = Size(large, contents, 5, 4, 3, True, False)
    return found


def measure(out: pathlib.Path, scale: str) -> dict[str, Any]:
    """Measures the rows that `out/rollout.json` does not have yet.

    Raises:
      UserError: if the record is of another device.
    """
    wanted = {name: _specs(name, size) for name, size in sizes(scale).items()}

    def measured(spec: Mapping[str, Any]) -> dict[str, Any]:
        size = sizes(scale)[spec["size"]]
        return _encoding(size) if spec["what"] == "encode" else _reading(size, spec["written"], spec["segments"])

    target, here = pathlib.Path(out) / "rollout.json", {"device": timing.device(), "jax": jax.__version__}
    return records.resumed(target, [spec for some in wanted.values() for spec in some], measured, same=here)


def ratios(record: dict[str, Any]) -> list[dict[str, Any]]:
    """A line for each content and number of segments.

    Returns:
      Dicts of `size`, `written`, `segments`, seconds per pixel frame `latent`, `render`, `encode` (median, 10th and
      90th percentile; `encode` is None until it is timed), bytes `latent_bytes`, `rgb_bytes`, and `faster` (by
      rendering alone while `encode` is None), `smaller`, `smaller_small_types` (tokens as bfloat16, colours as bytes).
    """
    encode = {
        row["spec"]["size"]: row["seconds_per_frame"] for row in record["rows"] if row["spec"]["what"] == "encode"
    }
    lines = []
    for row in record["rows"]:
        spec = row["spec"]
        if spec["what"] != "read":
            continue
        parts = {"latent": row["latent"]["seconds_per_frame"], "render": row["rgb"]["seconds_per_frame"]}
        parts["encode"] = encode.get(spec["size"])
        middle = {n: None if v is None else np.percentile(v, [50, 10, 90]).tolist() for n, v in parts.items()}
        slow = middle["render"][0] + (middle["encode"][0] if middle["encode"] else 0.0)
        tokens, colours = row["latent"], row["rgb"]
        small = [
            one["points"] * (_GEOMETRY_BYTES + size) for one, size in ((tokens, 2 * tokens["channels"]), (colours, 3))
        ]
        lines.append(
            {name: spec[name] for name in ("size", "written", "segments")}
            | middle
            | {
                "faster": slow / middle["latent"][0],
                "latent_bytes": tokens["bytes"],
                "rgb_bytes": colours["bytes"],
                "smaller": colours["bytes"] / tokens["bytes"],
                "smaller_small_types": small[1] / small[0],
            }
        )
    return lines


def markdown(record: dict[str, Any]) -> str:
    """The record as a table, with the paper's figures."""
    found = ratios(record)
    rows = []
    for row in found:
        parts = [row[name] for name in ("latent", "render", "encode")]
        cells = ["{:.3g} [{:.3g}, {:.3g}]".format(*(1e3 * v for v in p)) if p else "not timed" for p in parts]
        cells += [f"{1e3 * row['faster'] * row['latent'][0]:.3g}", f"{row['faster']:.1f}x"]
        cells += [f"{row['latent_bytes'] / 2**20:.3g}", f"{row['rgb_bytes'] / 2**20:.4g}"]
        cells += [f"{row['smaller']:.1f}x", f"{row['smaller_small_types']:.1f}x"]
        rows.append([row["size"], row["written"], row["segments"], *cells])
    lines = [
        f"Readouts on {record['device']}, JAX {record['jax']}: ms per pixel frame, median [10th to 90th percentile] of "
        "reads in turn after two that warm up; the RGB readout is rendering plus encoding. The cache is as the world "
        "holds it: tokens in the type the DiT computes in (bfloat16 for wan22), colours in float32; beside it the "
        "ratio with bfloat16 tokens and 8-bit colours.",
        "",
        *records.table(COLUMNS, rows),
    ]
    for name in dict.fromkeys(row["size"] for row in found):
        mine = [row for row in found if row["size"] == name]
        least = {key: min(row[key] for row in mine) for key in ("faster", "smaller", "smaller_small_types")}
        notes = [row["note"] for row in record["rows"] if row["spec"]["size"] == name and "note" in row]
        lines += [
            "",
            f"{name}: at least {least['faster']:.1f} times faster (the paper's figure is {AIM_FASTER}), "
            f"{least['smaller']:.1f} times smaller, {least['smaller_small_types']:.1f} times in small types (the "
            f"paper's is {AIM_SMALLER:g}). {' '.join(dict.fromkeys(notes))}",
        ]
    lines += ["", f"Published ({report.PUBLISHED['source']}), one H100, 704x1280:", ""]
    lines += records.table(*report.published_cost())
    return "\n".join([*lines, ""])


def _specs(name: str, size: Size) -> list[dict[str, Any]]:
    reads = [
        {"what": "read", "size": name, "written": written, "segments": segments}
        for written, numbers in size.contents
        for segments in numbers
    ]
    return [*reads, {"what": "encode", "size": name}]  # last: at 704x1280 a CPU takes minutes for it


def _reading(size: Size, written: int, segments: int) -> dict[str, Any]:
    """Both memories after so many segments, read for the next one."""
    model, layout, time = size.model, size.model.segment, size.model.vae.stride_time
    times = np.arange(1 + segments * written) * (layout.latents / written)
    held = {"latent": filled(model, times, "latent"), "rgb": filled(model, times, "rgb")}
    now = float(segments * layout.latents)
    ahead = np.arange(-layout.preceding, layout.latents + 1) + now
    pixel_frames = np.arange(size.views) / time + now
    views = {"latent": walk(model, ahead, "latent"), "rgb": walk(model, pixel_frames, "rgb")}
    of_segment = {"latent": 1.0, "rgb": (1 + model.segment_frames) / size.views}
    reads = {name: functools.partial(_read, held[name], views[name], recipes.of(model).footprint) for name in held}
    seconds = timing.in_turn(reads, size.repeats)
    rows = {
        name: {
            "seconds_per_frame": [v * of_segment[name] / model.segment_frames for v in seconds[name]],
            "points": int(memory.size),
            "channels": memory.features.shape[1],
            "bytes": latent.nbytes(memory)["held"],
            "frames": len(times),
        }
        for name, memory in held.items()
    }
    if size.views < 1 + model.segment_frames:
        rows["note"] = f"Renderings are of {size.views} of {1 + model.segment_frames} frames, {size.repeats} times."
    return rows


@functools.partial(jax.jit, static_argnums=2)
def _read(memory: PointMemory, cameras: Camera, footprint: int) -> latent.Readout:
    return latent.read(memory, cameras, max_footprint=footprint)


@functools.partial(jax.jit, donate_argnums=0)
def _write(memory: PointMemory, features: Any, depth: Any, cameras: Camera) -> PointMemory:
    return latent.write(memory, features, depth, cameras, jnp.ones(depth.shape, bool))


def walk(model: ModelConfig, times: np.ndarray, kind: str) -> Camera:
    """Cameras of a walk to and fro through the room that looks all around; times in latent frames.

    Args:
      model: gives the grids.
      times: `[T]`.
      kind: 'latent' for cameras on the latent grid, 'rgb' at pixel resolution.
    """
    stride = model.vae.stride_space if kind == "latent" else 1
    height, width = model.height // stride, model.width // stride
    poses = np.stack([room.pose(0.3 * np.sin(t / 7), 2 * np.sin(t / 25), t / 20) for t in times])
    k = np.tile(room.intrinsics(height, width), (len(times), 1, 1))
    return Camera(k.astype(np.float32), poses.astype(np.float32), height, width)


def filled(model: ModelConfig, times: np.ndarray, kind: str) -> PointMemory:
    """A memory that holds exactly the frames at these times, every cell or pixel of them, in the world's types."""
    cameras = walk(model, times, kind)
    cells = cameras.height * cameras.width
    channels = model.vae.latent_channels if kind == "latent" else 3
    make = functools.partial(latent.create, dtype=model.dit.dtype) if kind == "latent" else rgb.create
    memory = jax.jit(make, static_argnums=(0, 1))(len(times) * cells, channels)  # buffers that can be given away
    for index in range(len(times)):
        one = cameras[index : index + 1]
        k, pose = np.asarray(one.intrinsics[0], np.float64), np.asarray(one.cam2world[0], np.float64)
        depth = room.depth_and_points(k, pose, cameras.height, cameras.width)[0].astype(np.float32)[None]
        random = np.random.default_rng(index)
        features = random.standard_normal((*depth.shape, channels), np.float32)
        memory = _write(memory, features, depth, one)
    return memory


def _encoding(size: Size) -> dict[str, Any]:
    """Seconds per pixel frame of the VAE encoder, by which a rendering becomes a readout."""
    model = size.model
    frames = np.random.default_rng(0).uniform(-1, 1, (1 + model.segment_frames, model.height, model.width, 3))
    frames = jnp.asarray(frames[: 1 + model.vae.stride_time] if size.grouped else frames, jnp.float32)
    if size.shipped:
        params = weights.load(weights.DEFAULT, ["vae"])[1]["vae"]
    else:
        params = {"encoder": segment.random_like(programs.vae_shapes(model)["encoder"], jnp.float32)}
    if not size.grouped:
        seconds = timing.alone(lambda: vae.encode(model.vae, params, frames), size.encodes)
        return {"seconds_per_frame": [value / model.segment_frames for value in seconds]}
    first = lambda: vae.encode_stream(model.vae, params, frames[:1])  # noqa: E731
    cache = first()[1]
    group = lambda: vae.encode_stream(model.vae, params, frames[1:], cache)  # noqa: E731
    seconds = timing.in_turn({"first": first, "group": group}, size.encodes)
    whole = [a + model.segment.latents * b for a, b in zip(seconds["first"], seconds["group"], strict=True)]
    return {
        "seconds_per_frame": [value / model.segment_frames for value in whole],
        "seconds": seconds,
        "note": f"The encoder is timed on the first frame and on one of {model.segment.latents} groups of "
        f"{model.vae.stride_time} frames, {size.encodes} times, with random weights.",
    }

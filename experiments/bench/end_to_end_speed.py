"""Benchmark suite `end_to_end`: seconds of a segment of the default model by stage, with latent, RGB and no memory.

Every stage is what `world.segment` is made of, compiled apart; the whole segment is
timed beside them, so that the sum of the stages can be compared with it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from experiments.bench import records, timing
from experiments.bench.rollout_speed import walk
from mirage_jax import weights, world
from mirage_jax.geometry import Camera
from mirage_jax.memory import kinds
from mirage_jax.memory.kinds import Observation
from mirage_jax.models.config import ModelConfig
from mirage_jax.training.measures import resources
from mirage_jax.world.frame_geometry import estimate_geometry
from mirage_jax.world.recall import add_things, choose_references, new_frames, read
from mirage_jax.world.remember import remember
from mirage_jax.world.segment import denoise

REPEATS = 9
SEGMENTS = 3
"""Segments that are in the memory when one is timed."""

STAGES = {
    "read": "the memory at the segment's cameras (for RGB with the VAE encoder), references and control channels",
    "denoise": "all sampling steps",
    "decode": "latents to frames",
    "depth": "depth and masks by the heads",
    "write": "depth brought to the memory's scale, and into the memory",
}


def measure() -> dict[str, Any]:
    """Times stages and whole segments of the model that ships with the project."""
    model, params = weights.load(weights.DEFAULT, [p for p in weights.parts_of(weights.DEFAULT) if p != "text"])
    return measured(model, jax.device_put(params))


def measured(model: ModelConfig, params: Any, repeats: int = REPEATS) -> dict[str, Any]:
    """Times stages and whole segments, memories in turn.

    Args:
      model, params: with all parts.
      repeats: timed calls of each.

    Returns:
      The record that `markdown` prints: `methods` -> stage or 'segment' -> seconds of each call.
    """
    calls: dict[tuple[str, str], Callable[[], Any]] = {}
    points = {}
    for memory in tqdm.tqdm(kinds.names(), unit="memory", dynamic_ncols=True):
        config, prepared, state, cameras = begun(model, params, memory)
        points[memory] = int(state.memory.size)
        parts, _ = staged(config, prepared, state, cameras)
        parts["segment"] = functools.partial(world.segment, config, prepared, state, cameras)
        calls |= {(memory, name): call for name, call in parts.items()}
    seconds = timing.in_turn(calls, repeats)
    methods = {
        memory: {name: values for (method, name), values in seconds.items() if method == memory}
        for memory in kinds.names()
    }
    return {
        "model": model.name,
        "frames": model.segment_frames,
        "device": timing.device(),
        "jax": jax.__version__,
        "repeats": repeats,
        "points": points,
        "methods": methods,
        "memory": resources.memory(),
    }


def begun(model: ModelConfig, params: Any, memory: str) -> tuple[world.WorldConfig, Any, world.RolloutState, Camera]:
    """A world after `SEGMENTS` segments of a walk: its config, prepared parameters, state, and the next cameras."""
    time, count = model.vae.stride_time, model.segment_frames
    cameras = walk(model, np.arange(1 + (SEGMENTS + 1) * count) / time, "rgb")
    capacity = world.full_capacity(model, memory, SEGMENTS + 1)
    config = world.WorldConfig(model=model, memory=memory, capacity=capacity)
    prepared = world.prepare(config, params)
    image = np.random.default_rng(0).integers(0, 256, (model.height, model.width, 3), np.uint8)
    state = world.init(config, prepared, image, None, cameras[0], jax.random.key(0))
    for segment in range(SEGMENTS):
        begin = 1 + segment * count
        state, _ = world.segment(config, prepared, state, cameras[begin : begin + count])
    return config, prepared, state, jax.device_put(cameras[1 + SEGMENTS * count :])


def staged(
    config: world.WorldConfig, params: Any, state: world.RolloutState, cameras: Camera
) -> tuple[dict[str, Callable[[], Any]], dict[str, Any]]:
    """The stages of one segment, each on what those before it gave, and what they give.

    Args:
      config, params, state, cameras: as `world.segment` takes them.
    """
    last = slice(config.model.vae.stride_time - 1, None, config.model.vae.stride_time)
    frame_cameras = cameras[last]
    latent_cameras = frame_cameras.resized(*config.grid)
    key = jax.random.split(state.key)[1]
    given: dict[str, Any] = {}
    calls: dict[str, Callable[[], Any]] = {}

    def add(name: str, stage: Callable[..., Any], *arguments: Any) -> Any:
        calls[name] = functools.partial(jax.jit(functools.partial(stage, config)), *arguments)
        given[name] = calls[name]()
        return given[name]

    def recall(config, params, state, cameras):
        readout = read(config, params, state, cameras)
        shown = new_frames(config, readout)
        references = choose_references(config, state, latent_cameras, shown)
        return add_things(config, state, readout, cameras), shown, references, readout

    def decode(config, params, state, latents):
        return config.codec.go_on(params["vae"], state.context[-1], latents, state.decoder)

    def geometry(config, params, latents, frames):
        return estimate_geometry(config, params, latents, latent_cameras, frames)

    readout, _, references, known = add("read", recall, params, state, cameras)
    latents, _ = add("denoise", denoise, params, state, readout, references, None, key)
    frames = jnp.asarray(add("decode", decode, params, state, latents)[0][last])
    scene = add("depth", geometry, params, latents, frames)
    observed = Observation(
        latents=latents,
        frames=frames,
        depth=scene.depth,
        keep=scene.keep,
        sky=scene.sky,
        latent_cameras=latent_cameras,
        frame_cameras=frame_cameras,
    )
    add("write", remember, params, state.memory, observed, cameras, known)
    return calls, given


def markdown(record: dict[str, Any]) -> str:
    """The record as a table."""
    rows = []
    for title, name in [*((f"{name}: {about}", name) for name, about in STAGES.items()), ("whole segment", "segment")]:
        times = (1e3 * np.percentile(method[name], [50, 10, 90]) for method in record["methods"].values())
        rows.append([title, *("{:.3g} [{:.3g}, {:.3g}]".format(*some) for some in times)])
    sums = [1e3 * sum(np.median(method[name]) for name in STAGES) for method in record["methods"].values()]
    rows.append(["sum of the stages' medians", *(f"{value:.3g}" for value in sums)])
    lines = [
        f"A segment of {record['frames']} frames of model {record['model']} after {SEGMENTS} others, on "
        f"{record['device']}, JAX {record['jax']}: milliseconds, median [10th to 90th percentile] of "
        f"{record['repeats']} calls in turn after two that warm up.",
        "",
        *records.table(["", *(f"{name}, {record['points'][name]:,} points" for name in record["methods"])], rows),
    ]
    peaks = {"process": "host_memory_peak_gib", "device": "device_memory_peak_gib"}
    held = [f"{record['memory'][key]:.2f} GiB of the {what}" for what, key in peaks.items() if key in record["memory"]]
    return "\n".join([*lines, "", f"Peak memory over all three: {', '.join(held)}.", ""])

"""Benchmark suite `full_size`: what the 5B model takes on the accelerator at hand, with random weights.

One segment in parts: denoising steps at 13,200 tokens and their share of the measured peak of matrix products,
decoding, encoding of the overlap, and the memory's read and write. `--scale tiny` runs the same code at a size for a
CPU.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from experiments.bench import records, room, timing
from experiments.bench.full_size import programs
from mirage_jax.geometry import Camera
from mirage_jax.memory import latent
from mirage_jax.memory.points import PointMemory
from mirage_jax.models import config as model_config
from mirage_jax.models import vae, vae_tiling
from mirage_jax.models.config import ModelConfig
from mirage_jax.world import recipe as recipes

OPTIONS = ("scale",)
"""What the command hands to `measure`."""

REPEATS = {"full": 5, "tiny": 3}
_PEAK_SIZE = {"full": 8192, "tiny": 256}
_TILE = {"full": 24, "tiny": 8}


def measure(scale: str) -> dict[str, Any]:
    """Times every part of a segment on the default device; the record that `markdown` prints."""
    model, repeats = sized(scale), REPEATS[scale]
    device = jax.devices()[0]
    peak = _peak(_PEAK_SIZE[scale], jnp.dtype(model.dit.dtype), repeats)
    progress = tqdm.tqdm(total=5, unit="part", dynamic_ncols=True)
    parts: list[dict[str, Any]] = []

    def add(what: str, times: int, seconds: list[float], **more: Any) -> None:
        parts.append({"what": what, "times": times, "median": float(np.median(seconds)), "seconds": seconds, **more})
        progress.update()

    flops, seconds = matrix_flops(model), _denoising(model, repeats)
    add(
        "denoising step", recipes.of(model).steps, seconds, flops=flops, share_of_peak=flops / np.median(seconds) / peak
    )
    generator_peak = _memory_peak(device)

    weights, shape = (
        random_like(programs.vae_shapes(model), jnp.float32),
        programs.segment_inputs(model)["target"].shape,
    )
    latents = jax.random.normal(jax.random.key(1), shape)
    tile = _TILE[scale]
    for size, note in ((max(shape[1:3]), "a frame at a time"), (tile, f"tiles of {tile}")):
        decode = lambda size=size: vae_tiling.decode(model.vae, weights, latents, tile=size)  # noqa: E731
        add(f"decode a segment, {note}", int(size == tile), timing.alone(decode, repeats))
    frame = jnp.zeros((1, model.height, model.width, 3))
    add("encode the overlap", 1, timing.alone(lambda: vae.encode(model.vae, weights, frame), repeats))
    add("memory: read and write", 1, timing.alone(_memory(model), repeats))
    progress.close()
    total = sum(part["median"] * part["times"] for part in parts)
    return {
        "model": model.name,
        "scale": scale,
        "device": device.device_kind,
        "platform": device.platform,
        "jax": jax.__version__,
        "tokens": programs.tokens(model),
        "frames": model.segment_frames,
        "parameters": programs.counts(model),
        "peak_flops_per_second": peak,
        "parts": parts,
        "segment_seconds": total,
        "memory_bytes": {"after denoising": generator_peak, "after all": _memory_peak(device)},
    }


def markdown(record: dict[str, Any]) -> str:
    """The record as a table."""
    rows = []
    for part in record["parts"]:
        share = part["median"] * part["times"] / record["segment_seconds"]
        rows.append([part["what"], f"{part['median']:.4g}", part["times"], f"{100 * share:.1f} %"])
    step = record["parts"][0]
    lines = [
        f"{record['model']}, {record['tokens']:,} tokens, {record['frames']} new frames a segment, random weights, on "
        f"one {record['device']} ({record['platform']}), JAX {record['jax']}. Matrix products of the same type reach "
        f"{record['peak_flops_per_second'] / 1e12:.3g} TFLOP/s there.",
        "",
        *records.table(["part", "seconds", "times a segment", "share of the segment"], rows),
        "",
        f"A segment takes {record['segment_seconds']:.4g} s. A denoising step is {step['flops']:.3g} FLOP of matrix "
        f"products, done at {100 * step['share_of_peak']:.1f} % of the peak.",
    ]
    held = [f"{when} {size / 1e9:.1f} GB" for when, size in record["memory_bytes"].items() if size is not None]
    if held:
        lines.append(f"Peak memory of the device: {', '.join(held)}.")
    return "\n".join([*lines, ""])


def sized(scale: str) -> ModelConfig:
    """The 5B model, or one with its layout that a CPU runs in seconds."""
    model = model_config.PRESETS["wan22_ti2v_5b"]()
    if scale == "full":
        return model
    narrow = dataclasses.replace(
        model.dit, dim=32, ffn_dim=64, heads=2, layers=2, text_dim=32, text_tokens=8, dtype="float32"
    )
    small = dataclasses.replace(
        model.vae,
        encoder_dim=4,
        decoder_dim=4,
        multipliers=(1, 1),
        blocks=1,
        time_downsample=(True,),
        time_kernels=(3, 3),
    )
    short = dataclasses.replace(model.segment, latents=2, preceding=1, reference=1)
    return dataclasses.replace(
        model, name=f"{model.name}, tiny", height=32, width=48, dit=narrow, vae=small, segment=short
    )


def matrix_flops(model: ModelConfig) -> float:
    """Floating-point operations of a denoising step in its matrix products, attention included.

    Counted from the sizes, since a compiler does not see into fused attention.
    """
    dit, layout = model.dit, model.segment
    every = programs.tokens(model)
    frame = every // (1 + layout.latents + layout.preceding + layout.reference)
    inside = every - layout.reference * frame  # what the side branch sees

    def block(tokens: int) -> float:
        weights = (4 * dit.dim**2 + 2 * dit.dim * dit.ffn_dim) * tokens
        pairs = 2 * dit.dim * tokens**2
        if dit.text_dim:
            weights += 2 * dit.dim**2 * (tokens + dit.text_tokens)
            pairs += 2 * dit.dim * tokens * dit.text_tokens
        return 2.0 * (weights + pairs)

    hints = 2.0 * dit.dim**2 * inside
    patch = dit.patch[1] * dit.patch[2]
    ends = 2.0 * dit.dim * patch * (2 * dit.in_channels * every + model.side.control_channels * inside)
    side_blocks = (dit.layers + 1) // 2
    return dit.layers * block(every) + side_blocks * (block(inside) + hints) + hints + ends


def _denoising(model: ModelConfig, repeats: int) -> list[float]:
    """Seconds of denoising steps; the weights are gone afterwards."""
    generator = dataclasses.replace(model, dit=dataclasses.replace(model.dit, remat="none"))
    params = random_like(programs.generator_shapes(model), jnp.dtype(model.dit.dtype))
    inputs = random_like(programs.segment_inputs(model), None)
    step = jax.jit(lambda params, inputs: programs.apply_generator(generator, params, inputs))
    return timing.alone(lambda: step(params, inputs), repeats)


def _peak(size: int, dtype: jnp.dtype, repeats: int) -> float:
    """FLOP per second of square matrix products."""
    a, b = (jax.random.normal(jax.random.key(i), (size, size)).astype(dtype) for i in range(2))
    product = jax.jit(jnp.matmul)
    return 2.0 * size**3 / min(timing.alone(lambda: product(a, b), 4 * repeats))


def random_like(shapes: Any, dtype: jnp.dtype | None) -> Any:
    """Small random values on the device, of `dtype` or the type each shape says; True for booleans."""
    leaves, treedef = jax.tree.flatten(shapes)

    def make(key: jax.Array, shape: jax.ShapeDtypeStruct) -> jax.Array:
        kind = shape.dtype if dtype is None else dtype
        if kind == jnp.bool_:
            return jnp.ones(shape.shape, bool)
        return (0.02 * jax.random.normal(key, shape.shape)).astype(kind)

    filled = jax.jit(make, static_argnums=1)
    return jax.tree.unflatten(treedef, [filled(jax.random.key(i, impl="rbg"), shape) for i, shape in enumerate(leaves)])


def _memory(model: ModelConfig) -> Callable[[], Any]:
    """Reading and writing one segment's frames of a room."""
    layout, channels = model.segment, model.vae.latent_channels
    height, width = model.height // model.vae.stride_space, model.width // model.vae.stride_space
    frames = 1 + layout.latents
    poses = np.stack([room.pose(0.3 * np.sin(step / 7), -2 + 0.08 * step, 0.0) for step in range(frames)])
    intrinsics = np.tile(room.intrinsics(height, width), (frames, 1, 1))
    cameras = jax.device_put(Camera(intrinsics.astype(np.float32), poses.astype(np.float32), height, width))
    depth = np.stack(
        [room.depth_and_points(k, pose, height, width)[0] for k, pose in zip(intrinsics, poses, strict=True)]
    )
    features = jax.random.normal(jax.random.key(0), (frames, height, width, channels))
    empty = latent.create(5 * frames * height * width, channels, model.dit.dtype)
    written = jax.device_put((features, depth.astype(np.float32), cameras, np.ones(depth.shape, bool)))

    @jax.jit
    def both(memory: PointMemory) -> Any:
        memory = latent.write(memory, *written)
        return memory, latent.read(memory, cameras)

    return lambda: both(empty)


def _memory_peak(device: Any) -> int | None:
    statistics = device.memory_stats() or {}
    return statistics.get("peak_bytes_in_use")

"""Codes posed clips with a trained VAE, once, for the stages that train on latents."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mirage_jax.geometry import Camera
from mirage_jax.memory import resample
from mirage_jax.models.codec import Codec
from mirage_jax.models.config import ModelConfig

MIRROR = np.diag([-1.0, 1.0, 1.0, 1.0]).astype(np.float32)


def coded_clips(
    model: ModelConfig,
    params: Any,
    source: Any,
    *,
    mirrored: bool,
    pixels: bool = False,
    shard: int = 0,
    shards: int = 1,
) -> Iterator[dict[str, Any]]:
    """The samples of one shard of the latent data set (see `mirage_jax.data.latents`).

    Args:
      model, params: with a VAE.
      source: random access to posed clips (`mirage_jax.data.load_source`).
      mirrored: also give each clip left-right mirrored, in a mirrored world.
      pixels: also give what an RGB memory is made of.
      shard, shards: clips `shard`, `shard + shards`, ...
    """
    for index in range(shard, len(source), shards):
        clip = source.clip(index)
        for flip in (False, True) if mirrored else (False,):
            shown = mirror(clip) if flip else clip
            yield (
                code(model, params, shown)
                | (pixels_of(model, shown) if pixels else {})
                | {
                    "caption": clip.caption,
                    "source": f"{clip.source}/mirrored" if flip else clip.source,
                }
            )


def mirror(clip: Any) -> Any:
    """The same clip seen in a mirror: pictures flipped, the world's x axis reversed (rotations stay proper)."""
    width = clip.frames.shape[2]
    intrinsics = clip.intrinsics.copy()
    intrinsics[:, 0, 2] = width - intrinsics[:, 0, 2]
    return dataclasses.replace(
        clip,
        frames=clip.frames[:, :, ::-1],
        depth=clip.depth[:, :, ::-1],
        dynamic=clip.dynamic[:, :, ::-1],
        intrinsics=intrinsics,
        cam2world=MIRROR @ clip.cam2world @ MIRROR,
    )


def code(model: ModelConfig, params: Any, clip: Any) -> dict[str, np.ndarray]:
    """Latents and geometry of one clip, without its name."""
    coded = _code(model, params, clip.frames, clip.depth, clip.dynamic, clip.intrinsics, clip.cam2world)
    return {name: np.asarray(value) for name, value in coded.items()}


def pixels_of(model: ModelConfig, clip: Any) -> dict[str, np.ndarray]:
    """The frames that the latent frames end at, at full size."""
    at = slice(None, None, model.vae.stride_time)
    return {
        "frames": clip.frames[at],
        "pixel_depth": clip.depth[at].astype(np.float16),
        "pixel_dynamic": clip.dynamic[at].astype(np.uint8),
    }


def _code(model, params, frames, depth, dynamic, intrinsics, cam2world):
    coder = model.vae
    height, width = frames.shape[1] // coder.stride_space, frames.shape[2] // coder.stride_space
    at = slice(None, None, coder.stride_time)  # the frame whose camera a latent frame has
    cameras = Camera(
        intrinsics=jnp.asarray(intrinsics),
        cam2world=jnp.asarray(cam2world),
        height=frames.shape[1],
        width=frames.shape[2],
    ).resized(height, width)
    latents, cells, moving = _on_device(coder, params["vae"], frames, depth[at], dynamic[at])
    return {
        "latents": np.asarray(latents, np.float16),
        "depth": np.asarray(cells, np.float16),
        "dynamic": np.asarray(moving, np.uint8),
        "intrinsics": cameras.intrinsics,
        "cam2world": cameras.cam2world,
    }


@functools.partial(jax.jit, static_argnums=0)
def _on_device(coder, params, frames, depth, dynamic):
    frames = frames.astype(jnp.float32) / 127.5 - 1.0
    latents = Codec(coder).encode(params, frames)
    height, width = latents.shape[1:3]
    return latents, resample.depth_to_grid(depth, height, width), resample.mask_to_grid(dynamic, height, width)

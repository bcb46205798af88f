"""Codes posed clips with a trained VAE, once, for the stages that train on latents."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mirage_jax.geometry import Camera
from mirage_jax.memory import resample
from mirage_jax.models.codec import Codec
from mirage_jax.models.config import ModelConfig


def code(model: ModelConfig, params: Any, clip: Any) -> dict[str, np.ndarray]:
    """Latents and geometry of one clip, without its name."""
    coded = _code(model, params, clip.frames, clip.depth, clip.dynamic, clip.intrinsics, clip.cam2world)
    return {name: np.asarray(value) for name, value in coded.items()}


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

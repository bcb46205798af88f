"""The truth of a clip as a world has it: cameras, latents, the memory of true frames; and latents as pictures."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mirage_jax.data.clip import PosedClip
from mirage_jax.geometry import Camera
from mirage_jax.memory import latent, resample
from mirage_jax.memory.points import PointMemory, Readout
from mirage_jax.models import vae
from mirage_jax.models.codec import Codec
from mirage_jax.models.config import ModelConfig
from mirage_jax.training.posed import PosedLatents


def camera_of(clip: PosedClip) -> Camera:
    """The clip's cameras, `Camera[T]` at pixel resolution."""
    height, width = clip.frames.shape[1:3]
    return Camera(
        intrinsics=jnp.asarray(clip.intrinsics), cam2world=jnp.asarray(clip.cam2world), height=height, width=width
    )


def shown(model: ModelConfig, params: Any, readout: Readout, decoder: Any) -> np.ndarray:
    """What a memory shows as pictures, without a generator: uint8 `[n r, H, W, 3]`.

    Args:
      model, params: of the VAE.
      readout: `[n, h, w, ..]`, of the latent frames after those that `decoder` has seen.
      decoder: the decoder's cache after the frames before.
    """
    return to_frames(vae.decode_stream(model.vae, params["vae"], readout.features, decoder)[0])


def to_frames(pixels: Any) -> np.ndarray:
    """`[T, H, W, 3]` in [-1, 1] to uint8."""
    return np.asarray(jnp.round((pixels + 1.0) * 127.5).astype(jnp.uint8))


def coded_truth(model: ModelConfig, params: Any, clip: PosedClip) -> PosedLatents:
    """Latents and geometry of the true frames on the latent grid, in full precision."""
    pixels = clip.frames.astype(np.float32) / 127.5 - 1.0
    stride, at = model.vae.stride_space, slice(None, None, model.vae.stride_time)
    grid = clip.frames.shape[1] // stride, clip.frames.shape[2] // stride
    return PosedLatents(
        latents=Codec(model.vae).encode(params["vae"], pixels),
        depth=resample.depth_to_grid(clip.depth[at], *grid),
        dynamic=resample.mask_to_grid(clip.dynamic[at], *grid, least=0.25),
        frame_cameras=camera_of(clip).resized(*grid),
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def memory_of(model: ModelConfig, capacity: int, coded: PosedLatents, among: jax.Array) -> PointMemory:
    """The latent memory of those latent frames that the mask `among` `[t]` has."""
    still = ~coded.dynamic & among[:, None, None]
    solid = still & jnp.isfinite(coded.depth) & (coded.depth > 0)
    memory = latent.create(capacity, model.vae.latent_channels)
    entering = coded.depth, coded.cameras, solid, still & jnp.isinf(coded.depth)
    return latent.write(memory, coded.latents, *entering)

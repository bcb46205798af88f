"""The pictures that a saved world still holds: its kept latent frames, decoded in their order."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mirage_jax import world
from mirage_jax.geometry import Camera


def kept(config: world.WorldConfig, params: Any, state: Any) -> tuple[np.ndarray, Camera]:
    """The latent frames of the bank as pictures, the latest last.

    They are decoded as one video from the oldest on, one latent frame at a time, and of each the frame that it ends at
    is taken. Where older ones were overwritten, the first few are as a decoder without their past makes them.

    Args:
      config: of the world.
      params: of the model; of them, the VAE's.
      state: of the world.

    Returns:
      uint8 `[n, H, W, 3]` and `Camera[n]` of numpy arrays at pixel resolution.
    """
    bank = state.bank
    count, size = int(bank.count), len(bank.latents)
    order = np.arange(max(count - size, 0), count) % size
    cache, frames = None, []
    for slot in order:
        decoded, cache = config.codec.decode_stream(params["vae"], bank.latents[slot][None], cache)
        frames.append(np.asarray(jnp.round((decoded[-1] + 1.0) * 127.5).astype(jnp.uint8)))
    cameras = jax.tree.map(lambda x: np.asarray(x)[order], bank.cameras).resized(
        config.model.height, config.model.width
    )
    cameras = jax.tree.map(lambda x: np.asarray(x, np.float32), cameras)
    return np.stack(frames), cameras

"""From the memory to the control latents of the side branch; the same code in training and in a rollout."""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp

from mirage_jax.memory.latent import Readout
from mirage_jax.models import vae, vae_tiling
from mirage_jax.models.config import ModelConfig

DEPTH_UNIT = 5.0
"""Metres at which the depth channel is one half: `1 / (1 + depth / DEPTH_UNIT)`, 0 at the sky."""


def control_latents(parts: tuple[str, ...], readout: Readout, ones: chex.Array | None = None) -> jax.Array:
    """Stacks the control channels that `parts` names.

    Args:
      parts: of `SegmentConfig.control`.
      readout: `[T, h, w, ..]` what the memory shows.
      ones: `[T, h, w, C]` of `ones_code`, where `parts` has 'ones'.

    Returns:
      `[T, h, w, Cc]`; zero wherever nothing is visible, but for 'ones', which is everywhere.
    """
    visible = readout.visible[..., None].astype(jnp.float32)
    nearness = 1.0 / (1.0 + jnp.where(readout.visible, readout.depth, jnp.inf) / DEPTH_UNIT)
    channels = {
        "readout": readout.features.astype(jnp.float32),
        "visible": visible,
        "depth": nearness[..., None],
        "offset": readout.offset,
    }
    masked = {name: value * visible for name, value in channels.items()} | {"ones": ones}
    return jnp.concatenate([masked[part] for part in parts], axis=-1)


def ones_code(model: ModelConfig, params: Any, tile: int = 0) -> jax.Array:
    """The code of an all-ones video at the latent frames of target and preceding, `[T + P, h, w, C]`.

    The code depends on the place in the clip for its first few frames only: preceding frames get the last one's. With a
    `tile`, it is made in tiles of so many cells.
    """
    layout = model.segment
    video = jnp.ones((1 + layout.latents * model.vae.stride_time, model.height, model.width, 3))
    if tile:
        code = vae_tiling.encode(model.vae, params["vae"], video, tile=tile)
    else:
        code = vae.encode(model.vae, params["vae"], video)
    return jnp.concatenate([code, jnp.broadcast_to(code[-1:], (layout.preceding, *code.shape[1:]))])

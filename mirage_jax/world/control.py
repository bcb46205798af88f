"""From the memory to the control latents of the side branch; the same code in training and in a rollout."""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp

from mirage_jax.geometry import Camera
from mirage_jax.memory.latent import Readout
from mirage_jax.models import vae, vae_tiling
from mirage_jax.models.config import ModelConfig

DEPTH_UNIT = 5.0
"""Metres at which the depth channel is one half: `1 / (1 + depth / DEPTH_UNIT)`, 0 at the sky."""

MOTION_UNIT = 4.0
"""Cells that are one in the motion channels."""


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
    channels = {
        "readout": lambda: readout.features.astype(jnp.float32),
        "visible": lambda: visible,
        "depth": lambda: 1.0 / (1.0 + jnp.where(visible > 0, readout.depth[..., None], jnp.inf) / DEPTH_UNIT),
        "offset": lambda: readout.offset,
        "scale": lambda: jnp.log2(jnp.where(visible > 0, readout.scale[..., None], 1.0)),
        "motion": lambda: jnp.concatenate([readout.motion, readout.source_motion], axis=-1) / MOTION_UNIT,
    }
    return jnp.concatenate([ones if part == "ones" else channels[part]() * visible for part in parts], axis=-1)


def previous_of(target: Camera, preceding: Camera) -> Camera:
    """For the frames of a readout, target and then preceding, the cameras of the frames before them.

    Args:
      target: `Camera[T]`, which go on from the preceding ones.
      preceding: `Camera[P]`.

    Returns:
      `Camera[T + P]`; the very first has itself.
    """
    in_order = jax.tree.map(lambda p, t: jnp.concatenate([p, t]), preceding, target)
    before = shifted(in_order)
    past = len(preceding)
    return jax.tree.map(lambda x: jnp.concatenate([x[past:], x[:past]]), before)


def shifted(cameras: Camera, first: Camera | None = None) -> Camera:
    """`Camera[T]`, of each frame the one before; the first has `first`, a `Camera[1]`, or itself."""
    first = cameras[:1] if first is None else first
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b[:-1]]), first, cameras)


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

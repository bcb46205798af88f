"""From the memory to the control latents of the side branch; the same code in training and in a rollout."""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp

from mirage_jax.geometry import Camera
from mirage_jax.memory import latent
from mirage_jax.memory.latent import LatentMemory, Readout
from mirage_jax.models import vae, vae_tiling
from mirage_jax.models.config import BETWEEN, ModelConfig

DEPTH_UNIT = 5.0
"""Metres at which the depth channel is one half: `1 / (1 + depth / DEPTH_UNIT)`, 0 at the sky."""


def control_latents(parts: tuple[str, ...], readout: Readout, ones: chex.Array | None = None) -> jax.Array:
    """Stacks the control channels that `parts` names.

    Args:
      parts: of `SegmentConfig.control`.
      readout: `[T, h, w, ..]` what the memory shows.
      ones: `[T, h, w, C]` of `ones_code`, where `parts` has 'ones'.

    Returns:
      `[T, h, w, Cc]`; zero wherever nothing is visible, but for 'ones', which is everywhere, 'hole', which is 1 there,
      and 'between', which is zero where nothing is visible at its frames, and for a readout without any.
    """
    visible = readout.visible[..., None].astype(jnp.float32)
    channels = {
        "readout": lambda: readout.features.astype(jnp.float32),
        "visible": lambda: visible,
        "depth": lambda: 1.0 / (1.0 + jnp.where(visible > 0, readout.depth[..., None], jnp.inf) / DEPTH_UNIT),
        "offset": lambda: readout.offset,
        "scale": lambda: jnp.log2(jnp.where(visible > 0, readout.scale[..., None], 1.0)),
    }
    everywhere = {"ones": lambda: ones, "hole": lambda: 1.0 - visible, "between": lambda: _between(readout)}
    return jnp.concatenate(
        [everywhere[part]() if part in everywhere else channels[part]() * visible for part in parts], axis=-1
    )


def look_up(
    memory: LatentMemory, model: ModelConfig, overlap: Camera, new: Camera, preceding: Camera, *, near: float
) -> Readout:
    """What a latent memory shows at the latent frames of target and preceding.

    Args:
      memory: what is held.
      model: of its segment layout, `n` latent frames of `r` video frames and `P` preceding ones.
      overlap: `Camera[1]` of the latent frame before the new ones, as all cameras here on the latent grid.
      new: `Camera[n r]` of the new video frames.
      preceding: `Camera[P]` of the latent frames before the overlap.
      near: near plane, scene units.

    Returns:
      `[1 + n + P, h, w, ..]`; with control 'between' also what it shows at the video frames between the latent frames
      (`Readout.between`), of the new ones only.
    """
    time, count = model.vae.stride_time, model.segment.latents
    options = {"max_footprint": model.segment.footprint, "near": near}
    if "between" not in model.segment.control:
        return latent.read(memory, concatenate(overlap, new[time - 1 :: time], preceding), **options)
    views = latent.read(memory, concatenate(overlap, new, preceding), **options)
    at = jnp.array([0, *range(time, count * time + 1, time), *range(count * time + 1, len(views.visible))])

    def between(x: jax.Array) -> jax.Array:
        inside = x[1 : 1 + count * time].reshape(count, time, *x.shape[1:])[:, :-1]
        return jnp.pad(inside, [(1, len(preceding)), *[(0, 0)] * (inside.ndim - 1)])

    inside = Readout(features=between(views.features), visible=between(views.visible), depth=between(views.depth))
    return jax.tree.map(lambda x: x[at], views).replace(between=inside)


def concatenate(*cameras: Camera) -> Camera:
    """Cameras one after the other."""
    return jax.tree.map(lambda *x: jnp.concatenate(x), *cameras)


def _between(readout: Readout) -> jax.Array:
    """`[T, h, w, BETWEEN (C + 1)]`: tokens, then where they are."""
    frames, height, width, channels = readout.features.shape
    if readout.between is None:
        return jnp.zeros((frames, height, width, BETWEEN * (channels + 1)))
    shown = [readout.between.features, readout.between.visible[..., None]]
    return jnp.concatenate([jnp.moveaxis(x, 1, -2).reshape(frames, height, width, -1) for x in shown], axis=-1)


def ones_code(model: ModelConfig, params: Any, tile: int = 0) -> jax.Array:
    """The code of an all-ones video at the latent frames of target and preceding, `[T + P, h, w, C]`.

    One clip of `r (T + P - 1) + 1` frames, as the public release encodes it: its code still changes after the target
    frames. With a `tile`, it is made in tiles of so many cells.
    """
    layout = model.segment
    frames = 1 + (layout.latents + layout.preceding) * model.vae.stride_time
    video = jnp.ones((frames, model.height, model.width, 3))
    if tile:
        return vae_tiling.encode(model.vae, params["vae"], video, tile=tile)
    return vae.encode(model.vae, params["vae"], video)

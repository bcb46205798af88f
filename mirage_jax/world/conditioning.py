"""From a readout of the memory to the control channels of the side branch; the same code in training and a rollout."""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp

from mirage_jax.geometry import Camera, concatenate
from mirage_jax.memory.kinds import Views
from mirage_jax.memory.points import Readout
from mirage_jax.memory.things import entities
from mirage_jax.memory.things.entities import Entities
from mirage_jax.models.codec import Codec
from mirage_jax.models.config import ModelConfig, SegmentConfig

AGE_UNIT = 8.0
"""Latent frames at which the age channel is one half: `age / (age + AGE_UNIT)`."""

DEPTH_UNIT = 5.0
"""Metres at which the depth channel is one half: `1 / (1 + depth / DEPTH_UNIT)`, 0 at the sky."""


def control_latents(parts: tuple[str, ...], readout: Readout, ones: chex.Array | None = None) -> jax.Array:
    """Stacks the control channels that `parts` names.

    Args:
      parts: of `SegmentConfig.control`.
      readout: `[T, h, w, ..]` what the memory shows.
      ones: `[T, h, w, C]` of `ones_code`, where `parts` has 'ones'.

    Returns:
      `[T, h, w, Cc]`; zero wherever nothing is visible, but for 'ones', which is everywhere, and 'hole', which is 1
      there. 'moving', 'age' and 'turned' are zero too where no things that move are remembered.
    """
    visible = readout.visible[..., None].astype(jnp.float32)
    channels = {
        "readout": lambda: readout.features.astype(jnp.float32),
        "visible": lambda: visible,
        "depth": lambda: 1.0 / (1.0 + jnp.where(visible > 0, readout.depth[..., None], jnp.inf) / DEPTH_UNIT),
        "moving": lambda: _or_zero(readout.moving, visible),
        "age": lambda: (age := _or_zero(readout.age, visible)) / (age + AGE_UNIT),
        "turned": lambda: _or_zero(readout.turned, visible),
    }
    everywhere = {"ones": lambda: ones, "hole": lambda: 1.0 - visible}
    return jnp.concatenate(
        [everywhere[part]() if part in everywhere else channels[part]() * visible for part in parts], axis=-1
    )


def _or_zero(channel: chex.Array | None, like: jax.Array) -> jax.Array:
    return jnp.zeros_like(like) if channel is None else channel[..., None].astype(jnp.float32)


def frame_times(layout: SegmentConfig, begin: chex.Numeric) -> jax.Array:
    """int32 `[T + P]` latent frame of the video, of target and preceding, for an overlap that is frame `begin`."""
    target, preceding = jnp.arange(1 + layout.latents), jnp.arange(layout.preceding) - layout.preceding
    return jnp.concatenate([target, preceding]) + begin


def cameras(views: Views) -> Camera:
    """`Camera[T + P]` on the latent grid, of the latent frames of target and preceding."""
    new = views.frame_cameras.resized(views.context.height, views.context.width)
    return concatenate(views.context[-1:], new[views.stride - 1 :: views.stride], views.context[:-1])


def views(model: ModelConfig, context: Camera, new: Camera) -> Views:
    """From where a segment of a model looks at its memory.

    Args:
      model: its segment layout and temporal stride.
      context: `Camera[P + 1]` of preceding latent frames and overlap, on the latent grid.
      new: `Camera[F]` of the new video frames.
    """
    return Views(context=context, frame_cameras=new, stride=model.vae.stride_time)


def with_things(
    model: ModelConfig, footprint: int, readout: Readout, things: Entities, views: Views, begin: chex.Numeric
) -> Readout:
    """A readout `[T + P, h, w, ..]` with things that move where they should be by then (`entities.read`).

    Args:
      model: its segment layout.
      footprint: of the recipe.
      readout: what the static memory shows.
      things: what is known of them.
      views: from where the segment looks.
      begin: latent frame of the video that the overlap is.
    """
    times = frame_times(model.segment, begin)
    most = max(footprint, entities.FOOTPRINT)
    return entities.read(things, readout, cameras(views), times, max_footprint=most)


def with_preceding(readout: Readout, preceding: Readout) -> Readout:
    """A readout of `recall`, `[T + P, ..]`, that shows `preceding` `[P, ..]` at the preceding frames."""
    count = len(readout.visible) - len(preceding.visible)
    return jax.tree.map(lambda x, p: jnp.concatenate([x[:count], p]), readout, preceding)


def ones_code(model: ModelConfig, params: Any, tile: int | None = None) -> jax.Array:
    """The code of an all-ones video at the latent frames of target and preceding, `[T + P, h, w, C]`.

    One clip of `r (T + P - 1) + 1` frames, as the public release encodes it: its code still changes after the target
    frames. `tile` is that of `Codec`.
    """
    layout = model.segment
    frames = 1 + (layout.latents + layout.preceding) * model.vae.stride_time
    video = jnp.ones((frames, model.height, model.width, 3))
    return Codec(model.vae, tile=tile).encode(params["vae"], video)

"""Things that move, in training: remembered from the earlier frames of a clip with the errors of a rollout."""

from __future__ import annotations

from typing import TYPE_CHECKING

import chex
import jax
import jax.numpy as jnp

from mirage_jax.memory import latent
from mirage_jax.memory.kinds import Views
from mirage_jax.memory.points import Readout
from mirage_jax.memory.things import entities
from mirage_jax.models.config import ModelConfig
from mirage_jax.world import conditioning, recipe
from mirage_jax.world.state import entity_cells

if TYPE_CHECKING:
    from mirage_jax.training.posed import Augmentation, PosedLatents


def added(
    key: chex.PRNGKey,
    model: ModelConfig,
    clip: PosedLatents,
    start: chex.Array,
    augment: Augmentation,
    readout: Readout,
    views: Views,
    depth: chex.Array,
) -> Readout:
    """The readout `[T + P, h, w, ..]` with the things of the frames `0 .. start` where they should be by now.

    `readout` is what the static memory shows from `views`; `depth` `[t, h, w]` has its errors, NaN for the frames of an
    empty memory; the rest is as in `posed.make_training_example`. Consumes `key`.
    """
    method = recipe.of(model)
    keys = jax.random.split(key, 4)
    frames = jnp.arange(len(clip.latents))
    missed = jax.random.bernoulli(keys[0], augment.miss_things * jax.random.uniform(keys[1]), (len(frames), 1, 1))
    lost = jax.random.bernoulli(keys[2], augment.drop_cells * jax.random.uniform(keys[3]), depth.shape)
    moving = clip.dynamic & ~missed & ~lost
    channels = clip.latents.shape[-1]
    # In a rollout its memory stops them at walls; here nothing does.
    walls = latent.create(1, channels)
    none = entities.create(method.entities, entity_cells(*clip.depth.shape[1:]), channels)
    known = entities.write(none, walls, clip.latents, depth, clip.cameras, moving, frames <= start)
    return conditioning.with_things(model, method.footprint, readout, known, views, start)

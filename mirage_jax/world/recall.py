"""What a world remembers of what a segment will show: readout of the memory, things that move, earlier frames."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from mirage_jax.geometry import Camera
from mirage_jax.memory import kinds
from mirage_jax.memory.points import Readout
from mirage_jax.world import conditioning, reference
from mirage_jax.world.config import WorldConfig
from mirage_jax.world.state import RolloutState


def read(config: WorldConfig, params: Any, state: RolloutState, cameras: Camera) -> Readout:
    """What the memory shows at the latent frames of target and preceding, `[T + P, h, w, ..]`; as in `segment`."""
    views = conditioning.views(config.model, state.context_cameras, cameras)
    encode = functools.partial(config.codec.encode, params["vae"])
    readout = kinds.of(config.memory).recall(state.memory, views, config.recipe.footprint, encode)
    if state.context_readout is None:
        return readout
    return conditioning.with_preceding(readout, jax.tree.map(lambda x: x[:-1], state.context_readout))


def add_things(config: WorldConfig, state: RolloutState, readout: Readout, cameras: Camera) -> Readout:
    """A readout of `read` with the things that move where they should be by now; as it is where none are remembered."""
    if state.entities is None:
        return readout
    views = conditioning.views(config.model, state.context_cameras, cameras)
    begin = state.entities.clock - 1
    return conditioning.with_things(config.model, config.recipe.footprint, readout, state.entities, views, begin)


def new_frames(config: WorldConfig, readout: Readout) -> Readout:
    """The part `[n, h, w, ..]` of a readout of target and preceding that is of the new latent frames."""
    return jax.tree.map(lambda x: x[1 : 1 + config.model.segment.latents], readout)


def choose_references(
    config: WorldConfig, state: RolloutState, latent_cameras: Camera, shown: Readout
) -> tuple[jax.Array, jax.Array] | None:
    """Latents `[R, h, w, C]` and validity `[R]` of earlier frames that see what the segment will, if there is room."""
    layout = config.model.segment
    if not (layout.reference and config.conditions):  # retrieved by geometry: a kind of memory
        return None
    slots = jnp.arange(config.bank)
    recent = (state.bank.count - 1 - slots) % config.bank <= layout.preceding  # given as context already
    count = min(layout.reference, config.bank)
    return reference.select(state.bank, latent_cameras, shown.depth, recent, count)

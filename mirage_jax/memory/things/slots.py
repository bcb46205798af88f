"""Slots for things that move: what is known of each, and where it is by now (see `entities`)."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
from flax import struct

LEAST_CONFIDENCE = 0.2
"""Below this a slot is empty."""


PERSISTENCE = 48.0
"""Latent frames for which a thing keeps its velocity, in the mean: what walks about turns in the end, so it is expected
to go on by no more than this."""


@struct.dataclass
class Entities:
    """K slots for things that move.

    Attributes:
      position: `[K, 3]` world centre when last seen.
      velocity: `[K, 3]` scene units a latent frame.
      room: `[K]` how far it can go before the static memory stops it.
      offsets: `[K, P, 3]` its cells, relative to the centre, in the world as it then stood.
      features: `[K, P, C]` their tokens.
      cell_size: `[K, P]` world size of the cells.
      valid: bool `[K, P]`.
      facing: `[K, 3]` unit vector from it to the camera that these cells were seen from.
      worth: `[K]` cells of that view, less by age (`STALE`).
      size: `[K]` extent, scene units.
      sightings: int32 `[K]`.
      time: int32 `[K]` latent frame when last seen.
      confidence: `[K]` 0 (empty) to 1.
      refuted: int32 `[]` slots given up so far because their place was seen empty.
      clock: int32 `[]` latent frames written so far.
    """

    position: chex.Array  # [K, 3]
    velocity: chex.Array  # [K, 3]
    room: chex.Array  # [K]
    offsets: chex.Array  # [K, P, 3]
    features: chex.Array  # [K, P, C]
    cell_size: chex.Array  # [K, P]
    valid: chex.Array  # [K, P]
    facing: chex.Array  # [K, 3]
    worth: chex.Array  # [K]
    size: chex.Array  # [K]
    sightings: chex.Array  # [K]
    time: chex.Array  # [K]
    confidence: chex.Array  # [K]
    refuted: chex.Array  # []
    clock: chex.Array  # []

    @property
    def held(self) -> jax.Array:
        """Bool `[K]`, the slots in use."""
        return self.confidence >= LEAST_CONFIDENCE


def create(slots: int, cells: int, channels: int, dtype: jax.typing.DTypeLike = jnp.float32) -> Entities:
    """No entities.

    Args:
      slots: K, the most things remembered at a time.
      cells: P, the most cells of one.
      channels: C, of a token.
      dtype: of the tokens.

    Raises:
      ValueError: if any of them is below 1.
    """
    if min(slots, cells, channels) < 1:
        raise ValueError(f"entities need a slot, a cell and a channel, got {slots}, {cells}, {channels}")
    vector, number = jnp.zeros((slots, 3)), jnp.zeros((slots,))
    return Entities(
        position=vector,
        velocity=vector,
        room=number,
        offsets=jnp.zeros((slots, cells, 3)),
        features=jnp.zeros((slots, cells, channels), dtype),
        cell_size=jnp.zeros((slots, cells)),
        valid=jnp.zeros((slots, cells), bool),
        facing=vector,
        worth=number,
        size=number,
        sightings=jnp.zeros((slots,), jnp.int32),
        time=jnp.zeros((slots,), jnp.int32),
        confidence=number,
        refuted=jnp.zeros((), jnp.int32),
        clock=jnp.zeros((), jnp.int32),
    )


def predicted(entities: Entities, time: chex.Numeric) -> jax.Array:
    """`[K, 3]` where the things are expected at a latent frame: straight on, slower and slower, up to the next wall."""
    since = jnp.asarray(time - entities.time, jnp.float32)[:, None]
    gone = PERSISTENCE * -jnp.expm1(-jnp.maximum(since, 0.0) / PERSISTENCE) * entities.velocity
    far = jnp.sqrt((gone**2).sum(-1, keepdims=True))
    return entities.position + gone * jnp.minimum(1.0, entities.room[:, None] / jnp.maximum(far, 1e-6))


def unit(vector: jax.Array) -> jax.Array:
    """`[..., 3]` of length one; zero stays zero."""
    return vector / jnp.maximum(jnp.sqrt((vector**2).sum(-1, keepdims=True)), 1e-9)

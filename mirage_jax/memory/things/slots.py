"""Slots for things that move: what is known of each, and where it is by now (see `entities`)."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
from flax import struct

LEAST_CONFIDENCE = 0.2
"""Below this a slot is empty."""


RECENT = 48
"""Sightings that the middle and the pace of a track are of, about."""

PERSISTENCE = 3.0
"""For how many latent frames a thing is believed to go on for each in which it was seen whole and to go straight on."""

STRAIGHT = 4
"""Power of the straightness by which that is less: a quarter of a circle (0.9) counts two thirds, a half a fifth."""

BELIEVED = 4.0, 16.0
"""Latent frames for which a thing is believed to go on at least, as it may be hidden for a moment, and at most: what
walks about turns in the end."""


@struct.dataclass
class Entities:
    """K slots for things that move.

    Attributes:
      position: `[K, 3]` world centre when last seen.
      velocity: `[K, 3]` scene units a latent frame.
      middle: `[K, 3]` mean of the places where it was seen, of the latest `RECENT` sightings about.
      pace: `[K]` mean of the ways from sighting to sighting, of as many, scene units.
      whole: int32 `[K]` sightings in which it was neither cut nor hidden in part: those that its velocity is from.
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
    middle: chex.Array  # [K, 3]
    pace: chex.Array  # [K]
    whole: chex.Array  # [K]
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
        middle=vector,
        pace=number,
        whole=jnp.zeros((slots,), jnp.int32),
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


def believed(entities: Entities) -> jax.Array:
    """`[K]` latent frames for which the things are believed to go straight on.

    The longer they were seen to do so, the longer; of what swings or wanders, or was hardly seen whole, little is
    believed.
    """
    seen = jnp.minimum(entities.sightings, RECENT).astype(jnp.float32)
    half = jnp.sqrt(((entities.position - entities.middle) ** 2).sum(-1))  # of a straight track
    straight = jnp.minimum(2.0 * half / jnp.maximum(entities.pace * seen, 1e-6), 1.0)
    whole = jnp.minimum(entities.whole, RECENT).astype(jnp.float32)
    return jnp.clip(PERSISTENCE * whole * straight**STRAIGHT, *BELIEVED)


def predicted(entities: Entities, time: chex.Numeric) -> jax.Array:
    """`[K, 3]` where the things are expected at a latent frame.

    Straight on for as long as that is believed, up to the next wall, where they stay. What meets none is expected back,
    in as many frames again, in the middle of where it was seen: that is nearer to what swings or walks about, wherever
    it is by then, than any place on its way straight on.
    """
    since = jnp.maximum(jnp.asarray(time - entities.time, jnp.float32), 0.0)
    long = believed(entities)
    speed = jnp.sqrt((entities.velocity**2).sum(-1))
    gone = jnp.minimum(since, jnp.minimum(long, entities.room / jnp.maximum(speed, 1e-6)))
    back = jnp.where(speed * long < entities.room, jnp.clip(since / long - 1.0, 0.0, 1.0), 0.0)[:, None]
    return (1.0 - back) * (entities.position + gone[:, None] * entities.velocity) + back * entities.middle


def unit(vector: jax.Array) -> jax.Array:
    """`[..., 3]` of length one; zero stays zero."""
    return vector / jnp.maximum(jnp.sqrt((vector**2).sum(-1, keepdims=True)), 1e-9)

"""One frame of things that move: what is seen goes to slots, and slots whose place is seen empty are given up."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from mirage_jax.geometry import Camera, project
from mirage_jax.memory.points import NEAR
from mirage_jax.memory.things import components
from mirage_jax.memory.things.components import Components
from mirage_jax.memory.things.slots import LEAST_CONFIDENCE, RECENT, Entities, predicted, unit

GATE = 1.5
"""Sizes from its predicted place within which a thing may be found again."""

DRIFT = 0.1
"""By how many sizes that grows in a frame in which it was not seen."""

LOOKS = 0.5
"""Weight of unlike tokens (their root mean square difference) beside distance (in gates) when things are matched."""

CONFIDENCE = 0.5, 0.25
"""Of a thing seen once, and what every further sighting adds, up to 1."""

REFUTED = 0.4
"""What is left of the confidence where a thing should be seen and its place is empty."""

UNSEEN = 0.99
"""What is left of it in a frame in which nobody looks."""

EDGE = 0.7
"""How far the edge of a thing is from its centre, in its sizes: that of a ball."""

STALE = 0.9
"""What a view of a thing is worth after a frame, in cells: a newer one that shows fewer takes its place in time."""

GAINS = 0.4, 0.03
"""Least gains of the filter on place and velocity; the first sightings weigh more, as in least squares. The velocity
that counts is that of many frames: of what swings or turns, little is left."""


def take_in(entities: Entities, features, depth, camera: Camera, moving) -> Entities:
    """The slots after one more frame.

    Args:
      entities: before it.
      features: `[h, w, C]` tokens.
      depth: `[h, w]` z-depth, scene units; inf the sky, 0 unknown.
      camera: of the frame.
      moving: bool `[h, w]`.
    """
    slots, cells = entities.valid.shape
    found = components.find(features, depth, moving, camera, slots, cells)
    centre = predicted(entities, entities.clock)
    known = _matched(entities, found, centre)  # [K] thing of each slot, or -1

    empty = (known < 0) & entities.held & _seen_empty(entities, centre, depth, camera)
    confidence = entities.confidence * jnp.where(empty, REFUTED, UNSEEN)
    gone = empty & (confidence < LEAST_CONFIDENCE)
    confidence = jnp.where(entities.held & ~gone, confidence, 0.0)
    entities = entities.replace(
        confidence=confidence, worth=entities.worth * STALE, refuted=entities.refuted + gone.sum(dtype=jnp.int32)
    )
    new = _given_slots(known, confidence, found)
    entities = _sighted(entities, jax.tree.map(lambda x: x[jnp.maximum(known, 0)], found), centre, camera, known >= 0)
    return _begun(entities, jax.tree.map(lambda x: x[jnp.maximum(new, 0)], found), camera, new >= 0)


def _matched(entities: Entities, found: Components, centre: jax.Array) -> jax.Array:
    """int32 `[K]` the thing that each slot is, -1 for none: greedily, the best pair first."""
    distance = jnp.sqrt(((centre[:, None] - found.centre[None]) ** 2).sum(-1))
    size = jnp.maximum(entities.size[:, None], found.size[None])
    since = jnp.asarray(entities.clock - entities.time, jnp.float32)[:, None]
    gate = size * (GATE + DRIFT * since)
    look = [_mean(x.features, x.valid) for x in (entities, found)]
    unlike = jnp.sqrt(((look[0][:, None] - look[1][None]) ** 2).mean(-1))
    possible = entities.held[:, None] & found.there[None] & (distance <= gate)
    cost = jnp.where(possible, distance / jnp.maximum(gate, 1e-6) + LOOKS * unlike, jnp.inf)
    slots = len(cost)

    def pair(_, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        cost, known = carry
        best = jnp.argmin(cost)
        slot, thing = best // slots, best % slots
        found_one = jnp.isfinite(cost[slot, thing])
        known = known.at[slot].set(jnp.where(found_one, thing, known[slot]).astype(jnp.int32))
        taken = found_one & ((jnp.arange(slots)[:, None] == slot) | (jnp.arange(slots)[None] == thing))
        return jnp.where(taken, jnp.inf, cost), known

    return lax.fori_loop(0, slots, pair, (cost, jnp.full(slots, -1, jnp.int32)))[1]


def _given_slots(known: jax.Array, confidence: jax.Array, found: Components) -> jax.Array:
    """int32 `[K]` the new thing that each slot takes, -1 for none: the largest gets the least confident slot."""
    slots = len(known)
    mine = (known[:, None] == jnp.arange(slots)[None]).any(0)

    def give(thing: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        free, new = carry
        slot = jnp.argmin(free)
        gets = found.there[thing] & ~mine[thing] & jnp.isfinite(free[slot])
        new = new.at[slot].set(jnp.where(gets, thing, new[slot]).astype(jnp.int32))
        return free.at[slot].set(jnp.where(gets, jnp.inf, free[slot])), new

    free = jnp.where(known >= 0, jnp.inf, confidence)
    return lax.fori_loop(0, slots, give, (free, jnp.full(slots, -1, jnp.int32)))[1]


def _seen_empty(entities: Entities, centre: jax.Array, depth: jax.Array, camera: Camera) -> jax.Array:
    """Bool `[K]`: nearly all of the predicted cells are in view, and most are seen through.

    At the border of the picture nothing is said: a thing that has just left it may be expected there by a little.
    """
    uv, z = project(camera, centre[:, None] + entities.offsets)
    cell = jnp.floor(uv)
    inside = entities.valid & (z > NEAR) & (cell >= 0).all(-1)
    inside &= (cell < jnp.array([camera.width, camera.height])).all(-1)
    column, row = (jnp.where(inside, cell[..., i], 0).astype(jnp.int32) for i in (0, 1))
    behind = z * jnp.exp(components.SAME_THING) + entities.size[:, None] / 2
    through = inside & (depth[row, column] > behind)
    cells, seen = entities.valid.sum(1), inside.sum(1)
    return (10 * seen >= 9 * cells) & (5 * through.sum(1) >= 3 * seen) & (seen > 0)


def _sighted(entities: Entities, mine: Components, centre: jax.Array, camera: Camera, there: jax.Array) -> Entities:
    """Slots that were found again, in part or whole; `mine` `[K, ..]` is what each saw of its own."""
    count = entities.sightings + 1
    number = jnp.asarray(count, jnp.float32)
    since = jnp.maximum(jnp.asarray(entities.clock - entities.time, jnp.float32), 1.0)
    # The g-h filter whose gains are those of least squares over all sightings, until they reach their least values.
    place = jnp.maximum(2.0 * (2.0 * number - 1.0) / (number * (number + 1.0)), GAINS[0])
    pace = jnp.maximum(6.0 / (number * (number + 1.0)), GAINS[1])
    off = mine.centre - centre
    far = jnp.sqrt((off**2).sum(-1))
    # The centre of what is seen of a thing that is cut or hidden in part may be as far from its own as its edge.
    whole = ~mine.partial | (entities.worth < mine.cells)
    beyond = jnp.maximum(0.0, 1.0 - EDGE * entities.size / jnp.maximum(far, 1e-6))
    off = off * jnp.where(whole, 1.0, beyond)[:, None]
    better = (~mine.partial | (entities.sightings < 2)) & (mine.cells >= entities.worth)
    position = centre + place[:, None] * off
    step = jnp.sqrt(((position - entities.position) ** 2).sum(-1))
    recent = jnp.maximum(1.0 / number, 1.0 / RECENT)
    seen = entities.replace(
        position=position,
        velocity=entities.velocity + jnp.where(whole, pace / since, 0.0)[:, None] * off,
        middle=entities.middle + recent[:, None] * (position - entities.middle),
        pace=entities.pace + recent * (step - entities.pace),
        whole=entities.whole + whole,
        room=jnp.full(count.shape, jnp.inf),
        sightings=count,
        time=jnp.broadcast_to(entities.clock, count.shape),
        confidence=jnp.minimum(entities.confidence + CONFIDENCE[1], 1.0),
    )
    looked = _as_seen(seen, mine, camera)
    return _where(there, _where(better, looked, seen), entities)


def _begun(entities: Entities, mine: Components, camera: Camera, there: jax.Array) -> Entities:
    """Slots that take a new thing."""
    slots = len(there)
    new = _as_seen(entities, mine, camera).replace(
        position=mine.centre,
        velocity=jnp.zeros((slots, 3)),
        middle=mine.centre,
        pace=jnp.zeros(slots),
        whole=jnp.asarray(~mine.partial, jnp.int32),
        room=jnp.full(slots, jnp.inf),
        sightings=jnp.ones(slots, jnp.int32),
        time=jnp.broadcast_to(entities.clock, (slots,)),
        confidence=jnp.full(slots, CONFIDENCE[0]),
    )
    return _where(there, new, entities)


def _where(slots: jax.Array, there: Entities, elsewhere: Entities) -> Entities:
    """The first in some slots, bool `[K]`, the second in the others; what is no slot's own is of the second."""

    def choose(x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.where(slots.reshape(-1, *(1,) * (x.ndim - 1)), x, y) if x.ndim else y

    return jax.tree.map(choose, there, elsewhere)


def _as_seen(entities: Entities, mine: Components, camera: Camera) -> Entities:
    """The slots with the cells of this frame."""
    to_camera = camera.cam2world[:3, 3] - mine.centre
    return entities.replace(
        offsets=mine.offsets,
        features=mine.features.astype(entities.features.dtype),
        cell_size=mine.cell_size,
        valid=mine.valid,
        facing=unit(to_camera),
        worth=jnp.asarray(mine.cells, jnp.float32),
        size=mine.size,
    )


def _mean(features: jax.Array, valid: jax.Array) -> jax.Array:
    """`[K, C]` mean token of the cells that there are."""
    total = jnp.where(valid[..., None], features.astype(jnp.float32), 0.0).sum(1)
    return total / jnp.maximum(valid.sum(1), 1)[:, None]

"""What moves, remembered as things: where each is, where it is going, how it looked.

A place is remembered by points (`points`), a thing by a slot (`slots`): its cells around a centre that goes on moving
while nobody looks. `write` takes the cells of new frames that move, groups them (`components`), and gives them to the
slots whose predicted places they are nearest to (`tracking`); `read` puts every slot where it should be at each frame
and lets the static memory hide it. A thing that should be seen and is not loses its confidence and its slot in a frame
or two.

Time is counted in latent frames of the video.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
from jax import lax

from mirage_jax.geometry import Camera, project
from mirage_jax.geometry.se3 import so3_exp
from mirage_jax.memory import groups, points, splat
from mirage_jax.memory.points import NEAR, PointMemory, Readout
from mirage_jax.memory.things.slots import Entities, create, predicted, unit
from mirage_jax.memory.things.tracking import STALE, UNSEEN, take_in

__all__ = ["Entities", "cells_now", "create", "predicted", "read", "summary", "write"]

LOOK_AHEAD = 8
"""Cells of a side of the small view along its velocity in which a thing looks for what will stop it."""


FOOTPRINT = 3
"""Cells of a side that a cell of a thing may cover at least: it is seen again from other distances and has no holes."""


MAGNIFIED = 2.0
"""Cells of a side as which a cell of a thing is shown at most: from nearer, too little is known of how it looks."""


def summary(entities: Entities | None) -> dict[str, jax.Array]:
    """How many there are, how many of these were seen more than once, how many were given up, mean frames unseen."""
    if entities is None:
        return {name: jnp.zeros((), jnp.int32) for name in ("entities", "confirmed", "refuted")} | {
            "unseen": jnp.zeros(())
        }
    held, count = entities.held, entities.held.sum(dtype=jnp.int32)
    age = jnp.where(held, entities.clock - 1 - entities.time, 0).sum() / jnp.maximum(count, 1)
    confirmed = (held & (entities.sightings > 1)).sum(dtype=jnp.int32)
    return {"entities": count, "confirmed": confirmed, "refuted": entities.refuted, "unseen": age}


def cells_now(entities: Entities, time: chex.Numeric) -> jax.Array:
    """`[K, P, 3]` where the cells of the things are at a latent frame, as they were seen; NaN where there are none."""
    there = entities.valid & entities.held[:, None]
    return jnp.where(there[..., None], predicted(entities, time)[:, None] + entities.offsets, jnp.nan)


def write(
    entities: Entities,
    memory: PointMemory,
    features: chex.Array,
    depth: chex.Array,
    cameras: Camera,
    moving: chex.Array,
    valid: chex.Array | None = None,
) -> Entities:
    """Takes in T frames, one after the other, and forgets what they show to be gone.

    Args:
      entities: what is known so far.
      memory: the static points, which stop what moves.
      features: `[T, h, w, C]` tokens.
      depth: `[T, h, w]` z-depth, scene units; inf the sky, 0 unknown.
      cameras: `Camera[T]` on the `h x w` grid.
      moving: bool `[T, h, w]`.
      valid: bool `[T]`, frames that are looked at; time goes on in the others. None is all.
    """
    chex.assert_equal_shape([depth, moving])
    features, depth, cameras = lax.stop_gradient((jnp.asarray(features), jnp.asarray(depth), cameras))
    valid = jnp.ones(len(depth), bool) if valid is None else valid

    def step(entities: Entities, frame: tuple) -> tuple[Entities, None]:
        tokens, z, camera, moves, looked = frame
        after = take_in(entities, tokens, z, camera, moves)
        unseen = entities.replace(confidence=entities.confidence * UNSEEN, worth=entities.worth * STALE)
        after = jax.tree.map(lambda x, y: jnp.where(looked, x, y), after, unseen)
        return after.replace(clock=entities.clock + 1), None

    entities, _ = lax.scan(step, entities, (features, depth, cameras, moving, valid))
    room = lax.cond(entities.held.any(), _room, lambda entities, _: entities.room, entities, memory)
    return entities.replace(room=room)


def read(
    entities: Entities, static: Readout, cameras: Camera, time: chex.Array, *, max_footprint: int = FOOTPRINT
) -> Readout:
    """What cameras see of the things, in front of what the static memory shows and behind it.

    A cell that shows a thing is `moving`, has an `age` and is `turned`; its `index` is -1, as no point is shown there.

    Args:
      entities: what is known.
      static: readout `[T, h, w, ..]` of the static memory at the same cameras.
      cameras: `Camera[T]` on the grid of the readout.
      time: int32 `[T]`, the latent frame of each.
      max_footprint: as in `points.read`.
    """
    cameras = lax.stop_gradient(cameras)
    slots, cells = entities.valid.shape
    size = entities.valid.size

    def one(frame: tuple[Camera, jax.Array]) -> tuple[jax.Array, ...]:
        camera, now = frame
        centre = predicted(entities, now)
        turn, turned = _billboard(entities.facing, camera.cam2world[:3, 3] - centre, camera.cam2world[:3, 1])
        offsets = (turn[:, None] * entities.offsets[:, :, None, :]).sum(-1)
        world = (centre[:, None] + offsets).reshape(size, 3)
        sizes = entities.cell_size.reshape(size)
        largest = jnp.maximum(*splat.extent(camera, sizes, project(camera, world)[1]))
        there = (entities.valid & entities.held[:, None]).reshape(size) & (largest <= MAGNIFIED)
        x, y, z = (jnp.where(there, world[:, i], jnp.nan) for i in range(3))
        # NaN is in no view, so empty cells need no compaction.
        group = jnp.pad(there, (0, -size % groups.GROUP))
        padded = (jnp.pad(v, (0, -size % groups.GROUP)) for v in (x, y, z, jnp.ones(size)))
        cloud = splat.Splats(x=x, y=y, z=z, w=jnp.ones(size), cell_size=sizes, bounds=groups.bounds(*padded, group))
        index = splat.footprint(camera, cloud, jnp.asarray(size), max_footprint=max_footprint, near=NEAR)
        slot = jnp.maximum(index, 0)
        _, depth = project(camera, jnp.stack([x, y, z], axis=-1)[slot])
        scale = jnp.maximum(*splat.extent(camera, sizes[slot], depth))
        thing = slot // cells
        age = jnp.asarray(jnp.maximum(now - entities.time, 0), jnp.float32)[thing]  # a preceding frame may be older
        return index, depth, scale, age, turned[thing]

    index, depth, scale, age, turned = lax.map(one, (cameras, jnp.asarray(time)))
    front = (index >= 0) & (~static.visible | (depth < static.depth))
    tokens = entities.features.reshape(slots * cells, -1)[jnp.maximum(index, 0)]

    def over(new: jax.Array, old: jax.Array | None) -> jax.Array | None:
        if old is None:
            return None
        wide = lambda x: x.reshape(*x.shape, *(1,) * (old.ndim - x.ndim))  # noqa: E731
        return jnp.where(wide(front), wide(new).astype(old.dtype), old)

    return static.replace(
        features=over(tokens, static.features),
        visible=static.visible | front,
        depth=over(depth, static.depth),
        scale=over(scale, static.scale),
        index=over(jnp.full(front.shape, -1), static.index),
        moving=front,
        age=jnp.where(front, age, 0.0),
        turned=jnp.where(front, turned, 0.0),
    )


def _room(entities: Entities, memory: PointMemory) -> jax.Array:
    """`[K]` how far each can go along its velocity: what the memory shows a small camera that looks that way."""
    slots, side = len(entities.size), LOOK_AHEAD
    forward = jnp.where((entities.velocity**2).sum(-1, keepdims=True) > 0, unit(entities.velocity), jnp.eye(3)[2])
    across = unit(jnp.cross(jnp.eye(3)[jnp.argmin(jnp.abs(forward), axis=-1)], forward))
    axes = jnp.stack([across, jnp.cross(forward, across), forward, entities.position], axis=-1)
    pose = jnp.concatenate([axes, jnp.broadcast_to(jnp.array([0.0, 0.0, 0.0, 1.0]), (slots, 1, 4))], axis=1)
    lens = jnp.array([[2.0 * side, 0, side / 2], [0, 2.0 * side, side / 2], [0, 0, 1]])  # 28 degrees
    ahead = Camera(jnp.broadcast_to(lens, (slots, 3, 3)), pose, side, side)
    seen = points.read(memory, ahead)
    axis = (jnp.arange(side) + 0.5) / side - 0.5
    aside = jnp.maximum(jnp.abs(axis)[:, None], jnp.abs(axis)[None]) / 2.0 * seen.depth
    reach = entities.size[:, None, None] / 4.0
    central = (jnp.abs(axis)[:, None] < 1.0 / side) & (jnp.abs(axis)[None] < 1.0 / side)
    stops = seen.visible & jnp.isfinite(seen.depth) & (central | (aside <= reach))
    wall = jnp.where(stops, seen.depth, jnp.inf).min((1, 2))
    return jnp.maximum(wall - entities.size / 2.0, 0.0)


def _billboard(facing: jax.Array, to_camera: jax.Array, down: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Rotations `[K, 3, 3]` about the camera's vertical that keep things turned to it, and `[K]` how far that is, 0..1.

    Only one side of a thing was seen; it is shown as a picture of that side that turns with the viewer.
    """
    flat = lambda v: v - (v * down).sum(-1, keepdims=True) * down  # noqa: E731
    before, now = flat(facing), flat(to_camera)
    sine = (jnp.cross(before, now) * down).sum(-1)
    cosine = (before * now).sum(-1)
    angle = jnp.where((sine == 0) & (cosine == 0), 0.0, jnp.arctan2(sine, jnp.where(cosine == 0, 1e-12, cosine)))
    return jax.vmap(so3_exp)(angle[:, None] * down), (1.0 - (facing * unit(to_camera)).sum(-1)) / 2.0

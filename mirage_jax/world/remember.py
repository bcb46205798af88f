"""What a segment leaves in the memory: depth brought to the memory's scale, what is static and valid written.

Where no head tells what moves, new frames are held against the memory. Something stands in front of what the memory
shows there and looks different: it is not written (`intruding`). Something the memory holds is seen through, with all
that is around its place clearly behind it: it has gone, and is retired (`seen_through`). What becomes of what the
memory shows already is said by `memory.merge`.
"""

from __future__ import annotations

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import struct

from mirage_jax.geometry import Camera
from mirage_jax.memory import kinds, merge, points
from mirage_jax.memory.comparison import DEPTH_TOLERANCE, met
from mirage_jax.memory.kinds import Observation, Views
from mirage_jax.memory.points import PointMemory, Readout
from mirage_jax.world import align
from mirage_jax.world.align import Alignment
from mirage_jax.world.config import WorldConfig
from mirage_jax.world.frame_geometry import FrameGeometry

FEATURE_TOLERANCE = 0.5
"""Root mean square difference of tokens above which they look different; tokens have unit variance, so two unrelated
ones differ by 1.4."""


@struct.dataclass
class Remembered:
    """What became of `n` new latent frames, which were written in `G` groups.

    Attributes:
      scene: `[n, h, w]` their geometry in the memory's scale, `keep` without what the dynamic filter left out.
      alignment: how each group was brought to that scale, `[G]`; of its depth, `[G, n / G, h, w]`.
      trusted: bool `[n]`, of `align.to_memory`.
      moving: bool `[n, h, w]`, what the dynamic filter left out.
      written: int32 `[]`, points that entered.
      retired: int32 `[]`, points held before that went, but for lack of room.
    """

    scene: FrameGeometry
    alignment: Alignment
    trusted: chex.Array  # [n]
    moving: chex.Array  # [n, h, w]
    written: chex.Array  # []
    retired: chex.Array  # []


def remember(
    config: WorldConfig, params: Any, memory: PointMemory, observed: Observation, cameras: Camera, readout: Readout
) -> tuple[PointMemory, Remembered]:
    """Aligns and writes new frames, `WorldConfig.frames_at_once` at a time, each group by what was written before.

    So a long segment leaves the same memory as the short ones that it could have been.

    Args:
      config, params: as in `segment`.
      memory: before the segment.
      observed: the new latent frames, in the scale that they were guessed in.
      cameras: `Camera[F]` of the new frames, at pixel resolution.
      readout: what the memory shows, `[1 + n + P, h, w, ..]`, of `recall.read`.
    """
    together, stride = config.frames_at_once, config.model.vae.stride_time
    shown = jax.tree.map(lambda x: x[: 1 + together], readout)
    head = jax.tree.map(lambda x: x[:together], observed)
    memory, first = _write(config, memory, head, shown)
    encode = functools.partial(config.codec.encode, params["vae"])

    def write_group(
        carry: tuple[PointMemory, Camera], group: tuple[Observation, Camera]
    ) -> tuple[tuple[PointMemory, Camera], Remembered]:
        memory, before = carry
        observed, cameras = group
        views = Views(context=before, frame_cameras=cameras, stride=stride)
        shown = kinds.of(config.memory).recall(memory, views, config.recipe.footprint, encode)
        memory, left = _write(config, memory, observed, shown)
        return (memory, observed.latent_cameras[-1:]), left

    groups = jax.tree.map(lambda x: x[None], first)
    if count := len(observed.latents) // together - 1:
        tail = jax.tree.map(lambda x: x[together:], observed), cameras[together * stride :]
        tail = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), tail)
        (memory, _), rest = jax.lax.scan(write_group, (memory, head.latent_cameras[-1:]), tail)
        groups = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), groups, rest)
    frames = lambda x: x.reshape(-1, *x.shape[2:])  # noqa: E731
    return memory, Remembered(
        scene=jax.tree.map(frames, groups.scene),
        alignment=groups.alignment,
        trusted=frames(groups.trusted),
        moving=frames(groups.moving),
        written=groups.written.sum(),
        retired=groups.retired.sum(),
    )


def _write(
    config: WorldConfig, memory: PointMemory, observed: Observation, readout: Readout
) -> tuple[PointMemory, Remembered]:
    """Aligns and writes frames side by side, given what the memory shows at the one before them, and at them."""
    before = memory
    if readout.index is not None:
        memory = points.mark_seen(memory, readout.index)
    shown = jax.tree.map(lambda x: x[1:], readout)

    # Bring depth to the scale of what the memory shows.
    estimated = FrameGeometry(depth=observed.depth, keep=observed.keep, sky=observed.sky)
    scene, alignment, trusted = align.to_memory(config, estimated, shown)
    observed = observed.replace(depth=scene.depth, keep=scene.keep, sky=scene.sky)

    # Leave out what moves, where no head tells it.
    moving, gone = jnp.zeros_like(observed.keep), None
    if config.filters_moving:
        moving = observed.keep & intruding(observed.latents, observed.depth, shown)
        sound = jnp.where(trusted[:, None, None], observed.depth, 0.0)
        gone = seen_through(memory, sound, observed.latent_cameras)
        observed = observed.replace(keep=observed.keep & ~moving)

    # Merge with what is known, and write (paper eq. 4, 6, 8).
    cells = observed.latents, observed.depth, observed.sky, observed.latent_cameras
    memory, replaced, enters = merge.apply(config.recipe.merge, memory, *cells, shown, observed.keep | observed.sky)
    observed = observed.replace(keep=observed.keep & enters, sky=observed.sky & enters)
    if replaced is not None:
        gone = replaced if gone is None else gone | replaced
    if gone is not None:
        memory = points.retire(memory, gone)
    remaining = memory.size
    memory = kinds.of(config.memory).remember(memory, observed)
    return memory, Remembered(
        scene=scene.replace(keep=scene.keep & ~moving),
        alignment=alignment,
        trusted=trusted,
        moving=moving,
        written=memory.size - remaining + memory.overflow - before.overflow,
        retired=before.size - remaining,
    )


def intruding(features: chex.Array, depth: chex.Array, readout: Readout) -> jax.Array:
    """New cells in front of what the memory shows there, by depth and by look; both must disagree.

    Depth alone may be a bad guess, features alone light or a blurred token. In a scene at rest under one cell in a
    hundred is left out: where something near comes into a cell, or the memory has a hole, what is behind is shown.

    Args:
      features: `[T, h, w, C]` new tokens.
      depth: `[T, h, w]` aligned depth; inf the sky, 0 unknown.
      readout: of the same cameras, before anything new is written.

    Returns:
      bool `[T, h, w]`, False where the memory shows nothing.
    """
    known = readout.visible & (depth > 0) & jnp.isfinite(depth)
    near = jnp.log(jnp.where(known, depth, 1.0)) + DEPTH_TOLERANCE < jnp.log(jnp.where(known, readout.depth, 1.0))
    difference = features.astype(jnp.float32) - readout.features.astype(jnp.float32)
    return known & near & (jnp.sqrt(jnp.mean(difference**2, axis=-1)) > FEATURE_TOLERANCE)


def seen_through(memory: PointMemory, depth: chex.Array, cameras: Camera) -> jax.Array:
    """Points of the memory that new depth shows to be gone.

    A point is seen through in a frame where the depth at the cell it projects to and at all eight around it is clearly
    behind it (`DEPTH_TOLERANCE`, `SIZES`); cells off the grid or of unknown depth are not. It has gone if it is seen
    through in a frame, and found at its depth in none. Directions (sky) are never seen through.

    Args:
      memory: what is held.
      depth: `[T, h, w]` aligned depth; inf the sky, 0 unknown.
      cameras: `Camera[T]` on the `h x w` grid.

    Returns:
      bool `[N]`, False for empty slots.
    """
    through, found = met(memory, depth, cameras)
    return through & ~found & (memory.w != 0)

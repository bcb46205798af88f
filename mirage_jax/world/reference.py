"""The reference bank: earlier latent frames, and the choice of those that see what a segment will see.

A candidate's score is the share of target cells at which one of its own cells lands and is not hidden there by what the
memory shows: the overlap of the paper, with occlusion, on the device, in memory that does not grow.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
from flax import struct

from mirage_jax import geometry
from mirage_jax.geometry import Camera
from mirage_jax.memory import groups

MIN_OVERLAP = 0.04
"""Least share of target cells a reference must see (the paper's IoU threshold)."""

OCCLUSION_TOLERANCE = 1.2
"""A cell counts as hidden where it lies this factor behind what the memory shows."""


@struct.dataclass
class Bank:
    """Earlier latent frames, a ring of static size `B`.

    Attributes:
      latents: `[B, h, w, C]`.
      depth: `[B, h, w]` metres, inf at the sky, 0 where unknown.
      cameras: `Camera[B]` on the latent grid.
      bounds: `[2, 3, B]` least and greatest coordinates of their cells; inf and -inf where none has a depth.
      count: int32 `[]`, frames ever stored; slot `i` is filled once `count > i`.
    """

    latents: chex.Array
    depth: chex.Array
    cameras: Camera
    bounds: chex.Array
    count: chex.Array


def create(size: int, latents: chex.Array, camera: Camera) -> Bank:
    """An empty bank of `size` frames shaped like `latents [h, w, C]`, with `camera` (one) as filler."""
    height, width, _ = latents.shape
    filler = jax.tree.map(lambda x: jnp.broadcast_to(x, (size, *jnp.shape(x))).astype(jnp.float32), camera)
    return Bank(
        latents=jnp.zeros((size, *latents.shape)),
        depth=jnp.zeros((size, height, width)),
        cameras=filler,
        bounds=jnp.stack([jnp.full((3, size), far, jnp.float32) for far in (jnp.inf, -jnp.inf)]),
        count=jnp.zeros((), jnp.int32),
    )


def store(bank: Bank, latents: chex.Array, depth: chex.Array, cameras: Camera) -> Bank:
    """Adds `[T, h, w, C]` frames, over the oldest where the ring is full."""
    slots = (bank.count + jnp.arange(len(latents))) % len(bank.latents)
    return Bank(
        latents=bank.latents.at[slots].set(latents),
        depth=bank.depth.at[slots].set(depth),
        cameras=jax.tree.map(lambda ring, new: ring.at[slots].set(new), bank.cameras, cameras),
        bounds=bank.bounds.at[:, :, slots].set(bounds(depth, cameras)),
        count=bank.count + len(latents),
    )


def bounds(depth: chex.Array, cameras: Camera) -> jax.Array:
    """`[2, 3, T]` for `Bank.bounds` of frames with depth `[T, h, w]`."""
    points, known = _cells(depth, cameras)
    least, greatest = (jnp.where(known[..., None], points, far) for far in (jnp.inf, -jnp.inf))
    return jnp.stack([least.min((1, 2)).T, greatest.max((1, 2)).T])


def filled(bank: Bank) -> jax.Array:
    """Bool `[B]`: slots that hold a frame."""
    return jnp.arange(len(bank.latents)) < bank.count


def overlap(bank: Bank, targets: Camera, shown: chex.Array) -> jax.Array:
    """Share of target cells that each frame of the bank sees, `[B]` in 0..1.

    Frames that no plane of the targets' views lets in see nothing, and cost nothing.

    Args:
      bank: the candidates.
      targets: `Camera[T]` on the latent grid.
      shown: `[T, h, w]` depth the memory shows there (0 where nothing).
    """
    bank, targets, shown = jax.lax.stop_gradient((bank, targets, shown))
    height, width = targets.height, targets.width

    def seen(depth, camera):
        points, known = _cells(depth, camera)
        points = points.reshape(-1, 3)

        def in_target(target, shown):
            uv, z = geometry.project(target, points)
            cell = jnp.floor(uv).astype(jnp.int32)
            inside = (cell >= 0).all(-1) & (cell < jnp.array([width, height])).all(-1) & (z > 0) & known.reshape(-1)
            row, column = jnp.clip(cell[:, 1], 0, height - 1), jnp.clip(cell[:, 0], 0, width - 1)
            front = shown[row, column]
            hidden = (front > 0) & (z > OCCLUSION_TOLERANCE * front)
            return jnp.zeros((height, width)).at[row, column].max(jnp.where(inside & ~hidden, 1.0, 0.0)).mean()

        return jax.vmap(in_target)(targets, shown).mean()

    directions = jnp.stack([jnp.full_like(bank.bounds[0], far) for far in (jnp.inf, -jnp.inf)])  # there are none
    both = jnp.stack([bank.bounds, directions])
    some = jax.vmap(lambda target: groups.may_see(target, both, reach=0, near=0.0))(targets).any(0)
    (order,) = jnp.nonzero(some, size=len(some), fill_value=0)

    def score(i: jax.Array, scores: jax.Array) -> jax.Array:
        slot = order[i]
        return scores.at[slot].set(seen(bank.depth[slot], bank.cameras[slot]))

    return jax.lax.fori_loop(0, some.sum(), score, jnp.zeros(len(some)))


def _cells(depth: chex.Array, cameras: Camera) -> tuple[jax.Array, jax.Array]:
    """World points `[.., h, w, 3]` of frames, and where their depth is known `[.., h, w]`."""
    known = jnp.isfinite(depth) & (depth > 0)
    return geometry.lift(cameras, jnp.where(known, depth, 1.0)), known


def select(bank: Bank, targets: Camera, shown: chex.Array, excluded: chex.Array, count: int):
    """The `count` frames that see most of the targets.

    Args:
      bank, targets, shown: as in `overlap`.
      excluded: bool `[B]`, frames that are given to the generator in another way.
      count: static number of references, at most the bank's size.

    Returns:
      Latents `[count, h, w, C]`, and bool `[count]`: False where too few see enough. The `k` that do sit in the last
      slots, best first, so that their times are `-k..-1` however many slots there are.
    """
    score = jnp.where(filled(bank) & ~excluded, overlap(bank, targets, shown), -1.0)
    best, index = jax.lax.top_k(score, count)
    sees = best >= MIN_OVERLAP
    slots = jnp.arange(count) + jnp.sum(sees)  # a rotation by the number of empty ones
    return bank.latents[index[slots % count]], sees[slots % count]

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
      count: int32 `[]`, frames ever stored; slot `i` is filled once `count > i`.
    """

    latents: chex.Array
    depth: chex.Array
    cameras: Camera
    count: chex.Array


def create(size: int, latents: chex.Array, camera: Camera) -> Bank:
    """An empty bank of `size` frames shaped like `latents [h, w, C]`, with `camera` (one) as filler."""
    height, width, _ = latents.shape
    filler = jax.tree.map(lambda x: jnp.broadcast_to(x, (size, *jnp.shape(x))).astype(jnp.float32), camera)
    return Bank(
        latents=jnp.zeros((size, *latents.shape)),
        depth=jnp.zeros((size, height, width)),
        cameras=filler,
        count=jnp.zeros((), jnp.int32),
    )


def store(bank: Bank, latents: chex.Array, depth: chex.Array, cameras: Camera) -> Bank:
    """Adds `[T, h, w, C]` frames, over the oldest where the ring is full."""
    slots = (bank.count + jnp.arange(len(latents))) % len(bank.latents)
    return Bank(
        latents=bank.latents.at[slots].set(latents),
        depth=bank.depth.at[slots].set(depth),
        cameras=jax.tree.map(lambda ring, new: ring.at[slots].set(new), bank.cameras, cameras),
        count=bank.count + len(latents),
    )


def filled(bank: Bank) -> jax.Array:
    """Bool `[B]`: slots that hold a frame."""
    return jnp.arange(len(bank.latents)) < bank.count


def overlap(bank: Bank, targets: Camera, shown: chex.Array) -> jax.Array:
    """Share of target cells that each frame of the bank sees, `[B]` in 0..1.

    Args:
      bank: the candidates.
      targets: `Camera[T]` on the latent grid.
      shown: `[T, h, w]` depth the memory shows there (0 where nothing).
    """
    height, width = targets.height, targets.width

    def seen(depth, camera):
        known = jnp.isfinite(depth) & (depth > 0)
        points = geometry.lift(camera, jnp.where(known, depth, 1.0)).reshape(-1, 3)

        def in_target(target, shown):
            uv, z = geometry.project(target, points)
            cell = jnp.floor(uv).astype(jnp.int32)
            inside = (cell >= 0).all(-1) & (cell < jnp.array([width, height])).all(-1) & (z > 0) & known.reshape(-1)
            row, column = jnp.clip(cell[:, 1], 0, height - 1), jnp.clip(cell[:, 0], 0, width - 1)
            front = shown[row, column]
            hidden = (front > 0) & (z > OCCLUSION_TOLERANCE * front)
            return jnp.zeros((height, width)).at[row, column].max(jnp.where(inside & ~hidden, 1.0, 0.0)).mean()

        return jax.vmap(in_target)(targets, shown).mean()

    return jax.vmap(seen)(bank.depth, bank.cameras)


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

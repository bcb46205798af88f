"""The latent spatial memory of the paper: VAE tokens at 3D positions, read at latent resolution, no pixel touched.

`create`, `write` and `read` are its verbs for anyone; `remember` and `recall` are what a world calls (see `kinds`).
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from mirage_jax.geometry import concatenate
from mirage_jax.memory.kinds import Encode, Observation, Views
from mirage_jax.memory.points import PointMemory, Readout, create, grown, nbytes, read, retire
from mirage_jax.memory.writing import write

__all__ = ["create", "frame_points", "grown", "nbytes", "read", "recall", "remember", "retire", "shown", "write"]

CONDITIONS = True


def frame_points(grid: tuple[int, int], size: tuple[int, int]) -> int:
    """Points that one frame can add: a latent cell each."""
    del size
    return grid[0] * grid[1]


def shown(observed: Observation) -> chex.Array:
    """`[n, h, w, C]` of new frames, to compare with the features of a readout."""
    return observed.tokens


def remember(memory: PointMemory, observed: Observation) -> PointMemory:
    """Writes the tokens of new latent frames."""
    cells = observed.depth, observed.latent_cameras, observed.keep, observed.sky
    return write(memory, observed.tokens, *cells)


def recall(memory: PointMemory, views: Views, footprint: int, encode: Encode | None = None) -> Readout:
    """What is seen at the latent frames of target and preceding, `[1 + n + P, h, w, ..]`; nothing is encoded."""
    del encode
    new = views.frame_cameras.resized(views.context.height, views.context.width)
    overlap, preceding, time = views.context[-1:], views.context[:-1], views.stride
    if not views.between:
        return read(memory, concatenate(overlap, new[time - 1 :: time], preceding), max_footprint=footprint)
    count = len(new) // time
    every = read(memory, concatenate(overlap, new, preceding), max_footprint=footprint)
    at = jnp.array([0, *range(time, count * time + 1, time), *range(count * time + 1, len(every.visible))])

    def between(x: jax.Array) -> jax.Array:
        inside = x[1 : 1 + count * time].reshape(count, time, *x.shape[1:])[:, :-1]
        return jnp.pad(inside, [(1, len(preceding)), *[(0, 0)] * (inside.ndim - 1)])

    inside = Readout(features=between(every.features), visible=between(every.visible), depth=between(every.depth))
    return jax.tree.map(lambda x: x[at], every).replace(between=inside)

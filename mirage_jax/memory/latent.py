"""The latent spatial memory of the paper: VAE tokens at 3D positions, read at latent resolution, no pixel touched.

`create`, `write` and `read` are its verbs for anyone; `remember` and `recall` are what a world calls (see `kinds`).
"""

from __future__ import annotations

from mirage_jax.geometry import concatenate
from mirage_jax.memory.kinds import Encode, Observation, Views
from mirage_jax.memory.points import PointMemory, Readout, create, grown, nbytes, read, retire
from mirage_jax.memory.writing import write

__all__ = ["create", "frame_points", "grown", "nbytes", "read", "recall", "remember", "retire", "write"]

CONDITIONS = True


def frame_points(grid: tuple[int, int], size: tuple[int, int]) -> int:
    """Points that one frame can add: a latent cell each."""
    del size
    return grid[0] * grid[1]


def remember(memory: PointMemory, observed: Observation) -> PointMemory:
    """Writes the tokens of new latent frames."""
    cells = observed.depth, observed.latent_cameras, observed.keep, observed.sky
    return write(memory, observed.latents, *cells)


def recall(memory: PointMemory, views: Views, footprint: int, encode: Encode | None = None) -> Readout:
    """What is seen at the latent frames of target and preceding, `[1 + n + P, h, w, ..]`; nothing is encoded."""
    del encode
    new = views.frame_cameras.resized(views.context.height, views.context.width)
    overlap, preceding, time = views.context[-1:], views.context[:-1], views.stride
    return read(memory, concatenate(overlap, new[time - 1 :: time], preceding), max_footprint=footprint)

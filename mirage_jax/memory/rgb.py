"""A memory of coloured points, for comparison: written at pixel resolution, rendered and encoded to be read.

That detour over pixels and the VAE is what a latent memory does without. The verbs are the same, on frames
`[T, H, W, 3]` with cameras and depth at pixel resolution.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mirage_jax.geometry import Camera, concatenate
from mirage_jax.memory import points
from mirage_jax.memory.kinds import Encode, Observation, Views
from mirage_jax.memory.points import PointMemory, Readout, nbytes, read
from mirage_jax.memory.writing import write

__all__ = ["create", "frame_points", "nbytes", "read", "recall", "remember", "render", "upsampled", "write"]

CONDITIONS = True


def create(capacity: int, channels: int = 3, dtype: DTypeLike = jnp.float32) -> PointMemory:
    """An empty memory of coloured points; colours are three float32 numbers, whatever tokens would be."""
    del channels, dtype
    return points.create(capacity, 3)


def frame_points(grid: tuple[int, int], size: tuple[int, int]) -> int:
    """Points that one frame can add: a pixel each."""
    del grid
    return size[0] * size[1]


def remember(memory: PointMemory, observed: Observation) -> PointMemory:
    """Writes the pixels of new frames, at the depth of their cell where none is known for them."""
    cameras = observed.frame_cameras
    size = cameras.height, cameras.width
    depth = observed.depth if observed.pixel_depth is None else observed.pixel_depth
    depth, keep, sky = (upsampled(x, *size) for x in (depth, observed.keep, observed.sky))
    return write(memory, observed.frames, depth, cameras, keep, sky)


def recall(memory: PointMemory, views: Views, footprint: int, encode: Encode) -> Readout:
    """Renders the points into every new frame and encodes the video: what is seen at target and preceding frames.

    The video begins at the overlap and covers the target. Preceding frames, which are given clean anyway, get nothing.
    """
    overlap = views.context[-1:].resized(views.frame_cameras.height, views.frame_cameras.width)
    rendered = render(memory, concatenate(overlap, views.frame_cameras), footprint)
    readout = as_latents(rendered, encode(rendered.features), views.stride)
    count = len(views.context) - 1
    padded = jax.tree.map(lambda x: jnp.pad(x, [(0, count), *[(0, 0)] * (x.ndim - 1)]), readout)
    assert padded.index is not None
    return padded.replace(index=padded.index.at[len(padded.index) - count :].set(-1))


def render(memory: PointMemory, cameras: Camera, footprint: int) -> Readout:
    """The points as pictures `[T, H, W, ..]`."""
    return read(memory, cameras, max_footprint=footprint)


def as_latents(rendered: Readout, features: chex.Array, time: int) -> Readout:
    """A rendered video `[1 + r k, H, W, ..]` as a readout at its latent frames `[1 + k, h, w, ..]`.

    A cell is visible where most of its pixels are, at their nearest depth and at scale 1.

    Args:
      rendered: of `render`.
      features: `[1 + k, h, w, C]`, the rendered video encoded.
      time: video frames a latent frame, `r`.
    """
    _, height, width, _ = features.shape
    grid = (height, rendered.visible.shape[1] // height, width, rendered.visible.shape[2] // width)
    visible = rendered.visible[::time].reshape(-1, *grid)
    depth = jnp.where(rendered.visible, rendered.depth, jnp.inf)[::time].reshape(-1, *grid)
    seen = visible.mean((2, 4)) >= 0.5
    nearest = depth.min((2, 4))
    return Readout(
        features=jnp.where(seen[..., None], features, 0.0),
        visible=seen,
        depth=jnp.where(seen, nearest, 0.0),
        scale=seen.astype(jnp.float32),
        index=None if rendered.index is None else rendered.index[::time].reshape(-1, *grid).swapaxes(2, 3),
    )


def upsampled(cells: chex.Array, height: int, width: int) -> jax.Array:
    """`[T, h, w]` to `[T, H, W]`, each cell repeated; as it is where it has that size."""
    rows = jnp.repeat(cells, height // cells.shape[1], axis=1)
    return jnp.repeat(rows, width // cells.shape[2], axis=2)

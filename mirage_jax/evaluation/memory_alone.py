"""Protocol 8: a memory without a generator. True frames are written, and read at true later poses.

What is read is compared with the true latents there: how many cells are empty although their surface was in a frame
that was written, how far the shown tokens are off, and what they look like decoded. Whether a surface was seen is
decided on the true depth of the written frames, at pixel resolution, and by no memory.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mirage_jax import geometry, world
from mirage_jax.data.clip import PosedClip
from mirage_jax.evaluation import metrics
from mirage_jax.evaluation import truth as of_clip
from mirage_jax.evaluation.scores import Scores
from mirage_jax.geometry import Camera
from mirage_jax.memory import latent, rgb
from mirage_jax.memory.points import NEAR, PointMemory, Readout
from mirage_jax.models import vae
from mirage_jax.models.config import ModelConfig
from mirage_jax.training.posed import PosedLatents
from mirage_jax.world import conditioning
from mirage_jax.world import recipe as recipes

AGREEMENT = 0.05
"""Relative difference of depths up to which two views see the same surface."""

_FAR = 1e5  # metres at which the sky is put, to be looked up in other views


def score(model: ModelConfig, params: Any, clip: PosedClip) -> tuple[dict[str, Scores], dict[str, np.ndarray]]:
    """The latent and the RGB memory of one clip, read at the start of every segment for the frames of that segment.

    Args:
      model, params: of the VAE; its recipe says how the memories are read.
      clip: the truth, of `1 + k F` frames.

    Returns:
      method (`latent`, `rgb`) -> `visible` (share of cells that show something), `avoidable_holes` (share of the cells
      whose surface was written that show nothing), `feature_error` (mean squared difference to the true latents at
      visible cells, in units of the variance of the true latents),
      `decode_psnr` and `decode_lpips` of the decoded readout, `decode_psnr_visible` over the pixels of visible cells;
      and method -> the decoded frames `[T - 1, H, W, 3]`.
    """
    layout, time = model.segment, model.vae.stride_time
    coded = of_clip.coded_truth(model, params, clip)
    cameras = of_clip.camera_of(clip)
    spread = float(np.var(np.asarray(coded.latents)[1:]))
    decoder = vae.decode_stream(model.vae, params["vae"], coded.latents[:1])[1]
    values: dict[str, Scores] = {}
    shown: dict[str, np.ndarray] = {}
    known = _surfaces_seen(clip, coded, time, layout.latents)
    for method in ("latent", "rgb"):
        readouts = []
        for begin in range(1, len(coded.latents), layout.latents):
            if method == "latent":
                among = np.arange(len(coded.latents)) < begin
                capacity = world.full_capacity(model, "latent", (len(coded.latents) - 1) // layout.latents)
                memory = of_clip.memory_of(model, capacity, coded, among)
                readouts.append(read_latent(model, memory, coded.frame_cameras, (begin - 1) * time))
            else:
                overlap = (begin - 1) * time
                views = cameras[overlap : overlap + layout.latents * time + 1]
                memory = coloured(model, clip, cameras, begin)
                readouts.append(jax.tree.map(lambda x: x[1:], render(model, params, memory, views)))
        whole = jax.tree.map(lambda *x: jnp.concatenate(x), *readouts)
        features, visible = np.asarray(whole.features), np.asarray(whole.visible)
        truth = np.asarray(coded.latents)[1:]
        shown[method] = of_clip.shown(model, params, whole, decoder)
        values[method] = _scored(shown[method], features, visible, known, clip, truth, spread, time)
    return values, shown


def _scored(frames, features, visible, known, clip, truth, spread, time) -> Scores:
    curves = metrics.all_metrics(frames, clip.frames[1:])
    error = ((features - truth) ** 2).mean(-1)
    by_cell = metrics.masked_psnr(frames[time - 1 :: time], clip.frames[time::time], visible)
    found = {
        "visible": float(visible.mean()),
        "decode_psnr": float(curves["psnr"].mean()),
        "decode_lpips": float(curves["lpips"].mean()),
    }
    if known.any():
        found["avoidable_holes"] = float((known & ~visible).sum() / known.sum())
    if visible.any():
        found["feature_error"] = float(error[visible].mean() / spread)
        found["decode_psnr_visible"] = float(np.nanmean(by_cell))
    return Scores(found, {"psnr": curves["psnr"]})


def _surfaces_seen(clip: PosedClip, coded: PosedLatents, time: int, latents: int) -> np.ndarray:
    """bool `[t - 1, h, w]`: the static surface of a cell is in a latent frame before its segment, by true depth."""
    at = slice(None, None, time)
    cameras, depth = of_clip.camera_of(clip)[at], jnp.asarray(clip.depth[at])
    moving = jnp.asarray(clip.dynamic[at])
    rows = []
    for begin in range(1, len(coded.latents), latents):
        among = np.arange(len(coded.latents)) < begin
        for index in range(begin, begin + latents):
            one = jax.tree.map(lambda x, i=index: x[i], coded.cameras)
            rows.append(_seen(one, coded.depth[index], cameras, depth, moving, among))
    still = ~np.asarray(coded.dynamic[1:])
    return np.stack([np.asarray(row) for row in rows]) & still & (np.asarray(coded.depth[1:]) > 0)


@jax.jit
def _seen(camera: Camera, cells: jax.Array, cameras: Camera, depth: jax.Array, moving: jax.Array, among: jax.Array):
    """bool `[h, w]`: some view of the mask `among` `[t]` has the surface at depth `cells` `[h, w]`, unmoving."""
    sky = jnp.isinf(cells)
    points = geometry.lift(camera, jnp.where(sky, _FAR, cells))

    def in_view(view: Camera, map_: jax.Array, moves: jax.Array) -> jax.Array:
        uv, z = geometry.project(view, points)
        column, row = (jnp.floor(uv[..., i]).astype(jnp.int32) for i in range(2))
        inside = (z > NEAR) & (column >= 0) & (row >= 0) & (column < view.width) & (row < view.height)
        row, column = jnp.clip(row, 0, view.height - 1), jnp.clip(column, 0, view.width - 1)
        found = map_[row, column]
        same = jnp.where(sky, jnp.isinf(found), jnp.abs(found / jnp.where(z > 0, z, 1.0) - 1.0) < AGREEMENT)
        return inside & same & ~moves[row, column]

    return jnp.any(jax.vmap(in_view)(cameras, depth, moving) & among[:, None, None], axis=0)


@functools.partial(jax.jit, static_argnums=0)
def read_latent(model: ModelConfig, memory: PointMemory, cameras: Camera, overlap: jax.Array) -> Readout:
    """What a segment is shown of a latent memory, `[n, h, w, ..]`.

    Args:
      model: of its layout.
      memory: what is held.
      cameras: `Camera[T]` of a whole video, on the latent grid.
      overlap: int `[]`, the frame at which the segment begins.
    """
    count = model.segment_frames
    window = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, overlap, 1 + count), cameras)
    views = conditioning.views(model, window[:1], window[1:])
    readout = latent.recall(memory, views, recipes.of(model).footprint)
    return jax.tree.map(lambda x: x[1:], readout)


def coloured(model: ModelConfig, clip: PosedClip, cameras: Camera, count: int):
    """The RGB memory of the first `count` latent frames' pixels."""
    time = model.vae.stride_time
    at = slice(None, None, time)
    frames = clip.frames[at].astype(np.float32) / 127.5 - 1.0
    among = np.arange(len(frames)) < count
    return _write_colours(
        rgb_capacity(model, len(frames)), frames, clip.depth[at], cameras[at], clip.dynamic[at], among
    )


def rgb_capacity(model: ModelConfig, frames: int) -> int:
    """Points of an RGB memory that holds every pixel of so many frames."""
    return frames * model.height * model.width


@functools.partial(jax.jit, static_argnums=0)
def _write_colours(capacity: int, frames, depth, cameras: Camera, dynamic, among):
    still = ~dynamic & among[:, None, None]
    solid = still & jnp.isfinite(depth) & (depth > 0)
    return rgb.write(rgb.create(capacity), frames, depth, cameras, solid, still & jnp.isinf(depth))


@functools.partial(jax.jit, static_argnums=0)
def render(model: ModelConfig, params: Any, memory, cameras: Camera) -> Readout:
    """What an RGB memory shows the generator in frames `Camera[1 + F]`, rendered and encoded."""
    rendered = rgb.render(memory, cameras, recipes.of(model).footprint)
    return rgb.as_latents(rendered, vae.encode(model.vae, params["vae"], rendered.features), model.vae.stride_time)

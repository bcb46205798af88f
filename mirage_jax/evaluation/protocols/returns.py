"""Which parts of a video show again what was out of sight, and scores over just those."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mirage_jax.data.clip import PosedClip
from mirage_jax.evaluation import metrics
from mirage_jax.evaluation.methods import camera_of
from mirage_jax.geometry import Camera
from mirage_jax.memory import latent, resample
from mirage_jax.models.config import ModelConfig

DEPTH_AGREEMENT = 0.1
"""Log-ratio of depths up to which a remembered point is the surface that a camera sees."""


def returned(clip: PosedClip, model: ModelConfig, *, since: int) -> np.ndarray:
    """Which latent cells of which frames show again what was out of sight for at least one segment.

    A cell of a segment that begins at frame `b` counts if its true surface was seen in a frame that was given, before
    `b - F`, and in none of the frames `b - F .. b - 1`: the generator cannot have it from its latest frames, and what
    it should look like is settled (a place that the generator itself made up has no truth).

    Args:
      clip: the truth.
      model: for the grid and the segment's length `F`.
      since: first frame that is generated, so the number of those given; whole segments follow.

    Returns:
      bool `[T - since, h, w]`.
    """
    stride, count = model.vae.stride_space, model.segment_frames
    grid = clip.frames.shape[1] // stride, clip.frames.shape[2] // stride
    cameras = camera_of(clip).resized(*grid)
    depth = resample.depth_to_grid(jnp.asarray(clip.depth), *grid)
    still = ~resample.mask_to_grid(jnp.asarray(clip.dynamic), *grid, least=0.25)
    frames = np.arange(len(clip))
    parts = []
    for begin in range(since, len(clip), count):
        old = frames < min(begin - count, since)
        recent = (frames >= begin - count) & (frames < begin)
        at = frames[begin : begin + count]
        parts.append(_seen_again(cameras, depth, still, old, at) & ~_seen_again(cameras, depth, still, recent, at))
    return np.concatenate(parts)


@jax.jit
def _seen_again(cameras: Camera, depth: jax.Array, still: jax.Array, among: jax.Array, at: jax.Array) -> jax.Array:
    """Which cells `[F, h, w]` of frames `at` show a surface that some frame of the mask `among` `[T]` saw."""
    enters = still & among[:, None, None]
    memory = latent.create(depth.size, 1)
    memory = latent.write(memory, jnp.zeros((*depth.shape, 1)), depth, cameras, enters, jnp.isinf(depth) & enters)
    shown, truth = latent.read(memory, cameras[at], max_footprint=3), depth[at]
    both = jnp.isfinite(shown.depth) & (shown.depth > 0) & jnp.isfinite(truth) & (truth > 0)
    ratio = jnp.log(jnp.where(both, shown.depth, 1.0)) - jnp.log(jnp.where(both, truth, 1.0))
    same = jnp.where(jnp.isinf(shown.depth), jnp.isinf(truth), both & (jnp.abs(ratio) < DEPTH_AGREEMENT))
    return shown.visible & same & still[at]


def score(clip: PosedClip, made: dict[str, np.ndarray], cells: np.ndarray, least: float = 0.5) -> dict[str, Any]:
    """Metrics of each method against the truth, all frames and the frames that come back.

    Args:
      clip: the truth.
      made: of `generate`.
      cells: of `returned`, for the generated frames.
      least: share of returned cells that makes a frame one that comes back.

    Returns:
      method -> `psnr`, `ssim`, `lpips` (mean over frames), the same with `_revisit` over the frames that come back
      (None where there are none), `psnr_returned_cells`, and the curve `psnr_by_frame`.
    """
    truth = clip.frames[len(clip) - len(cells) :]
    back = cells.mean((1, 2)) >= least
    scores = {}
    for method, frames in made.items():
        curves = metrics.all_metrics(frames, truth)
        row: dict[str, Any] = {name: float(np.mean(curve)) for name, curve in curves.items()}
        row |= {f"{name}_revisit": float(np.mean(c[back])) if back.any() else None for name, c in curves.items()}
        per_cell = metrics.masked_psnr(frames, truth, cells)
        row["psnr_returned_cells"] = float(np.nanmean(per_cell)) if np.isfinite(per_cell).any() else None
        row["psnr_by_frame"] = [round(float(v), 3) for v in curves["psnr"]]
        scores[method] = row
    return scores

"""Which parts of a video show again what was out of sight, or for the first time, and scores over just those."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from mirage_jax.data.clip import PosedClip
from mirage_jax.evaluation import metrics
from mirage_jax.evaluation.truth import camera_of
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
    count = model.segment_frames
    seen, frames = _seen(clip, model), np.arange(len(clip))
    parts = []
    for begin in range(since, len(clip), count):
        old = frames < min(begin - count, since)
        recent = (frames >= begin - count) & (frames < begin)
        at = frames[begin : begin + count]
        parts.append(seen(old, at) & ~seen(recent, at))
    return np.concatenate(parts)


def first_seen(clip: PosedClip, model: ModelConfig, *, since: int) -> np.ndarray:
    """Which latent cells of which frames show what no frame before their segment saw: the generator makes it up.

    Args, returns: as of `returned`.
    """
    count = model.segment_frames
    seen, frames = _seen(clip, model), np.arange(len(clip))
    parts = []
    for begin in range(since, len(clip), count):
        at = frames[begin : begin + count]
        parts.append(seen(frames >= 0, at) & ~seen(frames < begin, at))  # what moves is not its own surface
    return np.concatenate(parts)


def _seen(clip: PosedClip, model: ModelConfig) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """`_seen_again` of a clip at the model's grid."""
    stride = model.vae.stride_space
    grid = clip.frames.shape[1] // stride, clip.frames.shape[2] // stride
    cameras = camera_of(clip).resized(*grid)
    depth = resample.depth_to_grid(jnp.asarray(clip.depth), *grid)
    still = ~resample.mask_to_grid(jnp.asarray(clip.dynamic), *grid, least=0.25)
    return lambda among, at: np.asarray(_seen_again(cameras, depth, still, among, at))


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


def score(
    clip: PosedClip,
    made: Mapping[str, np.ndarray],
    cells: np.ndarray,
    new: np.ndarray,
    *,
    least: float = 0.5,
    judge: Mapping[str, chex.Array] | None = None,
) -> dict[str, Any]:
    """Metrics of each method against the truth: all frames, those that come back, and those that show new ground.

    Args:
      clip: the truth.
      made: of `generate`.
      cells: of `returned`, for the generated frames.
      new: of `first_seen`.
      least: share of such cells that makes a frame one that comes back, or one of new ground.
      judge: weights of VGG16 for `metrics.lpips_vgg`; None leaves it out.

    Returns:
      method -> `psnr`, `ssim`, `lpips`, `lpips_vgg` (mean over frames), the same with `_revisit` over the frames that
      come back and with `_new` over those of new ground (None where there are none), `psnr_returned_cells`,
      `sharpness_returned` and `sharpness_new` over such cells, and the curve `psnr_by_frame`.
    """
    truth = clip.frames[len(clip) - len(cells) :]
    chosen = {"revisit": cells.mean((1, 2)) >= least, "new": new.mean((1, 2)) >= least}
    judged = {} if judge is None else metrics.lpips_vgg(judge, made, truth)
    scores = {}
    for method, frames in made.items():
        curves = metrics.all_metrics(frames, truth)
        if judge is not None:
            curves["lpips_vgg"] = judged[method]
        row: dict[str, Any] = {name: float(np.mean(curve)) for name, curve in curves.items()}
        for kind, at in chosen.items():
            row |= {f"{name}_{kind}": float(np.mean(c[at])) if at.any() else None for name, c in curves.items()}
        row["sharpness_returned"] = metrics.sharpness(frames, truth, cells)
        row["sharpness_new"] = metrics.sharpness(frames, truth, new)
        per_cell = metrics.masked_psnr(frames, truth, cells)
        row["psnr_returned_cells"] = float(np.nanmean(per_cell)) if np.isfinite(per_cell).any() else None
        row["psnr_by_frame"] = [round(float(v), 3) for v in curves["psnr"]]
        scores[method] = row
    return scores

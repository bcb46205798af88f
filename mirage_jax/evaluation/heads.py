"""Depth, keep and sky heads against the truth, on tokens of true frames."""

from __future__ import annotations

from typing import Any

import chex
import jax
import numpy as np

from mirage_jax import geometry
from mirage_jax.data.clip import PosedClip
from mirage_jax.evaluation.scores import Scores
from mirage_jax.models import heads
from mirage_jax.models.config import ModelConfig
from mirage_jax.training import encode, posed


def score(model: ModelConfig, params: Any, clip: PosedClip) -> Scores:
    """`compare` for one clip, on tokens as the memory holds them."""
    sample = posed.from_batch(encode.code(model, params, clip))
    out = heads.predict(model.heads, params["heads"], sample.latents, geometry.rays(sample.cameras))
    return compare(out, sample.depth, sample.dynamic)


def compare(out: dict[str, jax.Array], depth: chex.Array, dynamic: chex.Array) -> Scores:
    """What the heads say against the truth.

    Args:
      out: of `heads.predict`.
      depth, dynamic: `[T, h, w]`, as in `PosedLatents`; some depth is known.

    Returns:
      `depth_median_relative_error` over the cells of known depth. Further numbers of cells, to be summed over clips,
      because a clip with two actor cells says little by itself: of known depth (`depth_count`); of these, off by less
      than 15 % (`depth_within_15_percent_count`: where it is more than half, the median over the cells of all clips is
      below 15 %); in intersection and union for moving actors and for sky (`actor_intersection` and so on).
    """
    depth, dynamic = np.asarray(depth), np.asarray(dynamic)
    known = np.isfinite(depth) & (depth > 0)
    keep, sky = (np.asarray(mask) for mask in heads.decide(out))
    moves, open_sky = ~keep & ~sky, np.isinf(depth) & ~dynamic
    error = np.abs(np.asarray(out["depth"])[known] / depth[known] - 1.0)
    return Scores(
        {
            "depth_median_relative_error": float(np.median(error)),
            "depth_within_15_percent_count": int((error < 0.15).sum()),
            "depth_count": error.size,
            "actor_intersection": int((moves & dynamic).sum()),
            "actor_union": int((moves | dynamic).sum()),
            "sky_intersection": int((sky & open_sky).sum()),
            "sky_union": int((sky | open_sky).sum()),
        },
        {},
    )

"""Depth, keep and sky heads against the truth, on tokens of true frames."""

from __future__ import annotations

from typing import Any

import numpy as np

from mirage_jax import geometry
from mirage_jax.data.clip import PosedClip
from mirage_jax.evaluation.protocols import Scores
from mirage_jax.models import heads
from mirage_jax.models.config import ModelConfig
from mirage_jax.training import encode, posed


def score(model: ModelConfig, params: Any, clip: PosedClip) -> Scores:
    """Scores of one clip.

    Returns:
      `depth_median_relative_error`, and cells in intersection and union for moving actors and sky (`actor_intersection`
      and so on), to be summed over clips: a clip with two actor cells says little by itself.
    """
    sample = posed.from_batch(encode.code(model, params, clip))
    out = heads.predict(model.heads, params["heads"], posed.tokens(model, sample), geometry.rays(sample.cameras))
    depth, dynamic = np.asarray(sample.depth), np.asarray(sample.dynamic)
    known = np.isfinite(depth) & (depth > 0)
    keep, sky = (np.asarray(mask) for mask in heads.decide(out))
    moves, open_sky = ~keep & ~sky, np.isinf(depth) & ~dynamic
    error = np.abs(np.asarray(out["depth"])[known] / depth[known] - 1.0)
    return Scores(
        {
            "depth_median_relative_error": float(np.median(error)),
            "actor_intersection": int((moves & dynamic).sum()),
            "actor_union": int((moves | dynamic).sum()),
            "sky_intersection": int((sky & open_sky).sum()),
            "sky_union": int((sky | open_sky).sum()),
        },
        {},
    )

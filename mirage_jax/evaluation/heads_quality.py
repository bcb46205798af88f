"""Depth, keep and sky heads against the truth, on latents of true frames."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np

from mirage_jax import geometry
from mirage_jax.data.clip import PosedClip
from mirage_jax.evaluation.protocols import Scores
from mirage_jax.geometry import Camera
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
    out = _guess(model.heads, params["heads"], sample.latents, sample.cameras)
    depth, dynamic = np.asarray(sample.depth), np.asarray(sample.dynamic)
    known = np.isfinite(depth) & (depth > 0)
    keep, sky = (np.asarray(mask) for mask in heads.decide(out))
    moves, open_sky = ~keep & ~sky, np.isinf(depth) & ~dynamic
    return Scores(
        {
            "depth_median_relative_error": float(np.median(np.abs(np.asarray(out["depth"]) / depth - 1.0)[known])),
            "actor_intersection": int((moves & dynamic).sum()),
            "actor_union": int((moves | dynamic).sum()),
            "sky_intersection": int((sky & open_sky).sum()),
            "sky_union": int((sky | open_sky).sum()),
        },
        {},
    )


@functools.partial(jax.jit, static_argnums=0)
def _guess(config: heads.LatentHeadsConfig, params: Any, latents: jax.Array, cameras: Camera) -> dict[str, jax.Array]:
    """What `LatentHeads` say of every frame."""
    module = heads.LatentHeads(config)
    return jax.vmap(lambda z, r: module.apply({"params": params}, z, r))(latents, geometry.rays(cameras))

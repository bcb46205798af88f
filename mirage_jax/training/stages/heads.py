"""The heads: metric depth, keep and sky per latent cell, on single frames of coded clips, as a memory holds them.

Loss: absolute error of log depth where depth is known and static, and cross-entropy of keep and sky. Cells of moving
actors are few and weigh more. Tokens get the noise that generated ones have.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib import colormaps

from mirage_jax import geometry, weights
from mirage_jax.data.tolerance import Skipped
from mirage_jax.models import config as model_config
from mirage_jax.models import heads, partition
from mirage_jax.models.codec import Codec
from mirage_jax.training import posed
from mirage_jax.training.stage import Stage
from mirage_jax.training.stages import coded


def make(config: Any) -> Stage:
    """Heads for the model in `config.init_from`; goes on from its own, if they have these sizes and no more blocks."""
    loaded, params = weights.load(config.init_from, weights.parts_of(config.init_from))
    wanted = model_config.from_json(config.model.to_json(), "--config.model")
    model = dataclasses.replace(loaded, heads=wanted.heads)
    skipped = Skipped(config.bad_samples)

    def loss(moving, _frozen, batch, keys):
        def one(sample, key):
            index_key, level_key, noise_key = jax.random.split(key, 3)
            clip = posed.from_batch(sample)
            index = jax.random.choice(index_key, len(clip.latents), (config.frames_per_clip,), replace=False)
            tokens, rays = clip.latents[index], geometry.rays(clip.cameras[index])
            level = config.feature_noise * jax.random.uniform(level_key, (len(index), 1, 1, 1))
            noisy = tokens + level * jax.random.normal(noise_key, tokens.shape)
            out = heads.predict(model.heads, moving, noisy, rays)
            return head_losses(out, clip.depth[index], clip.dynamic[index], config.dynamic_weight)

        rows = partition.over_batch(one)(dict(batch), keys)
        metrics = {name: value.mean() for name, value in rows.items()}
        return metrics["depth"] + metrics["keep"] + metrics["sky"], metrics

    @jax.jit
    def guess(moving, frozen, sample):
        clip = posed.from_batch(sample)
        out = heads.predict(model.heads, moving, clip.latents, geometry.rays(clip.cameras))
        return Codec(model.vae).decode(frozen["vae"], clip.latents)[:: model.vae.stride_time], clip, out

    def batches(split=config.split):
        return coded.batches(config, skipped, model.vae.stride_time, split=split)

    def preview(moving, frozen, batch):
        frames, clip, out = guess(moving, frozen, {name: value[0] for name, value in batch.items()})
        kept = ~np.asarray(clip.dynamic) & np.isfinite(clip.depth)
        rows = [
            ((np.asarray(frames) + 1) * 127.5).astype(np.uint8),
            _coloured(clip.depth),
            _coloured(out["depth"]),
            *(np.repeat(mask[..., None] * np.uint8(255), 3, -1) for mask in (kept, np.asarray(out["keep_logit"]) > 0)),
        ]
        size = frames.shape[1]
        rows = [np.kron(row, np.ones((1, size // row.shape[1], size // row.shape[2], 1), np.uint8)) for row in rows]
        return {"frames_depth_keep": np.concatenate([np.concatenate(list(row[::4]), axis=1) for row in rows])}

    def init(key, _frozen, start):
        grid = model.height // model.vae.stride_space, model.width // model.vae.stride_space
        rays = jnp.stack([*jnp.meshgrid(jnp.arange(grid[1]) / 8.0, jnp.arange(grid[0]) / 8.0), jnp.ones(grid)], axis=-1)
        fresh = heads.LatentHeads(model.heads).init(key, jnp.zeros((*grid, model.vae.latent_channels)), rays)["params"]
        return {**fresh, **start}

    return Stage(
        init=init,
        frozen={part: value for part, value in params.items() if part != "heads"},
        loss=loss,
        batches=batches,
        preview=preview,
        finish=lambda moving, frozen, _: (model, {**frozen, "heads": moving}),
        counters=skipped.counters,
        start=params["heads"] if _grown_from(loaded.heads, model.heads) else {},
    )


def head_losses(
    out: dict[str, jax.Array], depth: jax.Array, dynamic: jax.Array, dynamic_weight: float
) -> dict[str, jax.Array]:
    """The three losses, averaged over frames `[T, h, w]`; depth and what moves as in `PosedLatents`."""
    sky = jnp.isinf(depth) & ~dynamic
    known = jnp.isfinite(depth) & (depth > 0)
    error = jnp.abs(jnp.log(out["depth"]) - jnp.log(jnp.where(known, depth, 1.0)))
    weight = jnp.where(dynamic, dynamic_weight, 1.0)
    keep = optax.sigmoid_binary_cross_entropy(out["keep_logit"], (known & ~dynamic).astype(jnp.float32))
    sky_loss = optax.sigmoid_binary_cross_entropy(out["sky_logit"], sky.astype(jnp.float32))
    return {
        "depth": jnp.sum(jnp.where(known, error, 0.0)) / jnp.maximum(known.sum(), 1),
        "keep": jnp.mean(weight * keep),
        "sky": jnp.mean(sky_loss),
    }


def _grown_from(old: heads.LatentHeadsConfig | None, new: heads.LatentHeadsConfig) -> bool:
    """Whether `new` is `old` with as many residual blocks or more."""
    if old is None or any(before > now for before, now in zip(old.blocks, new.blocks, strict=True)):
        return False
    return dataclasses.replace(old, blocks=new.blocks) == new


def _coloured(depth: Any) -> np.ndarray:
    """Depth `[T, h, w]` as colours: near is bright, sky and unknown are dark."""
    depth = np.asarray(depth, np.float64)
    nearness = np.where(depth > 0, 1.0 / (1.0 + np.where(depth > 0, depth, 1.0) / 5.0), 0.0)
    return (colormaps["magma"](nearness)[..., :3] * 255).astype(np.uint8)

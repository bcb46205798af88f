"""Stage 1: the video VAE, on random windows of frames.

Loss: mean squared error, plus `l1_weight` absolute error, plus `chroma_weight` squared error of colour apart from
brightness, plus a small KL term that keeps latents near unit size, plus `perceptual_weight` times LPIPS of
`perceptual_frames` frames drawn from each window (`training/perceptual.py`), plus `adversarial_weight` times what a
discriminator makes of the decoded window (`training/adversarial.py`). The latents are noised by their own posterior, so
that what the decoder sees tolerates error.

With `trains` = `decoder` the encoder stays as it is in the model of `init_from`. Latents then keep their meaning, so
the result is that whole model with a better decoder: its other parts need no new training.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mirage_jax import data, weights
from mirage_jax.data import joined, pipeline
from mirage_jax.data.tolerance import Skipped
from mirage_jax.errors import UserError
from mirage_jax.models import config as model_config
from mirage_jax.models import lpips, partition, vae
from mirage_jax.models.codec import Codec
from mirage_jax.training import adversarial, perceptual
from mirage_jax.training.stage import Stage

_FIRST_LOG_VARIANCE = -5.0


def make(config: Any) -> Stage:
    """The VAE stage of `experiments/configs/default_vae.py`; goes on from the model in `config.init_from`, if given."""
    if config.trains not in ("all", "decoder"):
        raise UserError(f"--config.trains={config.trains}: expected 'all' or 'decoder'")
    decoder_only = config.trains == "decoder"
    if decoder_only and not config.init_from:
        raise UserError("--config.trains=decoder needs --config.init_from, a model whose encoder stays")
    model = model_config.from_json(config.model.to_json(), "--config.model")
    coder = model.vae
    earlier = _earlier(config.init_from, coder) if config.init_from else {}
    kept = {"encoder": earlier.pop("encoder")} if decoder_only else {}
    skipped = Skipped(config.bad_samples)
    judged = perceptual.frames_judged(config, config.frames, "a window")
    if judged:
        perceptual.require_size(config.crop or min(model.height, model.width), "crop")
    judge = {"lpips": dict(lpips.load_parameters())} if judged else {}
    if config.adversarial_weight and not decoder_only:
        raise UserError("--config.adversarial_weight needs --config.trains=decoder, one that can decode")
    weights_of = {
        "squared_error": 1.0,
        "absolute_error": config.l1_weight,
        "chroma_error": config.chroma_weight,
        "kl": config.kl_weight,
        "lpips": config.perceptual_weight,
        "adversarial": config.adversarial_weight,
        "discriminator": 1.0,
    }

    def coder_of(params, frozen):
        return {name: {**params, **frozen}[name] for name in ("encoder", "decoder")}

    def loss(params, frozen, batch, keys):
        coder_params = coder_of(params, frozen)

        def one(frames, key):
            crop_key, noise_key = jax.random.split(key)
            x = _random_crop(crop_key, frames, config.crop).astype(jnp.float32) / 127.5 - 1.0
            mean, log_variance = vae.moments(coder, coder_params, x)
            z = mean + jnp.exp(0.5 * log_variance) * jax.random.normal(noise_key, mean.shape)
            out = vae.VAE(coder).apply({"params": coder_params}, z, method="decode")
            error = out - x
            kl = 0.5 * jnp.mean(mean**2 + jnp.exp(log_variance) - 1.0 - log_variance)
            parts = {"squared_error": jnp.mean(error**2), "absolute_error": jnp.mean(jnp.abs(error)), "kl": kl}
            if config.chroma_weight:
                parts["chroma_error"] = _chroma_error(error)
            if judged:
                parts["lpips"] = perceptual.distance(jax.random.fold_in(key, 1), frozen["lpips"], out, x, judged)
            if config.adversarial_weight:
                parts |= adversarial.losses(params["discriminator"], out, x)
            return parts

        parts = jax.tree.map(jnp.mean, partition.over_batch(one)(batch["frames"], keys))
        return sum(weights_of[name] * part for name, part in parts.items()), parts

    def batches(split=config.split):
        parts, count = partition.batch_parts(partition.make_mesh(dict(config.mesh)), config.batch_size)
        folders = joined.folders(config.data, "--config.data")
        source = joined.Joined([data.load_source(folder, split, fields=("frames",)) for folder in folders])
        return pipeline.clips(
            source,
            batch_size=config.batch_size,
            frames=config.frames,
            seed=config.seed,
            parts=parts,
            count=count,
            workers=config.workers,
            windows_per_clip=config.windows_per_clip,
            skipped=skipped,
        )

    @jax.jit
    def round_trip(params, frames):
        codec = Codec(coder)
        z = codec.encode(params, frames.astype(jnp.float32) / 127.5 - 1.0)
        return jnp.round((codec.decode(params, z) + 1.0) * 127.5).astype(jnp.uint8)

    def preview(params, frozen, batch):
        frames = batch["frames"][0]
        rows = [
            np.concatenate(list(np.asarray(v)[:: coder.stride_time]), axis=1)
            for v in (frames, round_trip(coder_of(params, frozen), frames))
        ]
        return {"reconstruction": np.concatenate(rows)}

    @jax.jit
    def code(params, frames):
        z = vae.moments(coder, params, frames.astype(jnp.float32) / 127.5 - 1.0)[0]
        return z.mean((0, 1, 2)), (z**2).mean((0, 1, 2))

    def finish(params, frozen, batches):
        if decoder_only:
            whole, parts = weights.load(config.init_from, weights.parts_of(config.init_from))
            return whole, {**parts, "vae": coder_of(params, frozen)}
        moments = [code(params, clip) for _ in range(config.statistics_batches) for clip in next(batches)["frames"]]
        mean, square = (np.mean([np.asarray(m[i], np.float64) for m in moments], axis=0) for i in range(2))
        std = np.sqrt(square - mean**2)
        trained = dataclasses.replace(coder, latent_mean=_numbers(mean), latent_std=_numbers(std))
        return dataclasses.replace(model, vae=trained, dit=None, side=None, heads=None, lora=None), {"vae": params}

    def init(key, _frozen, start):
        if start:
            return start | ({"discriminator": adversarial.init(key)} if config.adversarial_weight else {})
        params = vae.init(coder, key)
        # A posterior as wide as the prior drowns what the first codes say, and the decoder learns to ignore them.
        narrow = params["encoder"]["moments"]["bias"].at[coder.latent_channels :].set(_FIRST_LOG_VARIANCE)
        params["encoder"]["moments"]["bias"] = narrow
        return params

    return Stage(
        init=init,
        frozen={**kept, **judge},
        loss=loss,
        batches=batches,
        preview=preview,
        finish=finish,
        counters=skipped.counters,
        start=earlier,
    )


def _random_crop(key: jax.Array, frames: jax.Array, size: int) -> jax.Array:
    """A random `size x size` part of `[T, H, W, 3]`, mirrored half the time; 0 keeps the whole picture."""
    crop_key, flip_key = jax.random.split(key)
    if size:
        span = jnp.array([frames.shape[1] - size + 1, frames.shape[2] - size + 1])
        row, column = jax.random.randint(crop_key, (2,), 0, span)
        frames = jax.lax.dynamic_slice(frames, (0, row, column, 0), (len(frames), size, size, 3))
    return jnp.where(jax.random.bernoulli(flip_key), frames[:, :, ::-1], frames)


def _chroma_error(error: jax.Array) -> jax.Array:
    """Mean squared error of red and of blue against green, `[..., 3]` to `[]`: what is wrong apart from brightness."""
    red, green, blue = jnp.moveaxis(error, -1, 0)
    return jnp.mean((red - green) ** 2) + jnp.mean((blue - green) ** 2)


def _earlier(path: str, coder: vae.VAEConfig) -> Any:
    """The VAE's parameters in a model folder, which must be of the same sizes."""
    loaded, params = weights.load(path, ("vae",))
    found = dataclasses.replace(loaded.vae, latent_mean=coder.latent_mean, latent_std=coder.latent_std)
    if found != coder:
        raise UserError(f"--config.init_from={path}: its VAE has other sizes, {found}, expected {coder}")
    return params["vae"]


def _numbers(values: np.ndarray) -> tuple[float, ...]:
    return tuple(round(float(v), 5) for v in values)

"""Ours in bfloat16 against the public models in float32: what the shorter numbers cost."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import torch
from oracles import channels_first, channels_last, normal
from record import record, relative_error

from mirage_jax.models import vae
from mirage_jax.models.generator import Generator
from mirage_jax.models.side_branch import SideBranchConfig

BF16 = dataclasses.replace(oracles.DIT, dtype="bfloat16")
TEXT = normal(0, BF16.text_tokens, BF16.text_dim)


def test_dit_and_side_branch():
    model = oracles.side(96)
    latents, control = normal(1, 3, 4, 6, oracles.CHANNELS), normal(2, 3, 4, 6, 96)
    params = {"params": oracles.generator_params(model.state_dict())}
    timesteps = np.float32([0, 937, 418])
    for what, side, controls in (("DiT", None, None), ("DiT and side branch", SideBranchConfig(96), control)):
        with torch.no_grad():
            expected = oracles.run_segment(
                model,
                channels_first(latents),
                range(3),
                timesteps,
                TEXT,
                None if controls is None else channels_first(controls),
            )
        found = jax.jit(Generator(BF16, side).apply)(params, latents, timesteps, control=controls, text=TEXT)
        record(what, "diffusers, float32", relative_error(found, channels_last(expected)), 3e-2, "bf16")


def test_vae():
    model = oracles.vae()
    params = oracles.vae_params(model.state_dict())
    frames = np.random.default_rng(0).uniform(-1, 1, (5, 32, 32, 3)).astype(np.float32)
    latents = 0.3 * normal(1, 2, 2, 2, oracles.CHANNELS)
    with torch.no_grad():
        code = channels_last(model.encode(channels_first(frames)).latent_dist.mean)
        video = channels_last(model.decode(channels_first(latents)).sample)
    plain = dataclasses.replace(oracles.VAE, latent_mean=(), latent_std=())
    found = vae.encode(plain, params, jnp.asarray(frames, jnp.bfloat16))
    record("VAE encode", "diffusers, float32", relative_error(found, code), 1e-1, "bf16")
    found = vae.decode(plain, params, jnp.asarray(latents, jnp.bfloat16))
    record("VAE decode", "diffusers, float32", relative_error(found, video), 1e-1, "bf16")

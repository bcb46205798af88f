"""The VAE against the public PyTorch implementation, random weights: clips, streams, gradients, statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import torch
from record import record, relative_error

from mirage_jax.errors import UserError
from mirage_jax.models import vae

ORACLE = "diffusers.AutoencoderKLWan"
SIZES = {(1, 32, 48): "1 frame of 32x48", (5, 48, 32): "5 frames of 48x32", (9, 32, 48): "9 frames of 32x48"}
SIZES[17, 32, 16] = "17 frames of 32x16"
MEAN, STD = np.float32(oracles.MEAN), np.float32(oracles.STD)


@pytest.fixture(scope="module")
def model():
    return oracles.vae()


@pytest.fixture(scope="module")
def params(model):
    return oracles.vae_params(model.state_dict())


def clip(frames, height, width):
    return np.random.default_rng(frames).uniform(-1, 1, (frames, height, width, 3)).astype(np.float32)


def latents_of(frames, height, width):
    """Small enough that the decoder is hardly ever clipped."""
    return 0.3 * oracles.normal(frames, 1 + (frames - 1) // 4, height // 16, width // 16, oracles.CHANNELS)


def encoded(model, frames):
    """Normalised latents, with gradient."""
    mean = model.encode(frames).latent_dist.mean
    return (mean - torch.tensor(MEAN).view(1, -1, 1, 1, 1)) / torch.tensor(STD).view(1, -1, 1, 1, 1)


def decoded(model, latents):
    return model.decode(
        latents * torch.tensor(STD).view(1, -1, 1, 1, 1) + torch.tensor(MEAN).view(1, -1, 1, 1, 1)
    ).sample


@pytest.mark.parametrize("size", SIZES, ids=SIZES.values())
def test_encode(model, params, size):
    frames = clip(*size)
    with torch.no_grad():
        expected = oracles.channels_last(encoded(model, oracles.channels_first(frames)))
    record(f"VAE encode, {SIZES[size]}", ORACLE, relative_error(vae.encode(oracles.VAE, params, frames), expected))


def test_log_variance(model, params):
    frames = clip(1, 16, 16)
    with torch.no_grad():
        posterior = model.encode(oracles.channels_first(frames)).latent_dist
    found = vae.moments(oracles.VAE, params, frames)[1]
    record("VAE encode, log-variance", ORACLE, relative_error(found, oracles.channels_last(posterior.logvar)))


@pytest.mark.parametrize("size", SIZES, ids=SIZES.values())
def test_decode(model, params, size):
    latents = latents_of(*size)
    with torch.no_grad():
        expected = oracles.channels_last(decoded(model, oracles.channels_first(latents)))
    # The comparison is worth something only where the public decoder does not clip.
    assert np.mean(np.abs(expected) < 1) > 0.5
    record(f"VAE decode, {SIZES[size]}", ORACLE, relative_error(vae.decode(oracles.VAE, params, latents), expected))


@pytest.mark.parametrize("chunks", [(1, 4, 4), (5, 4)])
def test_streamed_encoding_equals_their_whole_clip(model, params, chunks):
    frames = clip(9, 32, 48)
    with torch.no_grad():
        expected = oracles.channels_last(encoded(model, oracles.channels_first(frames)))
    found, cache, start = [], None, 0
    for size in chunks:
        part, cache = vae.encode_stream(oracles.VAE, params, frames[start : start + size], cache)
        found.append(part)
        start += size
    name = "+".join(map(str, chunks))
    record(f"VAE encode, streamed {name}", ORACLE, relative_error(jnp.concatenate(found), expected))


@pytest.mark.parametrize("chunks", [(1, 1, 1), (2, 1)])
def test_streamed_decoding_equals_their_whole_clip(model, params, chunks):
    latents = latents_of(9, 32, 48)
    with torch.no_grad():
        expected = oracles.channels_last(decoded(model, oracles.channels_first(latents)))
    found, cache, start = [], None, 0
    for size in chunks:
        part, cache = vae.decode_stream(oracles.VAE, params, latents[start : start + size], cache)
        found.append(part)
        start += size
    name = "+".join(map(str, chunks))
    record(f"VAE decode, streamed {name}", ORACLE, relative_error(jnp.concatenate(found), expected))


def test_encoder_gradients(model, params):
    frames = clip(5, 16, 32)
    weight = oracles.normal(1, 2, 1, 2, oracles.CHANNELS)
    theirs = oracles.channels_first(frames, grad=True)
    model.zero_grad()
    (encoded(model, theirs) * oracles.channels_first(weight)).sum().backward()

    def objective(params, frames):
        return jnp.sum(vae.encode(oracles.VAE, params, frames) * weight)

    compare_gradients("encode", objective, model, "encoder", params, frames, theirs)


def test_decoder_gradients(model, params):
    latents = latents_of(5, 16, 32)
    weight = oracles.normal(1, 5, 16, 32, 3)
    theirs = oracles.channels_first(latents, grad=True)
    model.zero_grad()
    (decoded(model, theirs) * oracles.channels_first(weight)).sum().backward()

    def objective(params, latents):
        return jnp.sum(vae.decode(oracles.VAE, params, latents) * weight)

    compare_gradients("decode", objective, model, "decoder", params, latents, theirs)


def compare_gradients(name, objective, model, half, params, inputs, theirs):
    """Of the input, and the worst of all weights of one half."""
    by_params, by_input = jax.jit(jax.grad(objective, (0, 1)))(params, inputs)
    record(f"VAE {name}, gradient of the input", ORACLE, relative_error(by_input, oracles.channels_last(theirs.grad)))
    weights = {key: grad for key, grad in oracles.gradients(model).items() if grad is not None}
    expected = oracles.vae_params(weights)[half]
    errors = jax.tree.map(relative_error, by_params[half], expected)
    record(f"VAE {name}, gradient of every weight (worst)", ORACLE, max(jax.tree.leaves(errors)))


@pytest.mark.parametrize("frames", [2, 4, 8, 16])
def test_frames_that_the_public_code_drops_are_refused(model, params, frames):
    video = clip(frames, 16, 16)
    with torch.no_grad():
        kept = model.encode(oracles.channels_first(video)).latent_dist.mean.shape[2]
    assert 1 + 4 * (kept - 1) < frames  # the public code says nothing
    with pytest.raises(UserError, match=f"got {frames}"):
        vae.encode(oracles.VAE, params, video)

"""The terms of the VAE's loss, for a VAE of one latent a frame; `test_stages.py` has what all stages share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.configs import default_vae
from mirage_jax import weights
from mirage_jax.errors import UserError
from mirage_jax.models import vae
from mirage_jax.training import stages
from mirage_jax.training.stages import vae as vae_stage

FRAMES = np.random.default_rng(0).integers(0, 255, (2, 1, 16, 16, 3), np.uint8)


@pytest.fixture(scope="module")
def config():
    config = default_vae.get_config()
    config.model.vae.encoder_dim = config.model.vae.decoder_dim = 4
    config.crop = 0
    config.chroma_weight = config.perceptual_weight = 0.0
    return config


def _stage(config, **changes):
    config = config.copy_and_resolve_references()
    config.update(changes)
    return stages.make(config)


@pytest.fixture(scope="module")
def params(config):
    return jax.jit(_stage(config).init)(jax.random.key(0), {}, {})


def _loss(stage, params, frames=FRAMES):
    keys = jax.random.split(jax.random.key(1), len(frames))
    total, parts = jax.jit(stage.loss)(params, stage.frozen, {"frames": frames}, keys)
    return float(total), {name: float(part) for name, part in parts.items()}


def test_the_model_that_comes_out_codes_one_latent_a_frame(config, params):
    stage = _stage(config)
    model, found = stage.finish(params, stage.frozen, iter([{"frames": FRAMES}] * config.statistics_batches))
    frames = jnp.asarray(np.concatenate(list(FRAMES)), jnp.float32) / 127.5 - 1.0
    latents = vae.encode(model.vae, found["vae"], frames)
    assert latents.shape == (2, 4, 4, 12) and vae.decode(model.vae, found["vae"], latents).shape == frames.shape
    np.testing.assert_allclose(latents.mean((0, 1, 2)), 0, atol=1e-3)
    np.testing.assert_allclose(latents.std((0, 1, 2)), 1, atol=1e-3)


def test_colour_counts_apart_from_brightness(config, params):
    plain, _ = _loss(_stage(config), params)
    total, parts = _loss(_stage(config, chroma_weight=0.5), params)
    np.testing.assert_allclose(total - plain, 0.5 * parts["chroma_error"], rtol=1e-4)

    error = np.random.default_rng(1).normal(size=(3, 4, 5, 3))
    expected = np.square(error[..., ::2] - error[..., 1:2]).sum(-1).mean()
    np.testing.assert_allclose(vae_stage._chroma_error(error), expected, rtol=1e-5)
    np.testing.assert_allclose(vae_stage._chroma_error(error + 7.0), expected, rtol=1e-5)  # brightness alone


def test_a_discriminator_is_trained_beside_a_decoder_and_is_no_part_of_the_model(config, params, tmp_path):
    path = tmp_path / "model"
    model = _stage(config).finish(params, {}, iter([{"frames": FRAMES}] * config.statistics_batches))
    weights.save(path, *model)
    before = _stage(config, init_from=str(path), trains="decoder")
    stage = _stage(config, init_from=str(path), trains="decoder", adversarial_weight=0.1)
    start = jax.jit(stage.init)(jax.random.key(2), stage.frozen, stage.start)
    assert set(start) == {"decoder", "discriminator"} and set(before.start) == {"decoder"}

    plain, _ = _loss(before, before.start)
    total, parts = _loss(stage, start)
    np.testing.assert_allclose(total, plain + 0.1 * parts["adversarial"] + parts["discriminator"], rtol=1e-4)

    _, found = stage.finish(start, stage.frozen, None)
    assert set(found["vae"]) == {"encoder", "decoder"}
    jax.tree.map(np.testing.assert_array_equal, found["vae"]["encoder"], model[1]["vae"]["encoder"])
    shown, earlier = (s.preview(p, s.frozen, {"frames": FRAMES}) for s, p in ((stage, start), (before, before.start)))
    np.testing.assert_array_equal(shown["reconstruction"], earlier["reconstruction"])


def test_a_discriminator_judges_a_decoder_alone(config):
    with pytest.raises(UserError, match="adversarial_weight needs --config"):
        _stage(config, adversarial_weight=0.1)

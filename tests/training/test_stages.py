"""Stages go on from a model that has their part already, and refuse one of other sizes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.configs import default_backbone, default_heads, default_vae, wan22_lora, wan22_side
from mirage_jax import weights
from mirage_jax.errors import UserError
from mirage_jax.models import config as model_config
from mirage_jax.models import parameters
from mirage_jax.models.heads import LatentHeadsConfig
from mirage_jax.training import stages


@pytest.fixture(scope="module")
def model():
    base = model_config.default()
    return dataclasses.replace(
        base,
        height=32,
        width=32,
        vae=dataclasses.replace(base.vae, latent_channels=4, encoder_dim=2, decoder_dim=2, multipliers=(1, 1, 2)),
        heads=LatentHeadsConfig(in_channels=4, widths=(4, 4, 4), attention_heads=2),
        dit=None,
        side=None,
        lora=None,
    )


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    weights.save(path, model, jax.jit(lambda: parameters.init(jax.random.key(3), model))())
    return path


def _config(module, model, folder):
    config = module.get_config()
    config.init_from = str(folder)
    for part in ("vae", "heads"):
        config.model[part].update(dataclasses.asdict(getattr(model, part)))
    return config


@pytest.mark.parametrize(("module", "part"), [(default_vae, "vae"), (default_heads, "heads")])
def test_a_part_that_is_there_is_where_training_starts(model, folder, module, part):
    config = _config(module, model, folder)
    stage = stages.make(config)
    start = stage.init(jax.random.key(0), stage.frozen, stage.start)
    jax.tree.map(np.testing.assert_array_equal, start, weights.load(folder)[1][part])


def test_heads_of_other_sizes_start_afresh(model, folder):
    config = _config(default_heads, model, folder)
    config.model.heads.widths = (4, 4, 6)
    stage = stages.make(config)
    start = stage.init(jax.random.key(0), stage.frozen, stage.start)
    assert start["out"]["kernel"].shape == (4, 3) and not np.asarray(start["out"]["kernel"]).any()


def test_a_vae_of_other_sizes_is_refused(model, folder):
    config = _config(default_vae, model, folder)
    config.model.vae.encoder_dim = 3
    with pytest.raises(UserError, match="its VAE has other sizes"):
        stages.make(config)


def test_frozen_matrices_may_be_bfloat16_while_what_trains_is_float32(folder, model):
    config = default_backbone.get_config()
    config.init_from, config.trainable, config.frozen_dtype = str(folder), ("dit",), "bfloat16"
    config.model.dit.update(dim=8, ffn_dim=8, heads=2, layers=1, in_channels=4)
    stage = stages.make(config)
    assert stage.frozen["vae"]["encoder"]["conv_in"]["kernel"].dtype == jnp.bfloat16
    assert stage.frozen["vae"]["encoder"]["conv_in"]["bias"].dtype == jnp.float32
    start = jax.eval_shape(stage.init, jax.random.key(0), stage.frozen, stage.start)
    assert {x.dtype for x in jax.tree.leaves(start)} == {jnp.dtype("float32")}


def test_recipe_of_the_large_model_has_the_papers_settings():
    side, adapter = wan22_side.get_config(), wan22_lora.get_config()
    assert (side.trainable, side.learning_rate, side.batch_size, side.clip_norm) == (("side",), 1e-5, 64, 1.0)
    assert (adapter.trainable, adapter.learning_rate, adapter.model.lora.rank) == (("lora",), 1e-4, 32)
    assert 0.1 <= side.text_dropout <= 0.2
    read = model_config.from_json(side.model.to_json(), "wan22_side")
    assert read == model_config.wan22_ti2v_5b()


def test_unknown_stage_and_part(model, folder):
    config = _config(default_heads, model, folder)
    config.stage = "tail"
    with pytest.raises(UserError, match="unknown stage, expected one of vae, heads, generator"):
        stages.make(config)


def test_a_better_decoder_leaves_every_other_part_as_it_was(model, folder):
    config = _config(default_vae, model, folder)
    config.trains = "decoder"
    config.crop = 0
    stage = stages.make(config)
    start = stage.init(jax.random.key(0), stage.frozen, stage.start)
    assert set(start) == {"decoder"} and set(stage.frozen) == {"encoder"}
    frames = np.random.default_rng(0).integers(0, 255, (2, 5, 32, 32, 3), np.uint8)
    keys = jax.random.split(jax.random.key(1), 2)
    loss, _ = stage.loss(start, stage.frozen, {"frames": frames}, keys)

    config.trains = "all"
    whole = stages.make(config)
    assert loss == whole.loss(whole.start, {}, {"frames": frames}, keys)[0]

    trained = jax.tree.map(lambda x: x + 1.0, start)
    found, params = stage.finish(trained, stage.frozen, None)
    before, old = weights.load(folder, weights.parts_of(folder))
    assert found == before and set(params) == set(old) == {"vae", "heads"}
    jax.tree.map(np.testing.assert_array_equal, params["vae"]["decoder"], trained["decoder"])
    jax.tree.map(np.testing.assert_array_equal, params["vae"]["encoder"], old["vae"]["encoder"])
    jax.tree.map(np.testing.assert_array_equal, params["heads"], old["heads"])


@pytest.mark.parametrize(("trains", "init_from"), [("decoder", ""), ("encoder", "here")])
def test_a_decoder_alone_needs_the_model_whose_latents_it_decodes(model, folder, trains, init_from):
    config = _config(default_vae, model, folder)
    config.trains, config.init_from = trains, init_from and str(folder)
    with pytest.raises(UserError, match=r"--config\.trains"):
        stages.make(config)

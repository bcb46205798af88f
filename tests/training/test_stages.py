"""Stages go on from a model that has their part already, and refuse one of other sizes."""

import dataclasses
import pathlib
import sys

import coded_clips
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.configs import default_heads, default_vae, wan22_lora, wan22_side
from mirage_jax import weights
from mirage_jax.data import latents
from mirage_jax.errors import UserError
from mirage_jax.models import config as model_config
from mirage_jax.models import vae
from mirage_jax.models.heads import LatentHeadsConfig
from mirage_jax.training import perceptual, stages
from mirage_jax.training.stages import generator

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "world"))
import tiny_world


@pytest.fixture(scope="module")
def model():
    base = tiny_world.video()
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
    weights.save(path, model, tiny_world.parameters(model))
    return path


@pytest.fixture(scope="module")
def coded_model(tmp_path_factory):
    """What `coded_clips.config` gives for a small whole model."""
    return coded_clips.config(tiny_world.quick(), tmp_path_factory.mktemp("coded"))


@pytest.fixture
def coded(coded_model):
    """Its config, to be changed."""
    return coded_model[0].copy_and_resolve_references()


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
    start = jax.jit(stage.init)(jax.random.key(0), stage.frozen, stage.start)
    jax.tree.map(np.testing.assert_array_equal, start, weights.load(folder)[1][part])


def test_heads_of_other_sizes_start_afresh(model, folder):
    config = _config(default_heads, model, folder)
    config.model.heads.widths = (4, 4, 6)
    stage = stages.make(config)
    assert stage.start == {}
    start = jax.eval_shape(stage.init, jax.random.key(0), stage.frozen, stage.start)
    assert start["out"]["kernel"].shape == (4, 3) and start["down_2"]["kernel"].shape == (3, 3, 4, 6)


def test_heads_with_more_blocks_go_on_from_those_with_fewer(model, folder, tmp_path):
    config = _config(default_heads, model, folder)
    config.model.heads.blocks = (1, 2, 3)
    stage = stages.make(config)
    start = jax.jit(stage.init)(jax.random.key(0), stage.frozen, stage.start)
    added = {name: start.pop(name) for name in ("encode_1_1", "decode_1_1", "encode_2_1", "encode_2_2")}
    jax.tree.map(np.testing.assert_array_equal, start, weights.load(folder)[1]["heads"])
    assert all(np.asarray(block["first"]["kernel"]).any() for block in added.values())
    grown, params = stage.finish({**start, **added}, stage.frozen, None)
    weights.save(tmp_path / "grown", grown, params)
    again = _config(default_heads, model, tmp_path / "grown")  # fewer again: those that are left would not fit
    assert stages.make(again).start == {}


def test_a_vae_of_other_sizes_is_refused(model, folder):
    config = _config(default_vae, model, folder)
    config.model.vae.encoder_dim = 3
    with pytest.raises(UserError, match="its VAE has other sizes"):
        stages.make(config)


def test_frozen_matrices_may_be_bfloat16_while_what_trains_is_float32(folder, model):
    config = coded_clips.memory_stage()
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


def test_a_finished_model_gets_a_fresh_side_branch(coded):
    coded.fresh = ("side",)
    coded.model.segment.control = ("readout", "visible")
    coded.model.side.control_channels = tiny_world.CHANNELS + 1
    stage = stages.make(coded)
    held = weights.load(coded.init_from)[1]
    assert set(stage.start) == {"lora"}
    jax.tree.map(np.testing.assert_array_equal, stage.frozen["dit"], held["dit"])
    moving = jax.jit(stage.init)(jax.random.key(0), stage.frozen, stage.start)
    assert not np.asarray(moving["side"]["blocks_0"]["hint"]["kernel"]).any()
    model, params = stage.finish(moving, stage.frozen, 0)
    assert model.segment.control == ("readout", "visible") and model.heads is not None
    assert set(params) == {"vae", "heads", "dit", "side", "lora"}


def test_a_frozen_backbone_is_stacked_once_and_comes_back_as_it_was(tmp_path):
    """A step that stacks its blocks holds it twice: 10 GB more of a full-size model."""
    base = tiny_world.quick()
    model = dataclasses.replace(base, dit=dataclasses.replace(base.dit, layers=3))
    config = coded_clips.config(model, tmp_path, trainable=("side",))[0]
    model = dataclasses.replace(model, lora=None)
    weights.save(config.init_from, model, tiny_world.random_parameters(model))
    stage, held = stages.make(config), weights.load(config.init_from)[1]
    assert stage.frozen["dit"]["blocks"]["modulation"].shape[0] == 3
    assert not [name for name in stage.frozen["dit"] if name.startswith("blocks_")]
    fresh = dataclasses.replace(stage, start={})  # copies the backbone's blocks
    moving = jax.jit(fresh.init)(jax.random.key(0), fresh.frozen, fresh.start)
    jax.tree.map(np.testing.assert_array_equal, moving["side"]["blocks_1"]["block"], held["dit"]["blocks_2"])
    params = stage.finish({"side": held["side"]}, stage.frozen, 0)[1]
    jax.tree.map(np.testing.assert_array_equal, params, held)


def test_noise_levels_move_with_the_shift(coded, monkeypatch):
    sample, shifts = generator.flow.sample_sigma, []
    monkeypatch.setattr(generator.flow, "sample_sigma", lambda key, shift: shifts.append(shift) or sample(key, shift))
    coded.shift = 7.5
    stage = stages.make(coded)
    batch, keys = next(iter(stage.batches())), jax.random.split(jax.random.key(0), 4)
    jax.eval_shape(stage.loss, stage.start, stage.frozen, batch, keys)
    assert shifts == [7.5]  # tests/diffusion says what it does to the levels


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shift": 0.0}, "shift=0.0: expected a positive number"),
    ],
)
def test_a_loss_that_does_not_exist_is_refused(coded, change, message):
    coded.update(change)
    with pytest.raises(UserError, match=message):
        stages.make(coded)


def test_only_what_is_trained_may_be_fresh(coded):
    coded.fresh = ("dit",)
    with pytest.raises(UserError, match=r"fresh=\('dit',\): expected some of the parts that are trained: side, lora"):
        stages.make(coded)


def test_a_data_set_of_an_older_version_is_refused(coded, monkeypatch):
    stage = stages.make(coded)
    next(iter(stage.batches()))
    read = latents.Source.__getitem__

    def with_(**changes):
        return lambda self, index: read(self, index) | changes

    monkeypatch.setattr(latents.Source, "__getitem__", with_(intrinsics=np.zeros((6, 3, 3))))
    with pytest.raises(UserError, match="coded by an older version, without cameras of all frames"):
        stage.batches()


def test_clips_are_of_the_split_that_is_asked_for(coded, tmp_path):
    stage, model, folder = stages.make(coded), tiny_world.quick(), tmp_path / "held_out"
    coded_clips.write(model, folder, split="validation")
    coded.data = str(folder)
    found = np.asarray(next(iter(stage.batches("validation")))["latents"])
    expected = {coded_clips.sample(model, 6, seed)["latents"].tobytes() for seed in range(4)}
    assert {clip.tobytes() for clip in found} <= expected
    with pytest.raises(UserError, match="train"):
        stage.batches()


def test_data_of_several_folders_is_one(coded, tmp_path):
    model = tiny_world.quick()
    one, two, three = coded.data, f"{tmp_path}/two", f"{tmp_path}/three"
    for folder, frames, clips in ((two, 6, 2), (three, 7, 1)):
        coded_clips.write(model, folder, frames=frames, clips=clips)
    coded.batch_size = 6
    stage = stages.make(coded)

    def latents_of(folders):
        coded.data = folders
        return np.asarray(next(iter(stage.batches()))["latents"])

    both = latents_of(f"{one},{two}")
    assert sorted(both.sum((1, 2, 3, 4)).tolist()) == sorted(latents_of(f"{two},{one}").sum((1, 2, 3, 4)).tolist())
    assert len(np.unique(both, axis=0)) == 4  # the two of the second are its first two again
    with pytest.raises(UserError, match="4 coded clips are too few"):
        latents_of(one)
    with pytest.raises(UserError, match=rf"{three} has clips of 7x.* other than the first folder's, which have 6x"):
        latents_of(f"{one},{three}")


def test_a_better_decoder_leaves_every_other_part_as_it_was(model, folder):
    config = _config(default_vae, model, folder)
    config.trains = "decoder"
    config.crop, config.perceptual_weight = 0, 0.0
    stage = stages.make(config)
    start = jax.jit(stage.init)(jax.random.key(0), stage.frozen, stage.start)
    assert set(start) == {"decoder"} and set(stage.frozen) == {"encoder"}
    frames = np.random.default_rng(0).integers(0, 255, (2, 5, 16, 16, 3), np.uint8)
    keys = jax.random.split(jax.random.key(1), 2)

    config.trains = "all"
    whole = stages.make(config)

    @jax.jit
    def losses(start, frozen, whole_start):
        batch = {"frames": frames}
        return stage.loss(start, frozen, batch, keys)[0], whole.loss(whole_start, {}, batch, keys)[0]

    loss, of_whole = losses(start, stage.frozen, whole.start)
    assert loss == of_whole

    trained = jax.tree.map(lambda x: x + 1.0, start)
    found, params = stage.finish(trained, stage.frozen, None)
    before, old = weights.load(folder, weights.parts_of(folder))
    assert found == before and set(params) == set(old) == {"vae", "heads"}
    jax.tree.map(np.testing.assert_array_equal, params["vae"]["decoder"], trained["decoder"])
    jax.tree.map(np.testing.assert_array_equal, params["vae"]["encoder"], old["vae"]["encoder"])
    jax.tree.map(np.testing.assert_array_equal, params["heads"], old["heads"])


def test_the_perceptual_term_judges_some_frames_of_what_is_decoded(model, folder, monkeypatch):
    """With a stand-in for LPIPS, which is quick to compile; test_perceptual has the real one."""
    monkeypatch.setattr(perceptual, "distance", coded_clips.cheap_distance)
    config = _config(default_vae, model, folder)
    config.trains, config.crop, config.frames, config.perceptual_frames = "decoder", 0, 5, 3
    config.perceptual_weight = 0.0
    plain = stages.make(config)
    config.perceptual_weight = 0.25
    stage = stages.make(config)
    frames = np.random.default_rng(0).integers(0, 255, (1, 5, 24, 24, 3), np.uint8)
    batch, keys = {"frames": frames}, jax.random.split(jax.random.key(1), 1)
    assert "lpips" not in plain.frozen and "lpips" in stage.frozen

    def expected(params, frozen):
        crop_key, noise_key = jax.random.split(keys[0])
        flipped = jax.random.bernoulli(jax.random.split(crop_key)[1])
        shown = jnp.where(flipped, frames[0, :, :, ::-1], frames[0]) / jnp.float32(127.5) - 1
        params = {**params, "encoder": frozen["encoder"]}
        mean, log_variance = vae.moments(model.vae, params, shown)
        z = mean + jnp.exp(0.5 * log_variance) * jax.random.normal(noise_key, mean.shape)
        out = vae.VAE(model.vae).apply({"params": params}, z, method="decode")
        return perceptual.distance(jax.random.fold_in(keys[0], 1), frozen["lpips"], out, shown, 3)

    @jax.jit
    def found(params, frozen):
        def term(params):
            total, metrics = stage.loss(params, frozen, batch, keys)
            return metrics["lpips"], (total, metrics)

        slope, (total, more) = jax.grad(term, has_aux=True)(params)
        return slope, total, more, *plain.loss(params, frozen, batch, keys), expected(params, frozen)

    slope, total, more, without, parts, term = found(stage.start, stage.frozen)
    assert set(more) == {*parts, "lpips"} and more["lpips"] > 0.01
    np.testing.assert_allclose(total - without, 0.25 * more["lpips"], rtol=1e-3)
    np.testing.assert_allclose(more["lpips"], term, rtol=1e-4)
    assert all(np.isfinite(x).all() and np.abs(x).max() > 0 for x in jax.tree.leaves(slope))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"perceptual_weight": -1.0}, "perceptual_weight=-1.0: expected 0 or more"),
        ({"perceptual_frames": 0}, "perceptual_frames=0: expected 1 to 5"),
        ({"perceptual_frames": 6}, "perceptual_frames=6: expected 1 to 5"),
        ({"crop": 37}, "crop=37: the perceptual term needs pictures of at least 38 pixels"),
    ],
)
def test_a_perceptual_term_that_cannot_be_is_refused(model, folder, change, sentence):
    config = _config(default_vae, model, folder)
    config.update({"perceptual_weight": 0.1, "crop": 38, "frames": 5} | change)
    with pytest.raises(UserError, match=sentence):
        stages.make(config)


@pytest.mark.parametrize(("trains", "init_from"), [("decoder", ""), ("encoder", "here")])
def test_a_decoder_alone_needs_the_model_whose_latents_it_decodes(model, folder, trains, init_from):
    config = _config(default_vae, model, folder)
    config.trains, config.init_from = trains, init_from and str(folder)
    with pytest.raises(UserError, match=r"--config\.trains"):
        stages.make(config)

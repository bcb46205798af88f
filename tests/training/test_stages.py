"""Stages go on from a model that has their part already, and refuse one of other sizes."""

import dataclasses
import functools
import pathlib
import sys

import coded_clips
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.configs import default_backbone, default_heads, default_vae, wan22_lora, wan22_side
from mirage_jax import weights
from mirage_jax.data import latents
from mirage_jax.errors import UserError
from mirage_jax.models import config as model_config
from mirage_jax.models import lpips, vae
from mirage_jax.models.heads import LatentHeadsConfig
from mirage_jax.training import perceptual, stages

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "world"))
import tiny_world


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
    weights.save(path, model, tiny_world.parameters(model))
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
    start = jax.jit(stage.init)(jax.random.key(0), stage.frozen, stage.start)
    assert start["out"]["kernel"].shape == (4, 3) and not np.asarray(start["out"]["kernel"]).any()


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
    stage = stages.make(again)
    start = jax.jit(stage.init)(jax.random.key(0), stage.frozen, stage.start)
    assert "encode_1_1" not in start and not np.asarray(start["out"]["kernel"]).any()


@pytest.mark.parametrize(("token", "seen"), [("still", "stills"), ("clip", "latents")])
def test_heads_learn_from_what_a_world_shows_them(model, tmp_path, token, seen):
    model = dataclasses.replace(model, segment=dataclasses.replace(model.segment, token=token))
    path = tmp_path / "model"
    params = tiny_world.random_parameters(model)
    weights.save(path, model, params)
    stage = stages.make(_config(default_heads, model, path))
    sample = coded_clips.sample(model, 5)
    keys = jax.random.split(jax.random.key(0), 1)

    @jax.jit
    def loss(batch):
        return stage.loss(params["heads"], stage.frozen, batch, keys)[0]

    def of(changed):
        clip = {name: sample[name] for name in latents.CELLS if name in sample}
        return float(loss({name: (value + (name == changed))[None] for name, value in clip.items()}))

    assert {name: of(name) != of(None) for name in ("latents", "stills")} == {
        name: name == seen for name in ("latents", "stills")
    }


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


def test_a_finished_model_gets_a_fresh_side_branch(tmp_path):
    whole = tiny_world.quick()
    config, path = coded_clips.config(whole, tmp_path, fresh=("side",))
    config.model.segment.control = ("readout", "visible")
    config.model.side.control_channels = whole.vae.latent_channels + 1
    stage = stages.make(config)
    held = weights.load(path)[1]
    assert set(stage.start) == {"lora"}
    jax.tree.map(np.testing.assert_array_equal, stage.frozen["dit"], held["dit"])
    moving = jax.jit(stage.init)(jax.random.key(0), stage.frozen, stage.start)
    assert not jax.tree.leaves(moving["side"]["output_hint"])[0].any()
    model, params = stage.finish(moving, stage.frozen, 0)
    assert model.segment.control == ("readout", "visible") and model.heads is not None
    assert set(params) == {"vae", "heads", "dit", "side", "lora"}


def test_errors_count_as_much_as_the_decoder_shows_of_them(tmp_path):
    plain, _ = coded_clips.config(tiny_world.quick(), tmp_path)
    weighted = plain.copy_and_resolve_references()
    weighted.channel_weights = "decoder"
    stages_made = [stages.make(one) for one in (plain, weighted)]
    assert "channel_weights" not in stages_made[0].frozen
    found = stages_made[1].frozen["channel_weights"]
    assert found.shape == (tiny_world.CHANNELS,) and found.mean() == pytest.approx(1.0, abs=1e-3)
    assert "channel_weights" not in stages_made[1].finish({}, stages_made[1].frozen, 0)[1]

    batch, keys = next(iter(stages_made[0].batches())), jax.random.split(jax.random.key(0), 4)
    params = stages_made[0].start
    loss_fns = [jax.jit(stage.loss) for stage in stages_made]
    losses = [float(fn(params, stage.frozen, batch, keys)[0]) for fn, stage in zip(loss_fns, stages_made, strict=True)]
    frozen = stages_made[1].frozen | {"channel_weights": jnp.ones(tiny_world.CHANNELS)}
    np.testing.assert_allclose(loss_fns[1](params, frozen, batch, keys)[0], losses[0], rtol=1e-5)
    assert abs(losses[1] / losses[0] - 1) > 0.01


def test_noise_levels_move_with_the_shift(tmp_path):
    config, _ = coded_clips.config(tiny_world.model(), tmp_path)
    batch, keys = next(iter(stages.make(config).batches())), jax.random.split(jax.random.key(0), 4)

    def loss(shift):
        config.shift = shift
        stage = stages.make(config)
        return float(jax.jit(stage.loss)(stage.start, stage.frozen, batch, keys)[0])

    # At these two, all levels are next to 1: what is predicted from noise alone. The third is next to the clean clip.
    from_noise = loss(1e6)
    assert from_noise == pytest.approx(loss(1e7), rel=1e-3)
    assert loss(1e-6) != pytest.approx(from_noise, rel=1e-2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channel_weights": "pixels"}, "channel_weights=pixels: expected one of uniform, decoder"),
        ({"shift": 0.0}, "shift=0.0: expected a positive number"),
    ],
)
def test_a_loss_that_does_not_exist_is_refused(tmp_path, change, message):
    config, _ = coded_clips.config(tiny_world.quick(), tmp_path, **change)
    with pytest.raises(UserError, match=message):
        stages.make(config)


def test_only_what_is_trained_may_be_fresh(tmp_path):
    config, _ = coded_clips.config(tiny_world.quick(), tmp_path, fresh=("dit",))
    with pytest.raises(UserError, match=r"fresh=\('dit',\): expected some of the parts that are trained: side, lora"):
        stages.make(config)


def test_a_data_set_that_lacks_what_the_memory_holds_is_refused(tmp_path, monkeypatch):
    config, _ = coded_clips.config(tiny_world.quick(), tmp_path)
    next(iter(stages.make(config).batches()))
    read = latents.Source.__getitem__

    def without(name, **changes):
        return lambda self, index: {k: v for k, v in read(self, index).items() if k != name} | changes

    monkeypatch.setattr(latents.Source, "__getitem__", without("stills"))
    with pytest.raises(UserError, match="coded for a model that remembers tokens of video, this one remembers stills"):
        stages.make(config).batches()
    monkeypatch.setattr(latents.Source, "__getitem__", without("", intrinsics=np.zeros((6, 3, 3))))
    with pytest.raises(UserError, match="coded by an older version, without cameras of all frames"):
        stages.make(config).batches()


def test_data_of_several_folders_is_one(tmp_path):
    model = tiny_world.quick()
    config, _ = coded_clips.config(model, tmp_path / "a", clips=4)
    other, _ = coded_clips.config(model, tmp_path / "b", clips=2)
    longer, _ = coded_clips.config(model, tmp_path / "c", frames=7)
    one, two, three = config.data, other.data, longer.data
    config.batch_size = 6

    def latents_of(folders):
        config.data = folders
        return np.asarray(next(iter(stages.make(config).batches()))["latents"])

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
    config.crop = 0
    stage = stages.make(config)
    start = stage.init(jax.random.key(0), stage.frozen, stage.start)
    assert set(start) == {"decoder"} and set(stage.frozen) == {"encoder"}
    frames = np.random.default_rng(0).integers(0, 255, (2, 5, 32, 32, 3), np.uint8)
    keys = jax.random.split(jax.random.key(1), 2)
    loss, _ = jax.jit(stage.loss)(start, stage.frozen, {"frames": frames}, keys)

    config.trains = "all"
    whole = stages.make(config)
    assert loss == jax.jit(whole.loss)(whole.start, {}, {"frames": frames}, keys)[0]

    trained = jax.tree.map(lambda x: x + 1.0, start)
    found, params = stage.finish(trained, stage.frozen, None)
    before, old = weights.load(folder, weights.parts_of(folder))
    assert found == before and set(params) == set(old) == {"vae", "heads"}
    jax.tree.map(np.testing.assert_array_equal, params["vae"]["decoder"], trained["decoder"])
    jax.tree.map(np.testing.assert_array_equal, params["vae"]["encoder"], old["vae"]["encoder"])
    jax.tree.map(np.testing.assert_array_equal, params["heads"], old["heads"])


def test_perceptual_term_is_lpips_of_some_frames_of_what_is_decoded(model, folder):
    config = _config(default_vae, model, folder)
    config.trains, config.crop, config.frames, config.perceptual_frames = "decoder", 0, 5, 5
    plain = stages.make(config)
    config.perceptual_weight = 0.25
    stage = stages.make(config)
    frames = np.random.default_rng(0).integers(0, 255, (1, 5, 48, 48, 3), np.uint8)
    keys = jax.random.split(jax.random.key(1), 1)
    without, parts = jax.jit(plain.loss)(plain.start, plain.frozen, {"frames": frames}, keys)

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def term(params):
        total, metrics = stage.loss(params, stage.frozen, {"frames": frames}, keys)
        return metrics["lpips"], (total, metrics)

    (_, (total, more)), slope = term(stage.start)
    assert "lpips" not in parts and more["lpips"] > 0.01
    np.testing.assert_allclose(total - without, 0.25 * more["lpips"], rtol=1e-3)

    @jax.jit
    def expected(params):
        crop_key, noise_key = jax.random.split(keys[0])
        flipped = jax.random.bernoulli(jax.random.split(crop_key)[1])
        shown = jnp.where(flipped, frames[0, :, :, ::-1], frames[0])
        params = {**params, "encoder": stage.frozen["encoder"]}
        mean, log_variance = vae.moments(model.vae, params, shown / jnp.float32(127.5) - 1)
        z = mean + jnp.exp(0.5 * log_variance) * jax.random.normal(noise_key, mean.shape)
        out = vae.VAE(model.vae).apply({"params": params}, z, method="decode")
        pair = 127.5 * (out + 1), shown.astype(jnp.float32)
        drawn = (perceptual.drawn_part(jax.random.fold_in(keys[0], 1), x, 5) for x in pair)
        return lpips.distance(lpips.load_parameters(), *drawn).mean()

    np.testing.assert_allclose(more["lpips"], expected(stage.start), rtol=1e-4)

    assert all(np.isfinite(x).all() for x in jax.tree.leaves(slope))
    size = optax.tree.norm(slope)
    downhill = jax.tree.map(lambda x, d: x - 1e-3 * d / size, stage.start, slope)
    assert term(downhill)[0][0] < more["lpips"]


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

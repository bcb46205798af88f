"""The stage of a generator whose prediction begins at its readout: lengths, the terms of its loss, its own output."""

import dataclasses
import functools
import pathlib
import sys

import coded_clips
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from experiments.configs import default_generator
from mirage_jax import weights
from mirage_jax.errors import UserError
from mirage_jax.models import config as model_config
from mirage_jax.training import perceptual, posed, stages
from mirage_jax.training.stages import generator

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "world"))
import tiny_world

FRAMES = 7


def small():
    """64x64 pixels, 16x16 cells, segments of 2 or 4 frames."""
    base = model_config.default()
    segment = dataclasses.replace(base.segment, latents=2, lengths=(2, 4))
    return dataclasses.replace(
        base,
        height=64,
        width=64,
        recipe="paper",  # which remembers no things, whose program takes long to compile
        vae=dataclasses.replace(base.vae, latent_channels=3, encoder_dim=4, decoder_dim=4, blocks=1),
        dit=dataclasses.replace(base.dit, dim=8, ffn_dim=8, heads=2, layers=1, in_channels=3, paint=4),
        side=dataclasses.replace(base.side, control_channels=segment.control_channels(3), refine=4),
        heads=None,
        segment=segment,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of a VAE alone, and clips that it coded."""
    path, model = tmp_path_factory.mktemp("coded"), small()
    coder = dataclasses.replace(model, dit=None, side=None)
    weights.save(path / "model", coder, tiny_world.random_parameters(coder))
    coded_clips.write(model, path / "data", frames=FRAMES, clips=3, pixels=True)
    return path


@pytest.fixture
def config(folder, monkeypatch):
    monkeypatch.setattr(perceptual, "distance", coded_clips.cheap_distance)
    config = default_generator.get_config()
    config.init_from, config.data = str(folder / "model"), str(folder / "data")
    config.model = ml_collections.ConfigDict(dataclasses.asdict(small()))
    config.cuts, config.perceptual_crop = ((2, 2), (4, 1)), 40
    return config


def first_batch(stage, length):
    """Of one clip, for segments of that length."""
    batch = {name: jnp.asarray(value[:1]) for name, value in next(iter(stage.batches())).items()}
    return batch | {"cut": jnp.zeros((1, length), jnp.uint8)}


def test_every_batch_is_of_one_length_drawn_by_the_seed(config):
    def lengths():
        batches = iter(stages.make(config).batches())
        return [next(batches)["cut"].shape for _ in range(12)]

    found = lengths()
    assert set(found) == {(2, 2), (2, 4)} and lengths() == found
    config.cuts = ((4, 1),)
    assert "cut" not in next(iter(stages.make(config).batches()))


def test_before_the_first_step_the_prediction_is_the_readout(config):
    model, stage = small(), stages.make(config)

    @jax.jit
    def found(batch, frozen):
        clip = posed.from_batch({name: value[0] for name, value in batch.items()})
        parts = {**frozen, **stage.init(jax.random.key(0), frozen, stage.start)}
        example = posed.make_training_example(jax.random.key(1), model, clip, jnp.asarray(3), posed.Augmentation())
        return example, generator.one_step(model, parts, example, jax.random.key(2), True)

    example, guess = found(first_batch(stage, 2), stage.frozen)
    shown = jnp.where(example.visible[..., None], example.readout, 0.0)
    assert 0.1 < float(example.visible[1:].mean()) <= 1.0
    np.testing.assert_array_equal(guess[1:], shown[1:])
    np.testing.assert_array_equal(guess[0], example.overlap)


def test_a_discriminator_is_trained_beside_the_generator_and_left_behind(config):
    config.adversarial_weight, config.own_output = 0.5, 1.0
    stage = stages.make(config)
    moving = jax.jit(lambda frozen: stage.init(jax.random.key(0), frozen, stage.start))(stage.frozen)
    assert moving["discriminator"]["conv0"]["kernel"].shape == (4, 4, 6, 32)
    keys = jax.random.split(jax.random.key(3), 1)
    gradient = jax.jit(lambda m, f, b: jax.value_and_grad(stage.loss, has_aux=True)(m, f, b, keys))
    (total, parts), slope = gradient(moving, stage.frozen, first_batch(stage, 2))
    wanted = parts["error"] + 0.4 * parts["lpips"] + 0.5 * parts["adversarial"] + parts["discriminator"]
    np.testing.assert_allclose(total, wanted, rtol=1e-5)
    for part in ("dit", "side", "discriminator"):
        assert sum(float(jnp.abs(x).sum()) for x in jax.tree.leaves(slope[part])) > 0
    model, params = stage.finish(moving, stage.frozen, None)
    assert set(params) == {"vae", "dit", "side"} and model.segment.lengths == (2, 4)


def test_to_the_discriminator_true_is_what_the_decoder_makes_of_true_latents(config, monkeypatch):
    """Else it would tell guess from truth by the decoder, at which the generator can do nothing."""
    config.adversarial_weight = 0.5
    stage = stages.make(config)
    clip = posed.from_batch({name: value[0] for name, value in first_batch(stage, 2).items()})
    judged = []
    monkeypatch.setattr(generator.adversarial, "losses", lambda _, shown, true: judged.append((shown, true)) or {})
    terms = generator.Terms(0.4, 1, 40, 0.5)
    parts = {**stage.frozen, "discriminator": None}
    guess = clip.latents[2:5]
    generator._seen_errors(small(), parts, jax.random.key(0), guess, clip, jnp.asarray(2), terms)
    np.testing.assert_array_equal(*judged[0])
    generator._seen_errors(small(), parts, jax.random.key(0), guess + 1, clip, jnp.asarray(2), terms)
    np.testing.assert_array_equal(judged[1][1], judged[0][1])
    assert not np.array_equal(*judged[1])


def test_of_what_the_memory_does_not_show_an_error_counts_less(config):
    stage, model = stages.make(config), small()
    clip = posed.from_batch({name: value[0] for name, value in first_batch(stage, 2).items()})
    parts = {**stage.frozen, **stage.init(jax.random.key(0), stage.frozen, stage.start)}
    example = posed.make_training_example(jax.random.key(1), model, clip, jnp.asarray(3), posed.Augmentation())

    def error(visible, weight):
        of = example.replace(visible=jnp.full_like(example.visible, visible))
        return generator.example_loss(model, parts, of, jax.random.key(2), True, unseen_weight=weight)[0]

    np.testing.assert_allclose(error(False, 0.2), 0.2 * error(False, 1.0), rtol=1e-5)
    np.testing.assert_array_equal(error(True, 0.2), error(True, 1.0))


def test_what_a_model_remembers_of_itself_is_what_it_makes(config):
    model, stage = small(), stages.make(config)
    augment = posed.Augmentation()
    clip = posed.from_batch({name: value[0] for name, value in first_batch(stage, 2).items()})

    @jax.jit
    def own(frozen, start):
        parts = {**frozen, **stage.init(jax.random.key(0), frozen, stage.start)}
        make = functools.partial(generator._with_own, model, parts, jax.random.key(5), clip, start, augment, True)
        keys = jax.random.split(jax.random.key(5))
        before = jnp.maximum(start - 2, 0)
        example = posed.make_training_example(keys[0], model, clip, before, augment)
        return (
            make("latent", None).latents,
            make("rgb", None).pixels.frames,
            generator.one_step(model, parts, example, keys[1], True),
        )

    latents, frames, made = own(stage.frozen, 4)
    np.testing.assert_array_equal(latents[3:5], made[1:])
    np.testing.assert_array_equal(
        jnp.delete(latents, np.array([3, 4]), axis=0), np.delete(clip.latents, [3, 4], axis=0)
    )
    assert bool((frames[3:5] != clip.pixels.frames[3:5]).any()) and bool((frames[:3] == clip.pixels.frames[:3]).all())
    # No segment ends so early.
    np.testing.assert_array_equal(own(stage.frozen, 1)[0], clip.latents)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"cuts": ((3, 1),)}, "makes segments of 2, 4 latent frames, found 3"),
        ({"cuts": ((2, 0),)}, "expected at least one example of each length"),
        ({"perceptual_crop": 42}, "perceptual_crop=42: expected a multiple of 4 up to 64"),
        ({"perceptual_crop": 20}, "perceptual_crop=20: the perceptual term needs pictures of at least 38 pixels"),
        ({"own_output": 1.5}, "own_output=1.5: expected 0 or more, and 0 to 1"),
        ({"unseen_weight": -0.5}, "unseen_weight=-0.5: expected 0 to 1"),
        ({"adversarial_weight": 1.0, "perceptual_weight": 0.0}, "adversarial_weight needs --config.perceptual_weight"),
    ],
)
def test_what_does_not_go_together_is_refused(config, change, sentence):
    config.update(change)
    with pytest.raises(UserError, match=sentence):
        stages.make(config)

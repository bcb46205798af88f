"""The perceptual term: what of the frames it sees, and what it adds to the generator's loss."""

import dataclasses
import pathlib
import sys

import coded_clips
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax.errors import UserError
from mirage_jax.models import lpips, vae
from mirage_jax.training import perceptual, posed, stages
from mirage_jax.training.stages import generator

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "world"))
import tiny_world

FRAMES, SIZE = 4, 40


def test_the_perceptual_term_sees_parts_that_begin_anywhere():
    video = np.arange(6 * 40 * 42).reshape(6, 40, 42, 1) * np.ones(3, int)
    corners, frames = set(), set()
    draw = jax.vmap(lambda key: perceptual.drawn_part(key, jnp.asarray(video), 2))
    for part in np.asarray(draw(jax.random.split(jax.random.key(0), 300))):
        assert part.shape == (2, 33, 35, 3)
        starts, inner = np.divmod(part[:, 0, 0, 0], 40 * 42)
        assert inner[0] == inner[1] and starts[0] != starts[1]
        row, column = divmod(int(inner[0]), 42)
        np.testing.assert_array_equal(part, video[starts, row : row + 33, column : column + 35])
        corners.add((row, column))
        frames.update(starts.tolist())
    assert frames == set(range(6)) and {row for row, _ in corners} == {column for _, column in corners} == set(range(8))


def test_the_perceptual_term_is_lpips_of_those_parts_and_can_be_descended():
    parameters, key = dict(lpips.load_parameters()), jax.random.key(2)
    rng = np.random.default_rng(0)
    truth, shown = (jnp.asarray(rng.uniform(-1, 1, (2, 38, 38, 3)), jnp.float32) for _ in range(2))
    term = jax.jit(jax.value_and_grad(lambda shown: perceptual.distance(key, parameters, shown, truth, 2)))
    found, slope = term(shown)
    seen = [127.5 * (perceptual.drawn_part(key, video, 2) + 1) for video in (shown, truth)]
    np.testing.assert_allclose(found, lpips.distance(parameters, *seen).mean(), rtol=1e-4)
    assert found > 0.01 and np.isfinite(slope).all()
    assert term(shown - 0.1 * slope / jnp.linalg.norm(slope))[0] < found


@pytest.fixture(scope="module")
def model():
    whole = tiny_world.quick()
    return dataclasses.replace(whole, height=SIZE, width=SIZE, dit=dataclasses.replace(whole.dit, patch=(1, 1, 1)))


@pytest.fixture(scope="module")
def coded_model(model, tmp_path_factory):
    return coded_clips.config(
        model, tmp_path_factory.mktemp("coded"), frames=FRAMES, clips=2, pixels=True, batch_size=2
    )[0]


@pytest.fixture
def config(coded_model):
    return coded_model.copy_and_resolve_references()


def test_the_generators_term_judges_what_is_decoded_of_its_guess(model, config, monkeypatch):
    """With a stand-in for LPIPS, which is quick to compile."""
    monkeypatch.setattr(perceptual, "distance", coded_clips.cheap_distance)
    config.perceptual_frames = 2
    plain = stages.make(config)
    config.perceptual_weight = 0.25
    stage = stages.make(config)
    assert "lpips" not in plain.frozen and "lpips" in stage.frozen
    batch = {k: np.asarray(v)[:1] for k, v in next(iter(stage.batches())).items()}
    keys = jax.random.split(jax.random.key(4), 1)

    time, count = model.vae.stride_time, model.segment.latents
    start_key, example_key, noise_key = jax.random.split(keys[0], 3)
    start = int(posed.random_start(start_key, model, FRAMES))
    augment = posed.Augmentation(**config.augmentation)
    truth = jnp.asarray(batch["frames"][0, start + 1 : start + 1 + count] / np.float32(127.5) - 1.0)

    def expected(parts, sample):
        clip = posed.from_batch(sample)
        example = posed.make_training_example(example_key, model, clip, jnp.asarray(start), augment)
        guess = generator.example_loss(model, parts, example, noise_key, True)[1]
        # The clip is so short that the past, of three latent frames, begins before it.
        past = clip.latents[jnp.maximum(start - 2 + jnp.arange(3), 0)]
        cache = vae.decode_stream(model.vae, parts["vae"], past)[1]
        shown = vae.decode_stream(model.vae, parts["vae"], guess[1:], cache)[0][time - 1 :: time]
        part_key = jax.random.split(jax.random.fold_in(keys[0], 1), 3)[1]
        return perceptual.distance(part_key, parts["lpips"], shown, truth, 2), guess, example.overlap

    @jax.jit
    def found(moving, frozen, batch):
        def term(moving):
            total, metrics = stage.loss(moving, frozen, batch, keys)
            return metrics["lpips"], (total, metrics)

        slope, (total, more) = jax.grad(term, has_aux=True)(moving)
        sample = {name: value[0] for name, value in batch.items()}
        without = plain.loss(moving, frozen, batch, keys)
        return slope, total, more, *without, *expected({**frozen, **moving}, sample)

    slope, total, more, without, few, distance, guess, overlap = found(stage.start, stage.frozen, batch)
    assert set(few) == {"visible"} and set(more) == {"visible", "lpips", "error"}
    np.testing.assert_allclose(more["error"], without, rtol=1e-5)
    np.testing.assert_allclose(total, without + 0.25 * more["lpips"], rtol=1e-5)
    np.testing.assert_array_equal(guess[0], overlap)
    assert len(guess) == 1 + count == 3
    np.testing.assert_allclose(more["lpips"], distance, rtol=1e-4)
    assert distance > 0.01

    sizes = {part: sum(float(jnp.abs(x).sum()) for x in jax.tree.leaves(tree)) for part, tree in slope.items()}
    assert set(sizes) == {"side", "lora"} and all(np.isfinite(x) and x > 0 for x in sizes.values())


def test_every_run_of_latent_frames_is_judged_at_its_own_frames_after_its_own_past(model, monkeypatch):
    """With latent frames, the frames they end at, and what the decoder shows of them all named by their number."""
    count, start, kinds = 3, 4, set()
    model = dataclasses.replace(model, segment=dataclasses.replace(model.segment, latents=count))
    time = model.vae.stride_time
    names = jnp.arange(8.0)
    sample = coded_clips.sample(model, FRAMES, pixels=True)
    clip = posed.from_batch({name: jnp.asarray(value) for name, value in sample.items() if not isinstance(value, str)})
    clip = dataclasses.replace(
        clip,
        latents=jnp.broadcast_to(names[:, None, None, None], (8, 2, 2, 1)),
        pixels=dataclasses.replace(
            clip.pixels, frames=jnp.broadcast_to(100 + names[:, None, None, None], (8, SIZE, SIZE, 3))
        ),
    )
    guess = 100 + clip.latents[start : start + 1 + count]

    def decode_stream(_coder, _params, z, cache=None):
        """Only the last video frame of a latent frame shows its name; the cache is the past."""
        named = z[:, 0, 0, 0]
        video = jnp.concatenate([jnp.zeros((len(z), time - 1)), named[:, None]], axis=1).reshape(-1)
        if cache is not None:
            kinds.add((*np.asarray(cache).astype(int).tolist(), *np.asarray(named).astype(int).tolist()))
        return jnp.broadcast_to(video[:, None, None, None], (len(video), SIZE, SIZE, 3)), named

    def distance(_key, _parameters, shown, true, judged):
        np.testing.assert_array_equal(shown, true)
        assert len(shown) == judged == 2
        return 0.0

    monkeypatch.setattr(generator.vae, "decode_stream", decode_stream)
    monkeypatch.setattr(generator.perceptual, "distance", distance)
    for seed in range(20):
        parts, terms = {"vae": 0, "lpips": 0}, generator.Terms(judged=2)
        generator._seen_errors(model, parts, jax.random.key(seed), guess, clip, jnp.asarray(start), terms)
    assert kinds == {(2, 3, 4, 105, 106), (3, 4, 5, 106, 107)}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"perceptual_weight": -1.0}, "perceptual_weight=-1.0: expected 0 or more"),
        ({"perceptual_frames": 3}, "perceptual_frames=3: expected 1 to 2, the frames of a segment"),
    ],
)
def test_a_term_that_cannot_be_is_refused(config, change, sentence):
    config.update({"perceptual_weight": 0.1} | change)
    with pytest.raises(UserError, match=sentence):
        stages.make(config)


def test_a_term_needs_pixels(model, config, tmp_path):
    coded_clips.write(model, tmp_path / "data", frames=FRAMES, clips=2)
    config.update({"perceptual_weight": 0.1, "data": f"{tmp_path}/data"})
    with pytest.raises(UserError, match="was coded without --pixels, which an RGB memory and the perceptual term need"):
        stages.make(config).batches()


def test_pictures_too_small_for_the_term_are_refused(tmp_path):
    config = coded_clips.config(tiny_world.quick(), tmp_path, frames=FRAMES, clips=1, perceptual_weight=0.1)[0]
    with pytest.raises(UserError, match=r"model\.height=32: the perceptual term needs pictures of at least 38 pixels"):
        stages.make(config)

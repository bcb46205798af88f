"""A whole sampled segment against its twin in numpy, which knows nothing of this code (`segment_twin.py`)."""

import dataclasses
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import segment_twin
import tiny_world

from mirage_jax import world
from mirage_jax.geometry import Camera, trajectory
from mirage_jax.memory import latent
from mirage_jax.models import vae
from mirage_jax.models.config import LoRAConfig
from mirage_jax.world import reference
from mirage_jax.world.recipe import SAMPLINGS

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "weights"))
from tiny_wan import tiny_wan

HEIGHT, WIDTH, STEPS, GIVEN = 96, 64, 8, 5
NEW, PRECEDING, SLOTS = 3, 2, 4
"""So many new latent frames that the preceding ones were made by the segment before; more slots than references."""


def _model():
    """6x4 cells in 3x2 tokens."""
    wan = tiny_wan()
    return dataclasses.replace(
        wan,
        height=HEIGHT,
        width=WIDTH,
        depth=None,
        text=None,
        dit=dataclasses.replace(wan.dit, dtype="float32"),
        lora=LoRAConfig(2, 3.0, cross_attention=True),
        segment=dataclasses.replace(wan.segment, latents=NEW, preceding=PRECEDING, reference=SLOTS),
    )


def _config():
    model = _model()
    capacity = world.full_capacity(model, "latent", 3)
    recipe = dataclasses.replace(world.RELEASE, steps=STEPS)
    return world.WorldConfig(model=model, capacity=capacity, bank=16, recipe=recipe, depth_source="given")


@pytest.fixture(scope="module")
def made():
    """Two segments after a start from several frames: the config, parameters, path, text, states and outputs."""
    config, rng = _config(), np.random.default_rng(0)
    model, count = config.model, config.model.segment_frames
    params = tiny_world.parameters(model)
    matrix = jnp.array([[50.0, 0, WIDTH / 2], [0, 50.0, HEIGHT / 2], [0, 0, 1]])
    start = Camera(intrinsics=matrix, cam2world=jnp.eye(4), height=HEIGHT, width=WIDTH)
    path = jax.tree.map(jnp.asarray, trajectory.parse("yaw 60", start=start, frames=GIVEN + 2 * count))
    depth = jnp.asarray(rng.uniform(3, 4, (len(path), HEIGHT, WIDTH)), jnp.float32)
    frames = rng.integers(0, 256, (GIVEN, HEIGHT, WIDTH, 3), np.uint8)
    text = jax.random.normal(jax.random.key(3), (model.dit.text_tokens, model.dit.text_dim))
    states = [world.observe(config, params, frames, depth[:GIVEN], path[:GIVEN], jax.random.key(1))]
    outputs = []
    for begin in (GIVEN, GIVEN + count):
        part = slice(begin, begin + count)
        known = world.KnownGeometry(depth[part])
        state, output = world.segment(config, params, states[-1], path[part], text, known)
        states.append(state)
        outputs.append(output)
    return config, params, path, text, states, outputs


def _merged(params, alpha):
    """The DiT with its LoRA, in numpy."""

    def add(tree, update):
        if "A" in update:
            return tree + alpha / update["A"].shape[-1] * np.float64(update["A"]) @ np.float64(update["B"])
        return {name: add(value, update[name]) if name in update else value for name, value in tree.items()}

    return add(params["dit"], params["lora"])


def _of_second_segment(made, preceding="as_made"):
    """What the twin is given for the second segment, by name."""
    config, params, path, text, states, outputs = made
    model, state, time = config.model, states[1], config.model.vae.stride_time
    cells = path.resized(*config.grid)
    new = cells[GIVEN + model.segment_frames + time - 1 :: time]

    video = jnp.ones((1 + time * (NEW + PRECEDING), HEIGHT, WIDTH, 3))
    target = jax.tree.map(lambda *x: jnp.concatenate(x), state.context_cameras[-1:], new)
    shown = latent.read(state.memory, target).features
    if preceding == "as_made":  # what the memory showed before these frames were in it
        before = outputs[0].readout.features[NEW - 1 - PRECEDING : NEW - 1]
    else:
        before = latent.read(state.memory, state.context_cameras[:-1]).features
    readout = jnp.concatenate([shown, before])

    # References: not those that are given as context already; best first.
    score = np.array(reference.overlap(state.bank, new, outputs[1].readout.depth))
    score[int(state.bank.count) - PRECEDING - 1 :] = -1
    best = [i for i in np.argsort(-score) if score[i] >= reference.MIN_OVERLAP][:SLOTS]
    return {
        "params": {"dit": _merged(params, model.lora.alpha), "side": params["side"]},
        "noise": jax.random.normal(jax.random.split(state.key)[1], (1 + NEW, *state.context.shape[1:])),
        "first": state.context[-1],
        "preceding": state.context[:-1],
        "references": state.bank.latents[np.array(best)],
        "control": jnp.concatenate([readout, vae.encode(model.vae, params["vae"], video)], axis=-1),
        "text": text,
    }


def _sampled(given):
    return segment_twin.sample(**given, heads=_model().dit.heads, steps=STEPS)


@pytest.mark.parametrize("preceding", ["as_made", "again"])
def test_a_sampled_segment_is_what_the_twin_says(made, preceding):
    config, params, path, text, states, outputs = made
    latents = outputs[1].latents
    if preceding == "again":
        config = dataclasses.replace(config, recipe=dataclasses.replace(config.recipe, preceding=preceding))
        state = states[1].replace(context_readout=None)
        known = world.KnownGeometry(jnp.full((config.model.segment_frames, HEIGHT, WIDTH), 3.0))
        latents = world.segment(config, params, state, path[-config.model.segment_frames :], text, known)[1].latents
    given = _of_second_segment(made, preceding)
    assert 0 < len(given["references"]) < SLOTS, "fewer references than slots"
    expected = _sampled(given)
    np.testing.assert_array_equal(expected[0], np.asarray(given["first"], np.float64))
    assert np.abs(expected[1:]).max() > 0.5
    np.testing.assert_allclose(latents, expected[1:], rtol=1e-5, atol=1e-5)


def test_a_guided_segment_of_few_steps_is_what_the_twin_says(made):
    """Guidance and the steps of a distilled model at once; each alone changes the result."""
    config, params, path, text, states, _ = made
    recipe = dataclasses.replace(config.recipe, **SAMPLINGS["turbo"] | {"guidance": 3.0})
    away = jax.random.normal(jax.random.key(5), text.shape)
    known = world.KnownGeometry(jnp.full((config.model.segment_frames, HEIGHT, WIDTH), 3.0))
    config = dataclasses.replace(config, recipe=recipe)
    cameras = path[-config.model.segment_frames :]
    latents = world.segment(config, params, states[1], cameras, jnp.stack([text, away]), known)[1].latents
    given = _of_second_segment(made)
    keys = jax.random.split(jax.random.fold_in(jax.random.split(states[1].key)[1], 1), 4)
    fresh = jax.vmap(lambda key: jax.random.normal(key, given["noise"].shape))(keys)
    few = {"heads": config.model.dit.heads, "steps": 4, "levels": [1, 0.9375, 5 / 6, 0.625], "fresh": fresh}
    expected = segment_twin.sample(**given, **few, negative=away, scale=3.0)
    np.testing.assert_allclose(latents, expected[1:], rtol=2e-5, atol=2e-5)
    assert np.abs(segment_twin.sample(**given, **few) - expected).max() > 0.1


def _other_grid(monkeypatch, given):
    """That of the diffusers library."""

    def grid(steps):
        even = np.linspace(1, 1 / 1000, steps + 1)[:-1]
        sigmas = np.minimum(5 * even / (1 + 4 * even), 1 - 1e-6)
        return np.append(sigmas, 0.0), np.trunc(1000 * sigmas)

    monkeypatch.setattr(segment_twin, "grid", grid)
    return given


def _first_slots(monkeypatch, given):
    monkeypatch.setattr(segment_twin, "reference_times", lambda count: np.arange(-SLOTS, count - SLOTS))
    return given


def _worst_first(_, given):
    return given | {"references": given["references"][::-1]}


def _ones_repeated(_, given):
    control, channels = given["control"], given["noise"].shape[-1]
    return given | {"control": control.at[1 + NEW :, ..., channels:].set(control[NEW, ..., channels:])}


@pytest.mark.parametrize("fault", [_other_grid, _first_slots, _worst_first, _ones_repeated])
def test_the_twin_tells_faults_that_are_easily_made(made, monkeypatch, fault):
    given = _of_second_segment(made)
    right = _sampled(given)
    assert np.abs(_sampled(fault(monkeypatch, given)) - right).max() > 1e-3


def test_the_twin_tells_what_the_memory_showed_before_from_what_it_shows_now(made):
    before, now = (_sampled(_of_second_segment(made, preceding)) for preceding in ("as_made", "again"))
    assert np.abs(before - now).max() > 1e-3

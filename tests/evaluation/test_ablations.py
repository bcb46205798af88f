"""Ablations: each changes what it says, and nothing else."""

import dataclasses
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sphere import SIZE, turning

from mirage_jax import world
from mirage_jax.errors import UserError
from mirage_jax.evaluation import ablations, methods
from mirage_jax.evaluation.methods import Models
from mirage_jax.models import vae
from mirage_jax.models.side_branch import SideBranch
from mirage_jax.world import recipe

sys.path.append(str(Path(__file__).parents[1] / "world"))
import tiny_world

CELLS = 64
TABLE = ablations.TABLE


@pytest.fixture(scope="module")
def model():
    """All of a segment is written."""
    with pytest.MonkeyPatch.context() as known:
        known.setitem(recipe.RECIPES, "tiny", tiny_world.RECIPE)
        yield dataclasses.replace(tiny_world.quick(), lora=None, recipe="tiny")


@pytest.fixture(scope="module")
def params(model):
    params = tiny_world.random_parameters(model)
    params["heads"]["out"]["bias"] = np.array([7.0, 5.0, -5.0], np.float32)  # keeps cells, 1000 m away
    return params


@pytest.fixture(scope="module")
def clip():
    return turning(np.linspace(0, 60, 5))


@pytest.fixture
def memories(monkeypatch):
    """Memories that rollouts end with, in order."""
    held, run = [], world.rollout

    def rollout(*arguments, **options):
        state, output = run(*arguments, **options)
        held.append(state.memory)
        return state, output

    monkeypatch.setattr(methods.world, "rollout", rollout)
    return held


def _radii(memory):
    return np.linalg.norm(np.asarray(memory.points)[: int(memory.size), :3], axis=1)


def test_depth_is_written_as_the_variant_says(model, params, clip, memories):
    """On a sphere of 5 m, with heads that know nothing: they are 1000 m off."""
    names = ("noised_depth", "one_frame")
    models = Models(model, params)
    made = methods.generate(models, clip, observed=1, methods=names, true_depth=True, seed=0)
    assert tuple(made) == names and all(frames.shape == (4, SIZE, SIZE, 3) for frames in made.values())
    noised, one = memories
    assert int(noised.size) == 3 * CELLS and int(one.size) == CELLS
    np.testing.assert_allclose(_radii(one), 5.0, rtol=0.01)
    assert 0.02 < np.abs(np.log(_radii(noised) / 5.0)).mean() < 0.3


def test_a_restarted_decoder_changes_frames_and_what_is_remembered_of_them_alone(model, params, clip):
    cameras = methods.camera_of(clip)
    config = world.WorldConfig(model=model, capacity=world.full_capacity(model, "latent", 2), bank=4)
    path = cameras[1:]
    blind = {**params["heads"]["out"], "kernel": np.zeros_like(params["heads"]["out"]["kernel"])}
    params = {**params, "heads": {**params["heads"], "out": blind}}  # or other frames would have other depth
    state = world.init(config, params, clip.frames[0], None, cameras[0], jax.random.key(0))
    state, _ = world.segment(config, params, state, path)
    carried, frames = world.segment(config, params, state, path)
    anew, again = world.segment(config, params, ablations.restarted(model, params, state), path)
    assert (anew.memory.features != carried.memory.features).any(), "stills of other frames"
    same = [memory.replace(features=0) for memory in (anew.memory, carried.memory)]
    jax.tree.map(np.testing.assert_array_equal, *same)
    jax.tree.map(np.testing.assert_array_equal, anew.context, carried.context)
    assert (frames.frames != again.frames).any()
    alone = vae.decode(model.vae, params["vae"], jnp.concatenate([state.context[-1:], again.latents]))[1:]
    np.testing.assert_allclose(methods.to_frames(alone).astype(int), np.asarray(again.frames).astype(int), atol=1)


@pytest.fixture(scope="module")
def side():
    """A model whose side branch reads 2x2 cells at once, its random weights, its function of weights and control."""
    model = tiny_world.model()
    model = dataclasses.replace(model, dit=dataclasses.replace(model.dit, patch=(1, 2, 2)))
    module = SideBranch(model.dit, model.side)
    tokens, inner = jnp.zeros((2, 4, model.dit.dim)), jnp.zeros((2, 6, model.dit.dim))
    others = (tokens, inner, (jnp.ones((8, 4)), jnp.zeros((8, 4))), None, None)
    control = jnp.zeros((2, 4, 4, model.side.control_channels))
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(module.init, jax.random.key(0), control, *others)["params"]
    weights = jax.tree.map(lambda x: 0.3 * random.normal(size=x.shape).astype(np.float32), shapes)
    return model, weights, jax.jit(lambda weights, control: module.apply({"params": weights}, control, *others))


@pytest.mark.parametrize("channel", ["offset", "scale", "between"])
def test_a_silent_channel_is_a_channel_of_zeros(params, side, channel):
    model, weights, apply = side
    control = np.random.default_rng(1).normal(size=(2, 4, 4, model.side.control_channels)).astype(np.float32)
    silent = control.copy()
    parts = model.segment.control
    sizes = model.segment.control_widths(model.vae.latent_channels)
    first = sum(sizes[: parts.index(channel)])
    silent[..., first : first + sizes[parts.index(channel)]] = 0
    changed = TABLE[f"no_{channel}"].changed(model, {**params, "side": weights})
    assert changed["dit"] is params["dit"]
    expected, full = apply(weights, silent), apply(weights, control)
    jax.tree.map(np.testing.assert_array_equal, apply(changed["side"], control), expected)
    assert not np.allclose(full.output, expected.output)


def test_configs_differ_in_what_is_named_only(model, params, clip):
    assert TABLE["nearest"].recipe == {"footprint": 1}
    assert TABLE["reencode"].recipe == {"overlap": "reencode"}
    assert TABLE["clip_token"].recipe == {"token": "clip"}
    silenced = {name for name in TABLE if TABLE[name].without}
    assert silenced == {"no_offset", "no_scale", "no_between"}
    for name in TABLE.keys() - silenced:
        assert TABLE[name].changed(model, params) is params
        assert len(TABLE[name].recipe) <= 1, "one field is changed"
    for name in TABLE.keys() - {"true_depth", "noised_depth", "one_frame"}:
        assert TABLE[name].generated(model, clip, 1, 0) is None
    clip = dataclasses.replace(clip, depth=clip.depth * np.arange(1, 6, dtype=np.float32)[:, None, None])
    given = TABLE["true_depth"].generated(model, clip, 1, 0)
    assert given.keep is None and np.array_equal(given.depth, clip.depth[None, 1:])


def test_observed_frames_are_given_as_the_variant_says(clip):
    clip = dataclasses.replace(clip, dynamic=np.ones_like(clip.dynamic))
    for name, variant in TABLE.items():
        depth, dynamic = variant.observed(clip, 5, True, 0)
        assert dynamic.all() != (name == "no_keep")
        changed = name in ("head_depth", "noised_depth", "one_frame")
        assert (depth is clip.depth or np.array_equal(depth, clip.depth[:5])) != changed, name
        guessed, masks = variant.observed(clip, 5, False, 0)
        assert masks is None and (guessed is not None) == (name in ("true_depth", "noised_depth"))
    depth, _ = TABLE["one_frame"].observed(clip, 5, True, 0)
    assert (depth[0] == clip.depth[0]).all() and not depth[1:].any()


def test_noise_is_seeded_and_of_its_size(clip):
    depth = [ablations._noised(clip, seed) for seed in (0, 0, 1)]
    assert np.array_equal(depth[0], depth[1]) and not np.array_equal(depth[0], depth[2])
    many = dataclasses.replace(clip, depth=np.ones((400, 32, 32), np.float32))
    noise = np.log(ablations._noised(dataclasses.replace(many, frames=np.empty(400)), 0))
    of_frames = noise.mean((1, 2))
    assert 0.09 < (noise - of_frames[:, None, None]).std() < 0.11 and 0.09 < of_frames.std() < 0.12
    assert np.abs(np.diff(noise, axis=2)).mean() < 0.02, "smooth"


def test_variants_that_change_nothing_are_left_out_and_impossible_ones_named(model, params, clip):
    assert [name for name in TABLE if not TABLE[name].applies(True)] == ["write_all", "no_bend", "true_depth"]
    assert {name for name in TABLE if not TABLE[name].applies(False)} == {"head_depth"}
    generate = lambda model, *names: methods.generate(  # noqa: E731
        Models(model, params), clip, observed=1, methods=names, true_depth=False, seed=0
    )
    assert generate(model, "head_depth") == {}
    layout = dataclasses.replace(model.segment, control=("readout", "visible"))
    bare = dataclasses.replace(model, heads=None, segment=layout, recipe="release")
    messages = {"no_offset": "control channel 'offset'", "no_keep": "no keep head", "restart": "overlap 'reencode'"}
    for name, message in messages.items():
        with pytest.raises(UserError, match=message):
            generate(bare, name)
        ablations.check(name, model)


def test_all_methods_take_the_steps_that_the_model_under_test_takes(model, params, clip, monkeypatch):
    taken = []

    def rollout(config, *_, **__):
        taken.append(config.recipe.steps)
        return None, types.SimpleNamespace(frames=clip.frames[1:])

    monkeypatch.setattr(methods.world, "observe", lambda *_: types.SimpleNamespace(decoder=None))
    monkeypatch.setattr(methods.world, "rollout", rollout)
    monkeypatch.setattr(methods.sound, "check_output", lambda *_: None)
    monkeypatch.setitem(recipe.RECIPES, "longer", dataclasses.replace(tiny_world.RECIPE, name="longer", steps=3))
    models = Models(model, params, {"again": (dataclasses.replace(model, recipe="longer"), params)})
    asked = {"observed": 1, "methods": ("latent", "again"), "true_depth": False, "seed": 0}
    made = methods.generate(models, clip, **asked)
    np.testing.assert_array_equal(made["again"], clip.frames[1:])
    methods.generate(models, clip, steps=5, **asked)
    assert taken == [2, 2, 5, 5]


@pytest.mark.parametrize("name", ["latent", "oracle", "restart"])
def test_frames_that_are_no_video_stop_the_run(model, params, clip, monkeypatch, name):
    scale = world.Diagnostics(*[np.ones(1, np.float32)] * len(dataclasses.fields(world.Diagnostics)))
    values = {field.name: None for field in dataclasses.fields(world.SegmentOutput)}
    values |= {"latents": np.full((2, 4, 4, 5), np.nan, np.float32), "frames": clip.frames[1:], "diagnostics": scale}
    bad = world.SegmentOutput(**values)
    monkeypatch.setattr(methods.world, "observe", lambda *_: types.SimpleNamespace(decoder=None))
    monkeypatch.setattr(methods.world, "segment", lambda config, params, state, cameras: (state, bad))
    monkeypatch.setattr(methods.world, "rollout", lambda *_, **__: (None, bad))
    monkeypatch.setattr(methods, "_true_memory", lambda *_: lambda state, _: state)
    monkeypatch.setattr(methods.ablations, "restarted", lambda model, params, state: state)
    asked = {"observed": 1, "methods": (name,), "true_depth": False, "seed": 0}
    with pytest.raises(UserError, match=rf"method {name}: its latents hold NaN"):
        methods.generate(Models(model, params), clip, **asked)

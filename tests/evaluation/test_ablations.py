"""Ablations: each changes what it says, and nothing else."""

import dataclasses
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from sphere import SIZE, turning

from experiments.evaluation import ablations, methods
from experiments.evaluation.methods import Models
from mirage_jax import world
from mirage_jax.errors import UserError
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


def test_configs_differ_in_what_is_named_only(model, clip):
    assert TABLE["nearest"].recipe == {"footprint": 1}
    assert TABLE["reencode"].recipe == {"overlap": "reencode"}
    assert TABLE["no_things"].recipe == {"entities": 0}
    assert all(len(TABLE[name].recipe) <= 1 for name in TABLE.keys() - {"paper"}), "one field is changed"
    paper = {name: getattr(recipe.PAPER, name) for name in TABLE["paper"].recipe}
    assert TABLE["paper"].recipe == paper
    assert [name for name in TABLE if TABLE[name].changed(model) != model] == ["no_references"]
    assert TABLE["no_references"].changed(model).segment.reference == 0
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
    assert [name for name in TABLE if not TABLE[name].applies(True)] == [
        "write_all",
        "write_newest",
        "write_mean",
        "no_bend",
        "true_depth",
    ]
    assert {name for name in TABLE if not TABLE[name].applies(False)} == {"head_depth"}
    generate = lambda model, *names: methods.generate(  # noqa: E731
        Models(model, params), clip, observed=1, methods=names, true_depth=False, seed=0
    )
    assert generate(model, "head_depth") == {}
    bare = dataclasses.replace(model, heads=None, recipe="release")
    whole = dataclasses.replace(model, recipe="default")
    for name, message in {"no_keep": "no keep head", "no_things": "no memory of things that move"}.items():
        with pytest.raises(UserError, match=message):
            generate(bare, name)
        ablations.check(name, whole)


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


@pytest.mark.parametrize("name", ["latent", "oracle"])
def test_frames_that_are_no_video_stop_the_run(model, params, clip, monkeypatch, name):
    scale = world.Diagnostics(*[np.ones(1, np.float32)] * len(dataclasses.fields(world.Diagnostics)))
    values = {field.name: None for field in dataclasses.fields(world.SegmentOutput)}
    values |= {"latents": np.full((2, 4, 4, 5), np.nan, np.float32), "frames": clip.frames[1:], "diagnostics": scale}
    bad = world.SegmentOutput(**values)
    monkeypatch.setattr(methods.world, "observe", lambda *_: types.SimpleNamespace(decoder=None))
    monkeypatch.setattr(methods.world, "segment", lambda config, params, state, cameras: (state, bad))
    monkeypatch.setattr(methods.world, "rollout", lambda *_, **__: (None, bad))
    monkeypatch.setattr(methods, "_true_memory", lambda *_: lambda state, _: state)
    asked = {"observed": 1, "methods": (name,), "true_depth": False, "seed": 0}
    with pytest.raises(UserError, match=rf"method {name}: its latents hold NaN"):
        methods.generate(Models(model, params), clip, **asked)

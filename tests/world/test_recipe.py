"""Recipes: each a value with a name; files of the first version are read as one of them."""

import dataclasses
import json

import pytest

from mirage_jax import world
from mirage_jax.errors import UserError
from mirage_jax.models import config as model_config
from mirage_jax.world import recipe


def test_every_model_that_is_known_names_a_recipe():
    for make in model_config.PRESETS.values():
        assert recipe.of(make()).name == make().recipe
    with pytest.raises(UserError, match="recipe must be one of paper, release, default, found 'mine'"):
        recipe.of(dataclasses.replace(model_config.default(), recipe="mine"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("grid", "karras"),
        ("overlap", "sometimes"),
        ("merge", "some"),
        ("preceding", "never"),
        ("alignment", "some"),
        ("guidance", -1.0),
        ("step_cache", -0.1),
        ("step_cache", float("nan")),
        ("guidance", float("nan")),
        ("steps", 0),
        ("steps", 1001),
        ("footprint", 2),
    ],
)
def test_what_a_recipe_cannot_be_is_said(field, value):
    with pytest.raises(UserError, match=f"recipe 'paper': {field} must be .*found {value!r}"):
        dataclasses.replace(world.PAPER, **{field: value})


def test_published_samplings_are_fields_of_any_recipe():
    for base in world.RECIPES.values():
        for fields in recipe.SAMPLINGS.values():
            assert dataclasses.replace(base, **fields).held() == base.held()
    for fields in ({"steps": 3}, recipe.SAMPLINGS["turbo"]):
        with pytest.raises(UserError, match="step_cache needs at least 4 steps of one path to the end"):
            dataclasses.replace(world.RELEASE, step_cache=0.06, **fields)
    with pytest.raises(UserError, match="grid 'turbo' has 4 steps, found 20"):
        dataclasses.replace(world.RELEASE, grid="turbo")
    with pytest.raises(UserError, match=r"guidance 5: .* the model 'default' reads no text"):
        world.WorldConfig(
            model=model_config.default(), capacity=10**6, recipe=dataclasses.replace(world.DEFAULT, guidance=5.0)
        )


@pytest.mark.parametrize("change", [{"steps": None}, {"steps": 1.5}, {"steps": 0}, {"mood": "calm"}])
def test_fields_from_a_file_are_a_recipe_or_one_sentence(change):
    values = dataclasses.asdict(world.PAPER)
    assert recipe.from_values(values, "a.world") == world.PAPER
    with pytest.raises(UserError, match=next(iter(change))):
        recipe.from_values(values | change, "a.world")


def test_files_of_the_first_version_are_read():
    model = model_config.wan22_ti2v_5b()
    values = json.loads(model.to_json())
    settings = {"footprint": 1, "steps": 20, "overlap": "reencode", "token": "clip", "write": "all"}
    first = {**values, "segment": {**values["segment"], **settings}, "side": {**values["side"], "output_hint": False}}
    del first["recipe"]
    assert model_config.from_json(json.dumps(first), "model.json") == model
    first["segment"]["footprint"] = 7
    with pytest.raises(UserError, match=r"model\.json: not a model config of .*: unknown field segment\.footprint"):
        model_config.from_json(json.dumps(first), "model.json")
    first["segment"]["footprint"], first["side"]["output_hint"] = 1, True
    with pytest.raises(UserError, match=r"unknown field side\.output_hint"):
        model_config.from_json(json.dumps(first), "model.json")

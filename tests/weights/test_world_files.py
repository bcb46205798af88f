"""World files: every bit is guarded, and a world belongs to the weights that made it."""

import dataclasses
import json
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from mirage_jax.errors import UserError
from mirage_jax.models import config as model_config
from mirage_jax.weights import world_files
from mirage_jax.world import recipe
from mirage_jax.world.recipe import DEFAULT, Recipe


@struct.dataclass
class State:
    """A little of everything that a world holds."""

    context: jax.Array
    features: jax.Array
    key: jax.Array
    size: jax.Array


@dataclasses.dataclass(frozen=True)
class Config:
    model: model_config.ModelConfig
    memory: str = "latent"
    capacity: int = 50
    bank: int = 4
    recipe: Recipe = DEFAULT


CONFIG = Config(model_config.default())


def a_state():
    rng = np.random.default_rng(0)
    return State(
        context=jnp.asarray(rng.normal(size=(2, 4, 4, 3)), jnp.float32),
        features=jnp.asarray(rng.normal(size=(50, 3)), jnp.bfloat16),
        key=jax.random.key(7),
        size=jnp.int32(3),
    )


@pytest.fixture
def saved(tmp_path):
    world_files.save(tmp_path / "a.world", CONFIG, a_state(), "1234")
    return tmp_path / "a.world"


def test_a_world_goes_on_in_segments_of_another_length(tmp_path):
    model = model_config.default()
    world_files.save(tmp_path / "a.world", Config(model.with_segments_of(16)), a_state(), "1234")
    read = world_files.read(tmp_path / "a.world")
    np.testing.assert_array_equal(read.restored(Config(model.with_segments_of(4)), a_state(), "1234").size, 3)
    with pytest.raises(UserError, match=r"made by another model than 'default': segment\.preceding is 1, expected 2"):
        other = dataclasses.replace(model, segment=dataclasses.replace(model.segment, preceding=2))
        read.restored(Config(other), a_state(), "1234")
    with pytest.raises(UserError, match="makes segments of 4, 8, 16 latent frames, found 5"):
        model.with_segments_of(5)


def test_a_world_comes_back_to_the_bit(saved):
    read = world_files.read(saved)
    assert read.sizes == {"memory": "latent", "capacity": 50, "bank": 4} and read.weights == "1234"
    back, was = read.restored(CONFIG, a_state(), "1234"), a_state()
    assert back.features.dtype == jnp.bfloat16
    for name in ("context", "features", "size"):
        np.testing.assert_array_equal(np.asarray(getattr(back, name)), np.asarray(getattr(was, name)))
    assert jax.random.key_data(back.key).tolist() == jax.random.key_data(was.key).tolist()


def test_it_belongs_to_its_weights_model_and_sizes(saved):
    read = world_files.read(saved)
    with pytest.raises(UserError, match="made by weights 1234, this run has 5678"):
        read.restored(CONFIG, a_state(), "5678")
    with pytest.raises(UserError, match="its world has capacity 50, this run has 60"):
        read.restored(dataclasses.replace(CONFIG, capacity=60), a_state(), "1234")
    other = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, fps=7))
    with pytest.raises(UserError, match="made by another model"):
        read.restored(other, a_state(), "1234")


def test_it_belongs_to_a_recipe_by_which_it_means_the_same(saved):
    read = world_files.read(saved)
    sampled = dataclasses.replace(DEFAULT, name="sampled", steps=7, footprint=1)
    read.restored(dataclasses.replace(CONFIG, recipe=sampled), a_state(), "1234")
    for name, value in {"overlap": "reencode", "preceding": "as_made"}.items():
        other = dataclasses.replace(DEFAULT, name="other", **{name: value})
        with pytest.raises(UserError, match=f"made by a recipe with {name} .*, recipe 'other' has '{value}'"):
            read.restored(dataclasses.replace(CONFIG, recipe=other), a_state(), "1234")
    assert recipe.from_values(read.recipe, "a.world") == DEFAULT


def test_a_flipped_bit_at_any_of_200_places_is_one_sentence(saved):
    whole, rng = saved.read_bytes(), random.Random(0)
    places = [*range(64), *(rng.randrange(len(whole)) for _ in range(136))]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.randrange(8)
        saved.write_bytes(damaged)
        with pytest.raises(UserError) as error:
            world_files.read(saved)
        assert str(saved) in str(error.value) and "\n" not in str(error.value)


def test_a_hundred_flipped_bits_are_one_sentence(saved):
    whole, rng = saved.read_bytes(), random.Random(1)
    for _ in range(20):
        damaged = bytearray(whole)
        for _ in range(100):
            damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        saved.write_bytes(damaged)
        with pytest.raises(UserError):
            world_files.read(saved)


def test_a_world_with_nan_is_neither_written_nor_read(tmp_path, saved):
    broken = a_state().replace(context=jnp.full((2, 4, 4, 3), jnp.nan))
    with pytest.raises(UserError, match=r"b\.world: the world holds NaN in \.context"):
        world_files.save(tmp_path / "b.world", CONFIG, broken, "1234")
    assert not (tmp_path / "b.world").exists()


def test_files_of_other_versions_and_kinds(tmp_path, saved):
    whole = saved.read_bytes()
    saved.write_bytes(whole.replace(b'"version":"4"', b'"version":"3"'))
    with pytest.raises(UserError, match="a world file of version 3; expected 4"):
        world_files.read(saved)
    for content in (b"", b"text", bytes(100), json.dumps([1]).encode()):
        (tmp_path / "c.world").write_bytes(content)
        with pytest.raises(UserError, match=r"c\.world"):
            world_files.read(tmp_path / "c.world")

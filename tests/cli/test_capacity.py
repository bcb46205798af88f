"""How much room a world gets: paths of several lengths share one program, and a capacity that is given is kept to."""

import pathlib
import sys

import pytest

from experiments.shared import loading
from mirage_jax import world

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "world"))
import tiny_world


@pytest.fixture(scope="module")
def model():
    return tiny_world.quick()


def test_longer_paths_share_the_sizes_of_a_world(model):
    first, *others = (loading.room(model, "latent", segments) for segments in (9, 12, 15))
    assert others == [first, first]
    assert first["capacity"] >= world.full_capacity(model, "latent", 15) > first["capacity"] // 2
    assert loading.room(model, "latent", 17) != first


@pytest.mark.parametrize("capacity", [100, 5000])
def test_a_capacity_that_is_given_is_kept_to(model, capsys, capacity):
    assert loading.room(model, "latent", 3, capacity)["capacity"] == capacity
    assert ("of more than 100, those worth least will go" in capsys.readouterr().out) == (capacity == 100)


def test_a_bucket_is_the_least_power_of_two_that_holds_so_many():
    assert [world.bucket(count) for count in (1, 2, 3, 4, 5, 1024, 1025)] == [1, 2, 4, 4, 8, 1024, 2048]

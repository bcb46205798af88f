"""Kinds of memory as worlds use them: known by name, each with every verb, and one that remembers nothing."""

import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax.errors import UserError
from mirage_jax.geometry import Camera
from mirage_jax.memory import kinds, nothing, points
from mirage_jax.memory.kinds import Kind, Views


def test_every_kind_that_is_known_has_every_verb():
    verbs = [name for name in vars(Kind) if not name.startswith("_")]
    assert {"create", "remember", "recall", "frame_points"} <= set(verbs)
    for name in kinds.names():
        assert all(callable(getattr(kinds.of(name), verb)) for verb in verbs), name
        assert isinstance(kinds.of(name).CONDITIONS, bool)


def test_an_unknown_kind_is_named_with_those_that_there_are():
    with pytest.raises(UserError, match="memory must be one of latent, rgb, none, found 'voxels'"):
        kinds.of("voxels")


def test_nothing_is_shown_in_the_shape_of_what_there_would_be():
    camera = Camera(jnp.eye(3), jnp.eye(4), 3, 4)
    several = lambda count: camera[jnp.newaxis][jnp.zeros(count, jnp.int32)]  # noqa: E731
    memory = points.create(5, 2)
    views = Views(context=several(3), frame_cameras=several(8), stride=4)
    readout = nothing.recall(memory, views, 3)
    expected = points.read(memory, several(1 + 2 + 2))
    for name in ("features", "visible", "depth", "scale", "index"):
        np.testing.assert_array_equal(getattr(readout, name), getattr(expected, name), err_msg=name)

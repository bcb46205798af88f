"""Layout tables are one-to-one for every tensor of a model, and every storage has its inverse."""

import itertools

import numpy as np
import pytest

from mirage_jax.errors import UserError
from mirage_jax.models import parameters
from mirage_jax.weights import formats, layout
from mirage_jax.weights.layout import Rule
from tests.weights.tiny_wan import tiny_wan

MODEL = tiny_wan()
LAYOUTS = sorted(formats.FORMATS)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_parameter_has_one_public_name_and_back(name):
    form = formats.FORMATS[name]
    table = form.layout(MODEL)
    paths = [path for path in parameters.shapes(MODEL) if path.split("/")[0] == form.part]
    names = [layout.to_theirs(path, table) for path in paths]
    assert paths and len({public for public, _ in names}) == len(paths)
    for path, (public, storage) in zip(paths, names, strict=True):
        assert layout.to_ours(public, table) == (path, storage)
        assert layout.to_ours(form.canonical(public), table) == (path, storage)


@pytest.mark.parametrize("name", LAYOUTS)
def test_no_two_rules_know_one_name(name):
    table = formats.FORMATS[name].layout(MODEL)
    some = [path for path in parameters.shapes(MODEL) if path.split("/")[0] == formats.FORMATS[name].part]
    for path in some:
        public = layout.to_theirs(path, table)[0]
        assert sum(layout.matches(public, rule) for rule in table) == 1, public


SHAPES = {
    "same": (2, 3),
    "linear": (2, 3),
    "table": (1, 2, 3),
    "conv": (2, 3, 4, 5, 6),
    "frame_conv": (2, 3, 4, 5),
    "conv_transpose": (2, 3, 4, 5),
    "patch": (5, 3, 1, 2, 2),
    "image_norm": (3, 1, 1),
    "video_norm": (3, 1, 1, 1),
}


@pytest.mark.parametrize("storage", layout.STORAGES)
def test_storages_are_undone(storage):
    array = np.arange(np.prod(SHAPES[storage]), dtype=np.float32).reshape(SHAPES[storage])
    ours = layout.from_public(array, storage)
    np.testing.assert_array_equal(layout.to_public(ours, storage), array)
    assert layout.public_shape(ours.shape, storage) == array.shape


def test_patches_of_another_size_need_the_public_shape():
    array = np.arange(5 * 2 * 3 * 4.0).reshape(5, 2, 1, 3, 4)
    ours = layout.from_public(array, "patch")
    np.testing.assert_array_equal(layout.to_public(ours, "patch", array.shape), array)


def test_convolution_axes_mean_the_same():
    kernel = np.random.default_rng(0).standard_normal((2, 3, 4, 5))
    ours = layout.from_public(kernel, "conv")
    for o, i, y, x in itertools.product(*map(range, kernel.shape)):
        assert ours[y, x, i, o] == kernel[o, i, y, x]


def test_numbers_are_matched_as_numbers():
    table = (Rule("a.{i}.b.{j}", "dit/{j}_{i}"), Rule("c.{i}.{i}", "dit/c_{i}"))
    assert layout.to_ours("a.10.b.0", table) == ("dit/0_10", "same")
    assert layout.to_theirs("dit/0_10", table) == ("a.10.b.0", "same")
    assert layout.to_ours("c.4.4", table)[0] == "dit/c_4"
    for name in ("a.01.b.0", "a..b.0", "a.x.b.0", "a.1.b.0.c", "aa.1.b.0", "a.1xb.0", "c.4.5"):
        with pytest.raises(UserError, match="is not part of this checkpoint layout"):
            layout.to_ours(name, table)
    with pytest.raises(UserError, match="parameter dit/x has no name"):
        layout.to_theirs("dit/x", table)

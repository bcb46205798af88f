"""The text encoder: position buckets, what a token may depend on, the size of the public model."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax.errors import UserError
from mirage_jax.models import umt5
from mirage_jax.models.config import from_json, wan22_ti2v_5b

CONFIG = umt5.UMT5Config(vocabulary=50, dim=16, ffn_dim=24, heads=3, head_dim=4, layers=2)
IDS = np.array([7, 3, 11, 40, 1, 0, 0, 0], np.int32)
MASK = IDS > 0


@pytest.fixture(scope="module")
def params():
    return jax.jit(umt5.UMT5Encoder(CONFIG).init)(jax.random.key(0), IDS, MASK)["params"]


def test_the_public_model_has_the_parameters_its_architecture_gives():
    shapes = jax.eval_shape(umt5.UMT5Encoder(umt5.UMT5_XXL).init, jax.random.key(0), IDS, MASK)["params"]
    layer = (
        4 * 4096 * 4096  # q, k, v, o
        + 32 * 64  # position bias
        + 3 * 4096 * 10_240  # gate, up, down
        + 2 * 4096  # norms
    )
    expected = 256_384 * 4096 + 24 * layer + 4096
    assert expected == 5_680_910_336
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == expected


def test_the_wan_config_has_it_and_keeps_it_through_json():
    model = wan22_ti2v_5b()
    assert model.text == umt5.UMT5_XXL
    assert model.text.dim == model.dit.text_dim
    assert from_json(model.to_json(), "here") == model


def test_buckets_are_exact_near_and_half_octaves_far():
    # Of 32 buckets to distance 128, far bucket 8 + k starts at 8 sqrt(2)^k: in integers, 64 * 2^k <= n^2.
    length = 300
    buckets = umt5.position_buckets(umt5.UMT5_XXL, length)
    for distance in range(1 - length, length):
        steps = abs(distance)
        far = 8 + sum(64 * 2**k <= steps**2 for k in range(1, 8)) if steps >= 8 else steps
        assert buckets[distance + length - 1] == far + (16 if distance > 0 else 0), distance


def test_toeplitz_is_the_value_of_the_distance():
    values = np.random.default_rng(0).standard_normal(2 * 5 - 1).astype(np.float32)
    matrix = np.asarray(umt5.toeplitz(jnp.asarray(values)))
    for i in range(5):
        for j in range(5):
            assert matrix[i, j] == values[j - i + 4]


def test_padding_changes_nothing(params):
    short = umt5.encode(CONFIG, params, IDS[:5], MASK[:5])
    junk = np.where(MASK, IDS, 33).astype(np.int32)
    for ids in (IDS, junk):
        found = umt5.encode(CONFIG, params, ids, MASK)
        np.testing.assert_allclose(found[:5], short, rtol=2e-5, atol=2e-6)
        assert not np.any(found[5:])


def test_every_layer_reads_its_own_positions(params):
    plain = umt5.encode(CONFIG, params, IDS, MASK)
    for layer in range(CONFIG.layers):
        other = jax.tree.map(lambda x: x, params)
        other[f"blocks_{layer}"]["attention"]["relative_bias"] += np.arange(32, dtype=np.float32)[:, None]
        assert np.abs(umt5.encode(CONFIG, other, IDS, MASK) - plain)[MASK].max() > 1e-3


def test_over_heads_at_once_equals_one_by_one(params, monkeypatch):
    one_by_one = umt5.encode(CONFIG, params, IDS, MASK)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    at_once = umt5.encode.__wrapped__(CONFIG, params, IDS, MASK)
    np.testing.assert_allclose(at_once, one_by_one, rtol=2e-5, atol=2e-6)


def test_low_precision_products_stay_near_float32(params):
    exact = umt5.encode(CONFIG, params, IDS, MASK)
    rounded = umt5.encode(dataclasses.replace(CONFIG, dtype="bfloat16"), params, IDS, MASK)
    assert rounded.dtype == np.float32
    error = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
    assert 1e-4 < error < 0.02


def test_a_token_outside_the_vocabulary_is_not_another_token(params):
    assert np.isnan(umt5.encode(CONFIG, params, np.array([50, 1], np.int32), np.ones(2, bool))).any()


@pytest.mark.parametrize("change", [{"buckets": 30}, {"max_distance": 8}])
def test_impossible_buckets_are_refused(change):
    with pytest.raises(UserError, match="buckets"):
        dataclasses.replace(CONFIG, **change)

"""LoRA: exact at the start, equal to the formula after, selective in what it adapts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from mirage_jax.errors import UserError
from mirage_jax.models.dit import DiTConfig
from mirage_jax.models.generator import Generator
from mirage_jax.models.nn import lora

GENERATOR = Generator(DiTConfig(dim=12, ffn_dim=16, heads=2, layers=2, in_channels=3, text_dim=5, text_tokens=2))
INPUTS = {"target": jnp.ones((1, 2, 2, 3)), "timesteps": jnp.ones(1), "text": jnp.ones((2, 5))}


@functools.cache
def params():
    return jax.jit(GENERATOR.init)(jax.random.key(0), **INPUTS)["params"]["dit"]


def flat(tree):
    return traverse_util.flatten_dict(tree, sep="/")


def test_merge_of_a_fresh_adapter_changes_not_one_bit():
    adapter = lora.init(jax.random.key(1), params(), rank=3)
    assert any(np.asarray(leaf).any() for leaf in jax.tree.leaves(adapter))
    jax.tree.map(np.testing.assert_array_equal, lora.merge(params(), adapter, alpha=3.0), params())


def test_merge_adds_the_scaled_product_to_adapted_kernels_only():
    adapter = lora.init(jax.random.key(1), params(), rank=3)
    adapter = jax.tree.map(lambda x: jax.random.normal(jax.random.key(2), x.shape), adapter)
    merged, before, parts = flat(lora.merge(params(), adapter, alpha=6.0)), flat(params()), flat(adapter)
    for path, kernel in before.items():
        expected = np.asarray(kernel)
        if f"{path}/A" in parts:
            expected = expected + 2.0 * np.asarray(parts[f"{path}/A"]) @ np.asarray(parts[f"{path}/B"])
        np.testing.assert_allclose(merged[path], expected, atol=1e-5)
    adapted = {path.removesuffix("/A") for path in parts if path.endswith("/A")}
    expected = {f"self_attention/{name}" for name in "qkvo"} | {"ffn/up", "ffn/down"}
    assert adapted == {f"blocks_{i}/{name}/kernel" for i in range(2) for name in expected}


def test_cross_attention_is_optional_and_targets_are_anchored():
    adapter = flat(lora.init(jax.random.key(1), params(), rank=2, targets=lora.ALL_ATTENTION_AND_FFN))
    assert "blocks_1/cross_attention/v/kernel/B" in adapter
    assert len(adapter) == 2 * 2 * 10
    only = flat(lora.init(jax.random.key(1), params(), rank=2, targets="blocks_0/self_attention/q/kernel"))
    assert set(only) == {f"blocks_0/self_attention/q/kernel/{part}" for part in "AB"}


def test_a_fresh_adapter_learns():
    adapter = lora.init(jax.random.key(1), params(), rank=2)

    def loss(adapter):
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(lora.merge(params(), adapter, alpha=2.0)))

    gradient = flat(jax.grad(loss)(adapter))
    assert all(np.asarray(leaf).any() for path, leaf in gradient.items() if path.endswith("/B"))


def test_errors():
    with pytest.raises(UserError, match="rank must be at least 1, found 0"):
        lora.init(jax.random.key(0), params(), rank=0)
    with pytest.raises(UserError, match="'nothing' match none"):
        lora.init(jax.random.key(0), params(), rank=1, targets="nothing")
    with pytest.raises(UserError, match="must be a matrix"):
        lora.init(jax.random.key(0), params(), rank=1, targets="bias")
    adapter = lora.init(jax.random.key(0), params(), rank=1)
    with pytest.raises(UserError, match=r"blocks_1/ffn/down/kernel .* no such kernel"):
        lora.merge({"blocks_0": params()["blocks_0"]}, adapter, alpha=1.0)

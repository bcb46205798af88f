"""The small layers against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax.models.nn import layers


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize("half", [1, 6])
def test_timestep_features(half):
    timesteps = np.float32([0, 0.5, 17, 418, 999, 1000])
    angles = timesteps[:, None] * 10_000.0 ** (-np.arange(half) / half)
    expected = np.concatenate([np.cos(angles), np.sin(angles)], axis=-1)
    # Angles up to 1000 in float32: half a unit in the last place of 1000 is 3e-5.
    np.testing.assert_allclose(layers.timestep_features(timesteps, 2 * half), expected, atol=3e-4)


def test_norms_and_modulation():
    x = normal(0, 2, 3, 8) * 5 + 3
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(layers.layer_norm(x, 1e-6), expected, atol=1e-5)
    shift, scale = normal(1, 2, 8), normal(2, 2, 8)
    found = layers.modulate(x, shift, scale, 1e-6, jnp.dtype("bfloat16"))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        np.float32(found), expected * (1 + scale[:, None]) + shift[:, None], rtol=1e-2, atol=1e-2
    )

    norm, weight = layers.RMSNorm(eps=1e-6), normal(3, 8)
    found = norm.apply({"params": {"weight": weight}}, x)
    np.testing.assert_allclose(found, x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * weight, rtol=1e-5)


def test_a_bfloat16_block_keeps_parameters_and_modulation_in_float32():
    block = layers.Block(dim=8, ffn_dim=8, heads=2, eps=1e-6, dtype=jnp.dtype("bfloat16"), text=False)
    x, modulation = jnp.zeros((1, 2, 8), jnp.bfloat16), jnp.zeros((1, 6, 8))
    rotary = (jnp.ones((2, 2)), jnp.zeros((2, 2)))
    arguments = (x, modulation, rotary, None, None)
    params = jax.eval_shape(block.init, jax.random.key(0), *arguments)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert jax.eval_shape(block.apply, params, *arguments).dtype == jnp.bfloat16
    # bfloat16 would round a scale of 1 + 1/1000 to 1.
    found = layers.modulate(jnp.full((1, 1, 2), 4.0).at[0, 0, 0].set(-4.0), *jnp.full((2, 1, 2), 1e-3), 1e-6, "float32")
    np.testing.assert_allclose(found[0, 0], [-1.0, 1.002], atol=1e-5)

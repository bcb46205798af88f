"""Attention on both dispatch paths against numpy, and the small layers against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirage_jax.models import layers

MASKS = [None, [True, False, True, True, False], [False, False, False, True, False]]


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def numpy_attention(query, key, value, mask):
    out = np.zeros(query.shape)
    for head in range(query.shape[1]):
        logits = np.float64(query[:, head]) @ np.float64(key[:, head]).T / np.sqrt(query.shape[-1])
        if mask is not None:
            logits[:, ~np.asarray(mask)] = -np.inf
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        out[:, head] = weights / weights.sum(-1, keepdims=True) @ np.float64(value[:, head])
    return out


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize("mask", MASKS)
def test_attention(monkeypatch, backend, mask):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    query, key, value = normal(0, 3, 2, 4), normal(1, 5, 2, 4), normal(2, 5, 2, 4)
    mask = None if mask is None else jnp.array(mask)
    found = layers.attention(query, key, value, mask)
    np.testing.assert_allclose(found, numpy_attention(query, key, value, mask), atol=1e-5)


def test_attention_paths_have_the_same_gradients_under_vmap(monkeypatch):
    arguments = [normal(i, 2, 5, 2, 4) for i in range(3)]
    masks = jnp.array([[True] * 5, MASKS[1]])

    def gradients(backend):
        monkeypatch.setattr(jax, "default_backend", lambda: backend)
        objective = lambda *x: jnp.sum(jnp.sin(jax.vmap(layers.attention)(*x, masks)))  # noqa: E731
        return jax.grad(objective, (0, 1, 2))(*arguments)

    for ours, twin in zip(gradients("cpu"), gradients("gpu"), strict=True):
        np.testing.assert_allclose(ours, twin, atol=1e-5)
    assert not np.asarray(gradients("cpu")[1])[1, 1].any()


@settings(max_examples=20, deadline=None)
@given(timestep=st.floats(0, 1000), half=st.integers(1, 16))
def test_timestep_features(timestep, half):
    angles = np.float32(timestep) * 10_000.0 ** (-np.arange(half) / half)
    expected = np.concatenate([np.cos(angles), np.sin(angles)])
    found = layers.timestep_features(jnp.array([timestep]), 2 * half)[0]
    # Angles up to 1000 in float32: half a unit in the last place of 1000 is 3e-5.
    np.testing.assert_allclose(found, expected, atol=3e-4)


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


def test_modulation_is_in_float32_whatever_the_dtype():
    """A change of scale far below what bfloat16 resolves next to 1 still shows in a sum over many channels."""
    block = layers.Block(dim=8, ffn_dim=8, heads=2, eps=1e-6, dtype=jnp.dtype("bfloat16"), text=False)
    x = normal(0, 1, 2, 8).astype(jnp.bfloat16)
    rotary = (jnp.ones((2, 2)), jnp.zeros((2, 2)))
    params = block.init(jax.random.key(0), x, jnp.zeros((1, 6, 8)), rotary, None, None)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert block.apply(params, x, jnp.zeros((1, 6, 8)), rotary, None, None).dtype == jnp.bfloat16
    text = str(
        jax.make_jaxpr(lambda x, shift: layers.modulate(x, shift, shift, 1e-6, jnp.bfloat16))(x, jnp.zeros((1, 8)))
    )
    final = [line for line in text.splitlines() if "bf16" in line and "convert_element_type" in line]
    assert len(final) == 1, text

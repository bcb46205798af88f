"""Every formulation of attention against numpy and against the plain twin, and which one is chosen where."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo

from mirage_jax.models.nn import attention

MASKS = [None, [True, False, True, True, False], [False, False, False, True, False]]
FORMS = {
    "xla": attention.xla,
    "by_head": attention.by_head,
    "cudnn": functools.partial(attention.cudnn, implementation="xla"),
    "splash": functools.partial(attention.splash, interpret=True),
}


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


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mask", MASKS)
def test_every_form_is_softmax_attention(form, mask):
    query, key, value = normal(0, 3, 2, 128), normal(1, 5, 2, 128), normal(2, 5, 2, 128)
    mask = None if mask is None else jnp.array(mask)
    found = jax.jit(FORMS[form])(query, key, value, mask)
    np.testing.assert_allclose(found, numpy_attention(query, key, value, mask), atol=1e-5)


@pytest.mark.parametrize("form", ["by_head", "cudnn", "splash"])
def test_batched_gradients_are_those_of_the_plain_twin(form):
    query, key, value = normal(0, 2, 7, 2, 128), normal(1, 2, 5, 2, 128), normal(2, 2, 5, 2, 128)
    masks = jnp.array([[True] * 5, MASKS[1]])

    def gradients(form):
        objective = lambda *x: jnp.sum(jnp.sin(jax.vmap(form)(*x, masks)))  # noqa: E731
        return jax.jit(jax.grad(objective, (0, 1, 2)))(query, key, value)

    found, expected = gradients(FORMS[form]), gradients(attention.xla)
    for mine, twin in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, twin, atol=1e-5)
    assert not np.asarray(found[1])[1, 1].any()


@pytest.mark.parametrize(("length", "keys"), [(256, 128), (300, 515), (130, 640)])
def test_splash_at_lengths_around_its_tiles(length, keys):
    query, key, value = normal(0, length, 1, 128), normal(1, keys, 1, 128), normal(2, keys, 1, 128)
    mask = jax.random.bernoulli(jax.random.key(3), 0.7, (keys,)).at[-1].set(True)
    for wanted in (None, mask):
        found = jax.jit(FORMS["splash"])(query, key, value, wanted)
        np.testing.assert_allclose(found, attention.xla(query, key, value, wanted), atol=1e-5)


def test_masked_keys_may_hold_anything_finite():
    query, key, value = normal(0, 3, 2, 128), normal(1, 5, 2, 128), normal(2, 5, 2, 128)
    mask = jnp.array(MASKS[1])
    for form in FORMS.values():
        wild = form(query, key.at[1].set(1e4), value.at[4].set(-1e4), mask)
        np.testing.assert_allclose(wild, form(query, key, value, mask), atol=1e-6)


@pytest.mark.parametrize(
    ("backend", "capability", "dtype", "head_dim", "chosen"),
    [
        ("cpu", None, "bfloat16", 128, "by_head"),
        ("tpu", None, "bfloat16", 128, "splash"),
        ("tpu", None, "float32", 64, "xla"),
        ("gpu", "9.0", "bfloat16", 128, "cudnn"),
        ("gpu", "9.0", "float32", 128, "xla"),
        ("gpu", "9.0", "bfloat16", 132, "xla"),
        ("gpu", "7.5", "float16", 128, "xla"),
        ("gpu", "gfx942", "bfloat16", 128, "xla"),
    ],
)
def test_dispatch(monkeypatch, backend, capability, dtype, head_dim, chosen):
    device = type("Device", (), {"compute_capability": capability})
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    called = []
    for name in FORMS:
        monkeypatch.setattr(attention, name, lambda query, *_, name=name: called.append(name) or query)
    x = jnp.zeros((2, 1, head_dim), dtype)
    jax.make_jaxpr(lambda x: attention.attention(x, x, x))(x)
    assert set(called) == {chosen, "by_head"}  # the latter for arrays on the host


@pytest.mark.parametrize(("backend", "head_dim"), [("tpu", 128), ("gpu", 64)])
def test_a_program_for_the_host_has_no_kernel_of_the_accelerator(monkeypatch, backend, head_dim):
    """Lowered for the host of a machine with an accelerator, and for that."""
    device = type("Device", (), {"compute_capability": "9.0"})
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91900)
    monkeypatch.setattr(fused_attention_stablehlo, "check_compute_capability", lambda _: True)
    monkeypatch.setattr(fused_attention_stablehlo, "is_cuda_compute_capability_equal", lambda _: False)
    kernel, platform = {"tpu": ("tpu_custom_call", "tpu"), "gpu": ("cudnn$fmha", "cuda")}[backend]
    x = jax.ShapeDtypeStruct((2, 8, 2, head_dim), jnp.bfloat16)
    objective = jax.grad(lambda x: jax.vmap(attention.attention)(x, x, x).sum().astype(jnp.float32))
    traced = jax.jit(objective).trace(x)
    assert kernel in traced.lower(lowering_platforms=(platform,)).as_text()
    assert kernel not in traced.lower(lowering_platforms=("cpu",)).as_text()


def test_cudnn_programs_lower_for_a_gpu(monkeypatch):
    """Shapes, lengths and batching rules of the fused kernel, without the GPU that would run it."""
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91900)
    monkeypatch.setattr(fused_attention_stablehlo, "check_compute_capability", lambda _: True)
    monkeypatch.setattr(fused_attention_stablehlo, "is_cuda_compute_capability_equal", lambda _: False)
    x = jax.ShapeDtypeStruct((2, 8, 2, 128), jnp.bfloat16)
    mask = jax.ShapeDtypeStruct((2, 8), bool)

    def objective(query, key, value, *mask):
        rows = jax.vmap(lambda q, k, v, *m: attention.cudnn(q, k, v, m[0] if m else None))(query, key, value, *mask)
        shared = jax.vmap(lambda q, k, v: attention.cudnn(q, k, v, jnp.arange(8) < 5))(query, key, value)
        return jnp.sum(rows + shared)

    for arguments in ((x, x, x), (x, x, x, mask)):
        lowered = jax.jit(jax.grad(objective)).trace(*arguments).lower(lowering_platforms=("cuda",))
        text = lowered.as_text()
        assert "cudnn$fmhaSoftmax" in text and "cudnn$fmhaSoftmaxBackward" in text, text[:2000]

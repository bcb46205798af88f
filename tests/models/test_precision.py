"""What stays in float32 when a model computes in bfloat16 (docs/parity.md)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax.models import vae
from mirage_jax.models.dit import DiTConfig, Head, TimeEmbedding
from mirage_jax.models.generator import Generator
from mirage_jax.models.nn import attention, layers, rope, vae_layers

CONFIG = DiTConfig(
    dim=48, ffn_dim=64, heads=2, layers=2, in_channels=4, text_dim=8, text_tokens=3, dtype="bfloat16", prediction="flow"
)
BF16 = jnp.dtype(jnp.bfloat16)
EXACT = {
    "convert_element_type",
    "reshape",
    "squeeze",
    "transpose",
    "slice",
    "broadcast_in_dim",
    "copy",
    "stop_gradient",
}
"""Operations that may see bfloat16 where the arithmetic is float32: they only move or convert."""


def operations(function, *arguments):
    """Every primitive that a function runs, with the floating dtypes of its inputs."""

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            inner = [x for x in equation.params.values() if hasattr(x, "eqns") or hasattr(x, "jaxpr")]
            for sub in inner:
                yield from walk(getattr(sub, "jaxpr", sub))
            if not inner:
                dtypes = {v.aval.dtype for v in equation.invars if jnp.issubdtype(v.aval.dtype, jnp.floating)}
                yield equation.primitive.name, dtypes

    return list(walk(jax.make_jaxpr(function)(*arguments).jaxpr))


def in_bfloat16(found):
    return {name for name, dtypes in found if BF16 in dtypes} - EXACT


def module(flax_module, *arguments):
    params = flax_module.init(jax.random.key(0), *arguments)
    return lambda *args: flax_module.apply(params, *args)


x = jnp.ones((3, 4, 48), BF16)
vectors = jnp.ones((3, 48))
tables = jnp.ones((12, 12)), jnp.ones((12, 12))


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (module(layers.RMSNorm(1e-6), x), (x,)),
        (lambda y: layers.modulate(y, vectors, vectors, 1e-6, BF16), (x,)),
        (module(vae_layers.ChannelNorm(), x), (x,)),
        (module(TimeEmbedding(CONFIG), jnp.ones(3)), (jnp.ones(3),)),
        (lambda q: rope.rotate_pairs(q, *tables), (x.reshape(12, 2, 24),)),
        (lambda z: vae.normalise(vae.WAN22, z), (jnp.ones((1, 2, 2, 48), BF16),)),
    ],
    ids=["RMS norm", "modulated layer norm", "channel norm", "time embedding", "rotary turn", "latent statistics"],
)
def test_no_arithmetic_in_bfloat16(function, arguments):
    found = operations(function, *arguments)
    assert {"mul", "div", "dot_general"} & {name for name, _ in found}
    assert not in_bfloat16(found)


def test_the_check_sees_bfloat16():
    assert in_bfloat16(operations(lambda y: jax.lax.rsqrt(y * y), x)) == {"mul", "rsqrt"}


def test_softmax_in_float32():
    found = operations(attention.attention, *[x.reshape(12, 2, 24)] * 3)
    # Two products are in bfloat16 by design; the sum of the first, and all between them, are not.
    assert "exp" in {name for name, _ in found}
    assert in_bfloat16(found) <= {"dot_general"}
    jaxpr = str(jax.make_jaxpr(attention.attention)(*[x.reshape(12, 2, 24)] * 3))
    assert "preferred_element_type=float32" in jaxpr


def test_close_timesteps_differ_where_bfloat16_would_round_them_to_one():
    assert jnp.bfloat16(937) == jnp.bfloat16(938)
    embed = module(TimeEmbedding(CONFIG), jnp.ones(2))
    embedding, modulation = embed(jnp.array([937.0, 938.0]))
    assert embedding.dtype == modulation.dtype == jnp.float32
    assert np.abs(modulation[0] - modulation[1]).max() > 0


def test_parameters_and_output_are_float32():
    generator = Generator(CONFIG)
    target, text = jnp.ones((2, 4, 4, 4)), jnp.ones((3, 8))
    params = generator.init(jax.random.key(0), target, jnp.ones(2), text=text)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    output = jax.eval_shape(lambda p: generator.apply(p, target, jnp.ones(2), text=text), params)
    assert output.dtype == jnp.float32
    # It really computes in bfloat16: with float32 there would be none to find.
    wide = dataclasses.replace(CONFIG, dtype="float32")
    run = lambda config: operations(lambda p: Generator(config).apply(p, target, jnp.ones(2), text=text), params)  # noqa: E731
    assert "dot_general" in in_bfloat16(run(CONFIG)) and not in_bfloat16(run(wide))


def test_head_modulates_in_float32():
    head = Head(CONFIG)
    found = operations(module(head, x, vectors), x, vectors)
    assert in_bfloat16(found) <= {"dot_general", "add"}  # the linear map and its bias

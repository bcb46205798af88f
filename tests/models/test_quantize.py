"""8-bit weights: close to the full ones, a quarter of their size, and only where they should be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax.errors import UserError
from mirage_jax.models import quantize
from mirage_jax.models.dit import DiTConfig
from mirage_jax.models.generator import Generator
from mirage_jax.models.side_branch import SideBranchConfig

DIT = DiTConfig(dim=128, ffn_dim=512, heads=2, layers=3, in_channels=8, text_dim=16, text_tokens=5)
GENERATOR = Generator(DIT, SideBranchConfig(control_channels=9))


def arguments():
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.standard_normal(shape, dtype=np.float32)  # noqa: E731
    given = {"control": normal(3, 4, 4, 9), "text": normal(5, 16), "preceding": normal(1, 4, 4, 8)}
    return (normal(2, 4, 4, 8), np.float32([0, 500])), given


@pytest.fixture(scope="module")
def params():
    positional, given = arguments()
    fresh = jax.jit(GENERATOR.init)(jax.random.key(0), *positional, **given)["params"]
    leaves, treedef = jax.tree.flatten(fresh)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [x + 0.05 * jax.random.normal(key, x.shape) for x, key in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(treedef, moved)


def outputs(params):
    positional, given = arguments()
    return np.asarray(jax.jit(GENERATOR.apply)({"params": params}, *positional, **given))


def nbytes(tree):
    return sum(x.nbytes for x in jax.tree.leaves(tree))


def test_outputs_stay_close(params):
    exact, found = outputs(params), outputs(quantize.int8(params))
    error = np.linalg.norm(found - exact) / np.linalg.norm(exact)
    assert 1e-4 < error < 0.02


def test_every_weight_is_within_half_a_step(params):
    kernel = params["dit"]["blocks_1"]["ffn"]["up"]["kernel"]
    small = quantize.int8(params)["dit"]["blocks_1"]["ffn"]["up"]["kernel"]
    assert small.qvalue.dtype == jnp.int8 and small.scale.shape == (1, kernel.shape[1])
    step = np.abs(kernel).max(axis=0) / 127
    assert (np.abs(small.qvalue * small.scale - kernel) <= 0.502 * step).all()


def test_blocks_take_a_quarter_of_the_memory(params):
    small = quantize.int8(params)
    for part in ("dit", "side"):
        ratio = nbytes(small[part]["blocks_0"]) / nbytes(params[part]["blocks_0"])
        assert 0.25 < ratio < 0.28
    assert small["dit"]["time_embedding"] is params["dit"]["time_embedding"] or jax.tree.all(
        jax.tree.map(lambda a, b: a is b, small["dit"]["time_embedding"], params["dit"]["time_embedding"])
    )


def test_bfloat16_weights_go_through_float32(params):
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    kernel = quantize.int8(half)["dit"]["blocks_0"]["ffn"]["down"]["kernel"]
    assert kernel.scale.dtype == jnp.float32
    np.testing.assert_array_equal(
        kernel.qvalue,
        quantize.int8(jax.tree.map(lambda x: x.astype(jnp.float32), half))["dit"]["blocks_0"]["ffn"]["down"][
            "kernel"
        ].qvalue,
    )


def test_other_parts_and_the_given_tree_are_left_alone(params):
    whole = {**params, "vae": {"blocks_0": {"kernel": jnp.ones((4, 4))}}}
    assert quantize.int8(whole)["vae"] is whole["vae"]
    assert not any(map(quantize.is_quantized, jax.tree.leaves(whole, is_leaf=quantize.is_quantized)))


def test_a_lora_must_be_merged_first(params):
    with pytest.raises(UserError, match="merge the LoRA"):
        quantize.int8({**params, "lora": {}})

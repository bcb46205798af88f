"""Public names of the text encoder: every one of our parameters has exactly one, in both layouts, and back."""

import jax
import numpy as np
import pytest

from mirage_jax.errors import UserError
from mirage_jax.models.umt5 import UMT5Config, UMT5Encoder
from mirage_jax.weights import layout
from mirage_jax.weights.layouts import umt5_layouts
from tests.parity.public_names import params_to_public

LAYERS = 2
CONFIG = UMT5Config(vocabulary=11, dim=8, ffn_dim=12, heads=3, head_dim=2, layers=LAYERS)
SHAPES = {  # as PyTorch stores them, which for a linear layer is [out, in]
    "q": (6, 8),
    "k": (6, 8),
    "v": (6, 8),
    "o": (8, 6),
    "bias": (32, 3),
    "gate": (12, 8),
    "up": (12, 8),
    "down": (8, 12),
    "norm": (8,),
}
ORIGINAL_BLOCK = {
    "norm1": "norm",
    **{f"attn.{x}": x for x in "qkvo"},
    "norm2": "norm",
    "ffn.gate.0": "gate",
    "ffn.fc1": "up",
    "ffn.fc2": "down",
    "pos_embedding.embedding": "bias",
}
TRANSFORMERS_BLOCK = {
    **{f"layer.0.SelfAttention.{x}": x for x in "qkvo"},
    "layer.0.SelfAttention.relative_attention_bias": "bias",
    "layer.0.layer_norm": "norm",
    "layer.1.DenseReluDense.wi_0": "gate",
    "layer.1.DenseReluDense.wi_1": "up",
    "layer.1.DenseReluDense.wo": "down",
    "layer.1.layer_norm": "norm",
}


def checkpoint(table, final_norm, block, names):
    shapes = {f"{table}.weight": (11, 8), f"{final_norm}.weight": (8,)}
    for i in range(LAYERS):
        shapes |= {f"{block}.{i}.{name}.weight": SHAPES[kind] for name, kind in names.items()}
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


CASES = {
    "original": (
        umt5_layouts.ORIGINAL_UMT5,
        checkpoint("token_embedding", "norm", "blocks", ORIGINAL_BLOCK),
    ),
    "transformers": (
        umt5_layouts.TRANSFORMERS_UMT5,
        checkpoint("shared", "encoder.final_layer_norm", "encoder.block", TRANSFORMERS_BLOCK),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_names_are_our_parameters_one_to_one_and_back(case):
    table, tensors = CASES[case]
    params = layout.params_from_public(tensors, table)
    init = UMT5Encoder(CONFIG).init
    expected = jax.eval_shape(init, jax.random.key(0), np.zeros(3, np.int32), np.ones(3, bool))["params"]
    assert jax.tree.map(np.shape, params["text"]) == jax.tree.map(np.shape, expected)
    again = params_to_public(params, table)
    assert again.keys() == tensors.keys()
    for name, array in tensors.items():
        np.testing.assert_array_equal(again[name], array, err_msg=name)


@pytest.mark.parametrize(
    ("original", "transformers"),
    [
        ("ffn.gate.0", "layer.1.DenseReluDense.wi_0"),  # the one with the GELU
        ("ffn.fc1", "layer.1.DenseReluDense.wi_1"),
        ("ffn.fc2", "layer.1.DenseReluDense.wo"),
        ("norm2", "layer.1.layer_norm"),
        ("attn.o", "layer.0.SelfAttention.o"),
    ],
)
def test_both_layouts_mean_the_same_tensor(original, transformers):
    ours = layout.to_ours(f"blocks.12.{original}.weight", umt5_layouts.ORIGINAL_UMT5)
    assert layout.to_ours(f"encoder.block.12.{transformers}.weight", umt5_layouts.TRANSFORMERS_UMT5) == ours


def test_the_token_embedding_may_stand_under_either_name_or_both():
    table, tensors = CASES["transformers"]
    shared = tensors["shared.weight"]
    rest = {name: array for name, array in tensors.items() if name != "shared.weight"}
    for names in (["encoder.embed_tokens.weight"], ["shared.weight", "encoder.embed_tokens.weight"]):
        params = layout.params_from_public(rest | {name: shared for name in names}, table)
        np.testing.assert_array_equal(params["text"]["token_embedding"], shared)
    with pytest.raises(UserError, match=r"encoder\.embed_tokens\.weight"):
        layout.params_from_public(tensors | {"encoder.embed_tokens.weight": shared + 1}, table)

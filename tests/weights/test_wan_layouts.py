"""Public names of the Wan transformer: every one of our parameters has exactly one, in both layouts."""

import functools

import jax
import numpy as np
import pytest
from flax import traverse_util

from mirage_jax.errors import UserError
from mirage_jax.models.dit import DiTConfig
from mirage_jax.models.generator import Generator
from mirage_jax.models.side_branch import SideBranchConfig
from mirage_jax.weights import layout as layouts
from mirage_jax.weights.layouts import wan_layouts

LAYERS, SIDE_BLOCKS = 3, 2
DIT = DiTConfig(dim=12, ffn_dim=16, heads=2, layers=LAYERS, in_channels=3, text_dim=5, text_tokens=2, freq_dim=8)

ORIGINAL_BLOCK = [
    "modulation",
    *(f"{a}_attn.{x}.{kind}" for a in ("self", "cross") for x in "qkvo" for kind in ("weight", "bias")),
    *(f"{a}_attn.norm_{x}.weight" for a in ("self", "cross") for x in "qk"),
    *(f"{x}.{kind}" for x in ("norm3", "ffn.0", "ffn.2") for kind in ("weight", "bias")),
]
ORIGINAL = [
    "head.modulation",
    *(
        f"{x}.{kind}"
        for x in (
            "patch_embedding",
            "time_embedding.0",
            "time_embedding.2",
            "time_projection.1",
            "text_embedding.0",
            "text_embedding.2",
            "head.head",
            "vace_patch_embedding",
            "vace_blocks.0.before_proj",
            "vace_blocks.0.after_proj",
            "vace_blocks.1.after_proj",
        )
        for kind in ("weight", "bias")
    ),
    *(f"blocks.{i}.{x}" for i in range(LAYERS) for x in ORIGINAL_BLOCK),
    *(f"vace_blocks.{i}.{x}" for i in range(SIDE_BLOCKS) for x in ORIGINAL_BLOCK),
]


@functools.cache
def our_shapes():
    params = jax.eval_shape(
        Generator(DIT, SideBranchConfig(4)).init,
        jax.random.key(0),
        np.zeros((1, 2, 2, 3), np.float32),
        np.zeros(1, np.float32),
        control=np.zeros((1, 2, 2, 4), np.float32),
        text=np.zeros((2, 5), np.float32),
    )["params"]
    return {path: leaf.shape for path, leaf in traverse_util.flatten_dict(params, sep="/").items()}


def test_original_names_are_our_parameters_one_to_one():
    layout = wan_layouts.ORIGINAL_DIT + wan_layouts.ORIGINAL_SIDE
    paths = [layouts.to_ours(name, layout)[0] for name in ORIGINAL]
    assert len(set(paths)) == len(paths)
    assert set(paths) == set(our_shapes())


@pytest.mark.parametrize(
    ("name", "path", "storage"),
    [
        ("blocks.2.attn1.to_q.weight", "dit/blocks_2/self_attention/q/kernel", "linear"),
        ("blocks.0.attn1.norm_q.weight", "dit/blocks_0/self_attention/norm_q/weight", "same"),
        ("blocks.11.attn2.to_out.0.bias", "dit/blocks_11/cross_attention/o/bias", "same"),
        ("blocks.0.ffn.net.0.proj.weight", "dit/blocks_0/ffn/up/kernel", "linear"),
        ("blocks.0.scale_shift_table", "dit/blocks_0/modulation", "table"),
        ("condition_embedder.time_embedder.linear_1.weight", "dit/time_embedding/up/kernel", "linear"),
        ("vace_blocks.0.proj_in.weight", "side/blocks_0/join/kernel", "linear"),
        ("vace_blocks.1.norm2.weight", "side/blocks_1/block/cross_norm/scale", "same"),
    ],
)
def test_diffusers_names(name, path, storage):
    layout = wan_layouts.DIFFUSERS_DIT + wan_layouts.DIFFUSERS_SIDE
    assert layouts.to_ours(name, layout) == (path, storage)


def test_arrays_arrive_in_our_order():
    convolution = np.arange(5 * 3 * 1 * 2 * 2, dtype=np.float32).reshape(5, 3, 1, 2, 2)
    params = layouts.params_from_public(
        {
            "patch_embedding.weight": convolution,
            "head.head.weight": np.arange(6.0).reshape(2, 3),
            "head.modulation": np.ones((1, 2, 4)),
        },
        wan_layouts.ORIGINAL_DIT,
    )["dit"]
    patch = np.random.default_rng(0).standard_normal((2, 2, 3))
    expected = np.einsum("rcx,oxrc->o", patch, convolution[:, :, 0])
    np.testing.assert_allclose(patch.reshape(-1) @ params["patch_embedding"]["kernel"], expected, rtol=1e-5)
    np.testing.assert_array_equal(params["head"]["linear"]["kernel"], np.arange(6.0).reshape(2, 3).T)
    assert params["head"]["modulation"].shape == (2, 4)


def test_unknown_names_are_named():
    with pytest.raises(UserError, match=r"tensor blocks\.0\.norm9\.weight is not part"):
        layouts.to_ours("blocks.0.norm9.weight", wan_layouts.ORIGINAL_DIT)

"""Patches and the config of the DiT; what the transformer computes is tested through the generator and by parity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax.errors import UserError
from mirage_jax.models.dit import DiTConfig, TimeEmbedding, patchify, unpatchify

SIZES = {"dim": 8, "ffn_dim": 8, "heads": 2, "layers": 1, "in_channels": 3}


def test_tokens_are_patches_in_raster_order():
    latents = jnp.arange(2 * 4 * 6 * 3, dtype=jnp.float32).reshape(2, 4, 6, 3)
    tokens = patchify(latents, (1, 2, 2))
    assert tokens.shape == (2, 6, 12)
    for frame in range(2):
        for row in range(2):
            for column in range(3):
                patch = latents[frame, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
                np.testing.assert_array_equal(tokens[frame, 3 * row + column], patch.reshape(-1))
    np.testing.assert_array_equal(unpatchify(tokens, 4, 6, (1, 2, 2)), latents)


def test_a_grid_the_patch_does_not_divide():
    with pytest.raises(ValueError, match="latent grid 3x4 is not a multiple of the patch 2x2"):
        patchify(jnp.zeros((1, 3, 4, 2)), (1, 2, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 3}, "dim 8 must be an even multiple of its 3 heads"),
        ({"heads": 8}, "dim 8 must be an even multiple of its 8 heads"),
        ({"patch": (2, 2, 2)}, "must span one latent frame"),
        ({"prediction": "noise"}, "must be 'flow' or 'sample', found 'noise'"),
    ],
)
def test_impossible_configs(change, message):
    with pytest.raises(UserError, match=message):
        DiTConfig(**{**SIZES, **change})


def test_time_embedding_stays_in_float32():
    config = DiTConfig(**SIZES, dtype="bfloat16")
    module = TimeEmbedding(config)
    params = jax.jit(module.init)(jax.random.key(0), jnp.zeros(1))
    close = jax.jit(module.apply)(params, jnp.array([999.0, 999.5]))
    assert {x.dtype for x in close} == {jnp.dtype("float32")}
    # bfloat16 holds no 999.5: in it the two timesteps would be one.
    assert jnp.abs(close[0][0] - close[0][1]).max() > 1e-5

"""Tiled coding against whole frames: equal where nothing is cut, equal far from the cuts, smooth across them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirage_jax.errors import UserError
from mirage_jax.models import vae, vae_tiling

CONFIG = vae.VAEConfig(
    latent_channels=4,
    encoder_dim=4,
    decoder_dim=4,
    multipliers=(1, 2),
    blocks=1,
    time_downsample=(True,),
    time_kernels=(3, 3),
    patch=1,
)
GRID = 24, 20
REACH = 12
"""Latent cells: more than 1 + 4 + 4 + 0.5 + 2 + 0.5 of the decoder's convolutions."""


@pytest.fixture(scope="module")
def params():
    return jax.jit(vae.init, static_argnums=0)(CONFIG, jax.random.key(0))


@pytest.fixture(scope="module")
def local(params):
    """Parameters whose middle attention adds nothing: what is left is local."""

    def silenced(path, x):
        names = [key.key for key in path]
        return jnp.zeros_like(x) if "attention" in names and "out" in names else x

    return jax.tree_util.tree_map_with_path(silenced, params)


@pytest.fixture(scope="module")
def latents():
    return jax.random.normal(jax.random.key(1), (3, *GRID, CONFIG.latent_channels))


def test_one_tile_is_the_whole(params, latents):
    whole = vae.decode(CONFIG, params, latents)
    np.testing.assert_allclose(vae_tiling.decode(CONFIG, params, latents, tile=24), whole, atol=2e-6)
    code = vae.encode(CONFIG, params, whole)
    np.testing.assert_allclose(vae_tiling.encode(CONFIG, params, whole, tile=24), code, atol=2e-5)


def test_far_from_the_cut_the_local_part_is_that_of_the_whole_frame(local, latents):
    whole = vae.decode(CONFIG, local, latents)
    tiled = vae_tiling.decode(CONFIG, local, latents, tile=22, overlap=20)
    # One cut a side for either tile of the rows: rows 0..22 and 2..24, of which 2..22 are blended.
    error = np.abs(tiled - whole).max(axis=(0, 2, 3))
    kept = 2 * (22 - REACH)  # rows of pixels above the reach of the cut at 22 that the second tile does not touch
    assert error[: 2 * 2].max() < 1e-5
    assert 1e-5 < error[kept:-kept].max() < 0.2


def test_a_tiled_stream_is_the_tiled_clip(params, latents):
    clip = vae_tiling.decode(CONFIG, params, latents, tile=12, overlap=4)
    first, cache = vae_tiling.decode_stream(CONFIG, params, latents[:1], tile=12, overlap=4)
    rest, cache = vae_tiling.decode_stream(CONFIG, params, latents[1:], cache, tile=12, overlap=4)
    np.testing.assert_allclose(np.concatenate([first, rest]), clip, atol=1e-5)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(cache)} == {3 * 2}


def test_tiles_see_their_own_part_of_the_frame(params, latents):
    """A change in one corner stays out of tiles that do not hold it."""
    changed = latents.at[:, :2, :2].add(3.0)
    decode = lambda z: vae_tiling.decode(CONFIG, params, z, tile=10, overlap=2)  # noqa: E731
    difference = np.abs(decode(changed) - decode(latents)).max(axis=(0, 3))
    assert difference[:4, :4].min() > 0
    assert not difference[20:, :].any() and not difference[:, 20:].any()


def test_memory_falls_with_the_tile(params):
    z = jax.ShapeDtypeStruct((3, 48, 48, CONFIG.latent_channels), jnp.float32)

    def temporaries(tile):
        return vae_tiling.decode.lower(CONFIG, params, z, tile=tile).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(16) < temporaries(48) / 2


@given(st.integers(1, 90), st.integers(1, 40), st.integers(0, 39))
def test_tiles_cover_and_weights_sum_to_one(length, tile, overlap):
    if overlap >= tile:
        with pytest.raises(UserError, match="overlap"):
            vae_tiling.starts(length, tile, overlap)
        return
    first, size = vae_tiling.starts(length, tile, overlap), min(tile, length)
    total = np.zeros(3 * length)
    weights = vae_tiling._weights(first, size, length, 3)
    for start, weight in zip(first, weights, strict=True):
        total[3 * start : 3 * (start + size)] += weight
    np.testing.assert_allclose(total, 1, atol=1e-6)
    assert all(b - a <= tile - overlap for a, b in itertools.pairwise(first))


def test_encode_refuses_what_vae_encode_refuses(params):
    with pytest.raises(UserError, match="frames"):
        vae_tiling.encode(CONFIG, params, jnp.zeros((4, 8, 8, 3)), tile=8)

"""The causal VAE: streams equal whole clips, shortcuts are what they say, sizes are Wan's."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax.errors import UserError
from mirage_jax.models import vae
from mirage_jax.models.nn import vae_layers

TINY = vae.VAEConfig(
    latent_channels=5,
    encoder_dim=4,
    decoder_dim=8,
    multipliers=(1, 2, 4),
    blocks=1,
    time_downsample=(True, True),
    time_kernels=(1, 3, 3),
    latent_mean=(0.1, -0.2, 0.3, 0.0, 0.5),
    latent_std=(1.0, 2.0, 0.5, 1.5, 3.0),
)


@pytest.fixture(scope="module")
def params():
    return vae.init(TINY, jax.random.key(0))


@pytest.fixture(scope="module")
def frames():
    return jax.random.uniform(jax.random.key(1), (13, 16, 24, 3), minval=-1.0, maxval=1.0)


@pytest.mark.parametrize("chunks", [(1, 4, 4, 4), (5, 8), (1, 12), (9, 4)])
def test_streamed_encoding_equals_the_whole(params, frames, chunks):
    whole = vae.encode(TINY, params, frames)
    cache, parts, start = None, [], 0
    for size in chunks:
        part, cache = vae.encode_stream(TINY, params, frames[start : start + size], cache)
        parts.append(part)
        start += size
    np.testing.assert_allclose(jnp.concatenate(parts), whole, atol=1e-5)


@pytest.mark.parametrize("chunks", [(1, 1, 1, 1), (2, 2), (1, 3)])
def test_streamed_decoding_equals_the_whole(params, chunks):
    latents = 0.5 * jax.random.normal(jax.random.key(2), (4, 2, 3, 5))
    whole = vae.decode(TINY, params, latents)
    assert whole.shape == (13, 16, 24, 3)
    cache, parts, start = None, [], 0
    for size in chunks:
        part, cache = vae.decode_stream(TINY, params, latents[start : start + size], cache)
        parts.append(part)
        start += size
    np.testing.assert_allclose(jnp.concatenate(parts), whole, atol=1e-5)
    # The test is worth something only if the past matters: without a cache a later chunk differs.
    restarted, _ = vae.decode_stream(TINY, params, latents[1:])
    assert np.abs(restarted[1:] - whole[5:]).max() > 1e-3


def test_a_vae_of_one_latent_a_frame_codes_and_decodes_each_frame_by_itself(frames):
    config = vae.VAEConfig(
        latent_channels=5,
        encoder_dim=4,
        decoder_dim=8,
        multipliers=(1,),
        blocks=1,
        time_downsample=(),
        time_kernels=(1,),
        patch=4,
    )
    assert (config.stride_space, config.stride_time, config.latent_frames(6)) == (4, 1, 6)
    params = vae.init(config, jax.random.key(0))
    latents = vae.encode(config, params, frames)
    shown = vae.decode(config, params, latents)
    assert latents.shape == (13, 4, 6, 5) and shown.shape == frames.shape
    np.testing.assert_allclose(vae.encode(config, params, frames[7:8]), latents[7:8], atol=1e-5)
    np.testing.assert_allclose(vae.decode(config, params, latents[7:8]), shown[7:8], atol=1e-5)

    coded, cache = vae.encode_stream(config, params, frames[:3])
    more, _ = vae.encode_stream(config, params, frames[3:], cache)
    np.testing.assert_allclose(jnp.concatenate([coded, more]), latents, atol=1e-5)
    first, cache = vae.decode_stream(config, params, latents[:3])
    rest, _ = vae.decode_stream(config, params, latents[3:], cache)
    np.testing.assert_allclose(jnp.concatenate([first, rest]), shown, atol=1e-5)


def test_cache_has_one_shape_after_the_first_chunk(params):
    """So that it can be carried through `lax.scan`."""
    latents = jnp.ones((1, 2, 3, 5))
    _, first = vae.decode_stream(TINY, params, latents)
    _, second = vae.decode_stream(TINY, params, latents, first)
    assert jax.tree.map(jnp.shape, first) == jax.tree.map(jnp.shape, second)
    assert jax.tree.structure(first) == jax.tree.structure(second)


def test_codes_see_only_the_past(params, frames):
    changed = frames.at[9:].set(0.0)
    before, after = (vae.encode(TINY, params, x) for x in (frames, changed))
    np.testing.assert_array_equal(before[:3], after[:3])
    assert np.abs(before[3] - after[3]).max() > 1e-3


def test_latents_are_normalised(params, frames):
    mean, _ = vae.moments(TINY, params, frames)
    expected = (mean - jnp.array(TINY.latent_mean)) / jnp.array(TINY.latent_std)
    np.testing.assert_allclose(vae.encode(TINY, params, frames), expected, atol=1e-6)
    np.testing.assert_allclose(vae.denormalise(TINY, expected), mean, atol=1e-5)


@pytest.mark.parametrize("count", [0, 2, 4, 8, 12])
def test_other_than_4k_plus_1_frames_are_refused(params, frames, count):
    with pytest.raises(UserError, match=rf"4k \+ 1 frames .* got {count}"):
        vae.encode(TINY, params, frames[:count])


def test_odd_sizes_are_refused(params, frames):
    with pytest.raises(UserError, match="multiples of 8"):
        vae.encode(TINY, params, frames[:, :15])


def test_config_with_lists_that_do_not_fit_is_refused():
    with pytest.raises(UserError, match="3 multipliers need 2 time_downsample and 3 time_kernels"):
        dataclasses.replace(TINY, time_downsample=(True,))


def test_statistics_of_another_number_of_channels_are_refused():
    with pytest.raises(
        UserError, match="5 latent channels need as many entries of latent_mean and latent_std, found 2 and 5"
    ):
        dataclasses.replace(TINY, latent_mean=(0.0, 1.0))


def test_average_down_is_the_mean_over_folded_cells():
    x = np.random.default_rng(0).normal(size=(4, 4, 6, 2)).astype(np.float32)
    out = vae_layers.average_down(x, 4, 2, 2)
    assert out.shape == (2, 2, 3, 4)
    # Output channel 1 averages channel 0's cells of the later frame of each pair.
    expected = x[1::2, :, :, 0].reshape(2, 2, 2, 3, 2).mean((2, 4))
    np.testing.assert_allclose(out[..., 1], expected, atol=1e-6)
    # An odd first frame is joined to a zero frame before it.
    odd = vae_layers.average_down(x[:3], 2, 2, 1)
    np.testing.assert_allclose(odd[0], x[0] / 2, atol=1e-6)


def test_duplicate_up_inverts_the_average_of_equal_cells():
    x = np.random.default_rng(1).normal(size=(3, 2, 2, 8)).astype(np.float32)
    up = vae_layers.duplicate_up(x, 4, 2, 2, first=False)
    assert up.shape == (6, 4, 4, 4)
    np.testing.assert_allclose(vae_layers.average_down(up, 8, 2, 2), x, atol=1e-6)
    assert vae_layers.duplicate_up(x, 4, 2, 2, first=True).shape == (5, 4, 4, 4)


def test_patches_fold_and_unfold():
    x = np.random.default_rng(2).normal(size=(2, 4, 6, 3)).astype(np.float32)
    folded = vae_layers.fold_patches(x, 2)
    assert folded.shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(vae_layers.unfold_patches(folded, 2), x)
    # Channel order (colour, column, row): entry 1 of a cell is the lower left pixel's red.
    np.testing.assert_array_equal(folded[..., 1], x[:, 1::2, ::2, 0])


def test_full_size_has_the_parameters_of_wan22():
    shapes = jax.eval_shape(lambda key: vae.init(vae.WAN22, key), jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == 704_688_668
    assert (vae.WAN22.stride_space, vae.WAN22.stride_time) == (16, 4)
    assert vae.WAN22.latent_mean[:2] == (-0.2289, -0.0052) and vae.WAN22.latent_std[-2:] == (0.7468, 0.7744)

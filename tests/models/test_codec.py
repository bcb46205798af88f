"""How the VAE of a world is run: whole, frame by frame or in tiles, by the size of the picture; in two types."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax.errors import UserError
from mirage_jax.models import codec, vae, vae_tiling
from mirage_jax.models.codec import Codec
from mirage_jax.models.vae import VAEConfig

VAE = VAEConfig(
    latent_channels=3, encoder_dim=4, decoder_dim=4, multipliers=(1, 1), time_downsample=(True,), time_kernels=(1, 3)
)


@pytest.fixture(scope="module")
def params():
    return vae.init(VAE, jax.random.key(0))


@pytest.fixture(scope="module")
def frames():
    return jax.random.uniform(jax.random.key(1), (5, 16, 24, 3), minval=-1.0)


def test_large_pictures_go_frame_by_frame_and_small_ones_whole(params, frames, monkeypatch):
    tiled = []
    monkeypatch.setattr(vae_tiling, "encode", lambda *args, tile: tiled.append(tile) or vae.encode(*args))
    monkeypatch.setattr(vae_tiling, "decode", lambda *args, tile: tiled.append(tile) or vae.decode(*args))
    latents = Codec(VAE).encode(params, frames)
    Codec(VAE).decode(params, latents)
    assert not tiled
    monkeypatch.setattr(codec, "LARGEST_WHOLE", 16 * 24 - 1)
    Codec(VAE).encode(params, frames)
    Codec(VAE).decode(params, latents)
    assert tiled == [6, 6], "as wide as the frame in cells: nothing is cut"
    Codec(VAE, tile=0).encode(params, frames)
    assert len(tiled) == 2


def test_frame_by_frame_gives_what_whole_clips_give(params, frames):
    whole, single = Codec(VAE, tile=0), Codec(VAE, tile=6)
    latents = whole.encode(params, frames)
    np.testing.assert_allclose(single.encode(params, frames), latents, atol=1e-5)
    np.testing.assert_allclose(single.decode(params, latents), whole.decode(params, latents), atol=1e-5)


def test_bfloat16_is_near_and_gives_float32(params, frames):
    exact, fast = Codec(VAE), Codec(VAE, dtype="bfloat16")
    latents = exact.encode(params, frames)
    for mine, other in (
        (fast.encode(params, frames), latents),
        (fast.decode(params, latents), exact.decode(params, latents)),
        (fast.go_on(params, latents[0], latents[1:], fast.begin(params, frames)[2])[0], None),
    ):
        assert mine.dtype == jnp.float32
        if other is not None:
            error = float(jnp.abs(mine - other).max())
            assert 0 < error < 0.1 * float(jnp.abs(other).max())


def test_other_types_are_refused():
    with pytest.raises(UserError, match="vae_dtype must be one of float32, bfloat16, found 'float16'"):
        Codec(VAE, dtype="float16")

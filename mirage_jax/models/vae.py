"""Causal video VAE of the Wan2.2 family, whole clips or streams, at any width.

Frames are coded causally: frame 0 alone, then groups of `stride_time`. All that a later chunk needs from an earlier one
(the last two frames at each convolution) is the flax collection `cache`, a plain pytree: a stream that carries it gives
exactly what the whole clip gives.

    latents = vae.encode(config, params, frames)                  # whole clip
    frames, cache = vae.decode_stream(config, params, latents)    # first chunk: starts the cache
    frames, cache = vae.decode_stream(config, params, latents, cache)

Modules take one clip, `[T, H, W, C]`; batch with `jax.vmap`.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from mirage_jax.errors import UserError
from mirage_jax.models.nn.vae_layers import (
    CausalConv,
    ChannelNorm,
    Down,
    Middle,
    ResidualBlock,
    Up,
    average_down,
    duplicate_up,
    fold_patches,
    unfold_patches,
)

Cache = Any


@dataclasses.dataclass(frozen=True)
class VAEConfig:
    """Sizes of the VAE; the defaults are those of Wan2.2.

    Attributes:
      latent_channels: `C`, channels of a latent cell.
      encoder_dim, decoder_dim: width of the highest-resolution level.
      multipliers: width of each level in units of the base width, finest first.
      blocks: residual blocks a level in the encoder (the decoder has one more).
      time_downsample: for each step between levels, whether time is halved too.
      time_kernels: extent in time (3 or 1) of the convolutions of each level.
      patch: pixels of a side folded into channels before the first convolution.
      latent_mean, latent_std: per-channel statistics; latents leave the encoder as
        `(z - mean) / std`. Empty means 0 and 1.
    """

    latent_channels: int = 48
    encoder_dim: int = 160
    decoder_dim: int = 256
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 2
    time_downsample: tuple[bool, ...] = (False, True, True)
    time_kernels: tuple[int, ...] = (3, 3, 3, 3)
    patch: int = 2
    latent_mean: tuple[float, ...] = ()
    latent_std: tuple[float, ...] = ()

    def __post_init__(self):
        levels = len(self.multipliers)
        if len(self.time_downsample) != levels - 1 or len(self.time_kernels) != levels:
            raise UserError(
                f"VAE config: {levels} multipliers need {levels - 1} time_downsample and {levels} time_kernels, "
                f"found {len(self.time_downsample)} and {len(self.time_kernels)}"
            )
        statistics = len(self.latent_mean), len(self.latent_std)
        if statistics not in ((0, 0), (self.latent_channels, self.latent_channels)):
            raise UserError(
                f"VAE config: {self.latent_channels} latent channels need as many entries of latent_mean and "
                f"latent_std, found {statistics[0]} and {statistics[1]}"
            )

    @property
    def stride_space(self) -> int:
        """Pixels of a side under one latent cell, `s`."""
        return self.patch * 2 ** (len(self.multipliers) - 1)

    @property
    def stride_time(self) -> int:
        """Frames under one latent frame after the first, `r`."""
        return 2 ** sum(self.time_downsample)

    def latent_frames(self, frames: int) -> int:
        """Latent frames of a clip of `frames = r k + 1` frames; anything else is an error."""
        if frames < 1 or (frames - 1) % self.stride_time:
            raise UserError(f"the VAE codes {self.stride_time}k + 1 frames (1, 5, 9, ...), got {frames}")
        return 1 + (frames - 1) // self.stride_time


class Encoder(nn.Module):
    """`[T, H, W, 3]` to mean and log-variance `[t, h, w, 2C]`."""

    config: VAEConfig

    @nn.compact
    def __call__(self, x: chex.Array, first: bool = True) -> jax.Array:
        c = self.config
        x = CausalConv(c.encoder_dim, (c.time_kernels[0], 3, 3), name="conv_in")(fold_patches(x, c.patch))
        for level, multiplier in enumerate(c.multipliers):
            features, entry = c.encoder_dim * multiplier, x
            for block in range(c.blocks):
                x = ResidualBlock(features, c.time_kernels[level], name=f"level{level}_block{block}")(x)
            if level + 1 < len(c.multipliers):
                time = c.time_downsample[level]
                x = Down(time, name=f"level{level}_down")(x, first)
                x = x + average_down(entry, features, 2 if time else 1, 2)
            else:
                x = x + average_down(entry, features, 1, 1)
        x = Middle(x.shape[-1], c.time_kernels[-1], name="middle")(x)
        x = nn.silu(ChannelNorm(name="norm_out")(x))
        x = CausalConv(2 * c.latent_channels, (c.time_kernels[-1], 3, 3), name="conv_out")(x)
        return CausalConv(2 * c.latent_channels, (1, 1, 1), name="moments")(x)


class Decoder(nn.Module):
    """Unnormalised latents `[t, h, w, C]` to `[T, H, W, 3]`."""

    config: VAEConfig

    @nn.compact
    def __call__(self, z: chex.Array, first: bool = True) -> jax.Array:
        c = self.config
        x = CausalConv(c.latent_channels, (1, 1, 1), name="latents")(z)
        x = CausalConv(c.decoder_dim * c.multipliers[-1], (c.time_kernels[-1], 3, 3), name="conv_in")(x)
        x = Middle(x.shape[-1], c.time_kernels[-1], name="middle")(x)
        for level in reversed(range(len(c.multipliers))):
            features, entry = c.decoder_dim * c.multipliers[level], x
            for block in range(c.blocks + 1):
                x = ResidualBlock(features, c.time_kernels[level], name=f"level{level}_block{block}")(x)
            if level:
                time = c.time_downsample[level - 1]
                x = Up(time, name=f"level{level}_up")(x, first)
                x = x + duplicate_up(entry, features, 2 if time else 1, 2, first)
        x = nn.silu(ChannelNorm(name="norm_out")(x))
        x = CausalConv(3 * c.patch**2, (c.time_kernels[0], 3, 3), name="conv_out")(x)
        return unfold_patches(x, c.patch)


class VAE(nn.Module):
    """Encoder and decoder; the functions below are the face to use."""

    config: VAEConfig

    def setup(self):
        """Declares the two halves."""
        self.encoder = Encoder(self.config)
        self.decoder = Decoder(self.config)

    def __call__(self, frames: chex.Array) -> jax.Array:
        """Mean code and back, `[T, H, W, 3]` to itself: touches every parameter."""
        return self.decode(jnp.split(self.encode(frames), 2, axis=-1)[0])

    def encode(self, frames: chex.Array, first: bool = True) -> jax.Array:
        """Mean and log-variance of unnormalised latents."""
        return self.encoder(frames, first)

    def decode(self, latents: chex.Array, first: bool = True) -> jax.Array:
        """Frames of unnormalised latents, not clipped."""
        return self.decoder(latents, first)


def init(config: VAEConfig, key: chex.PRNGKey) -> Any:
    """Fresh parameters."""
    side = config.stride_space
    frames = jnp.zeros((1 + config.stride_time, side, side, 3))
    return VAE(config).init({"params": key}, frames)["params"]


@functools.partial(jax.jit, static_argnums=0)
def moments(config: VAEConfig, params: Any, frames: chex.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and log-variance `[t, h, w, C]` of the unnormalised latents of a whole clip (for training)."""
    _check_frames(config, frames, frames.shape[0])
    out = VAE(config).apply({"params": params}, frames, method="encode")
    mean, log_variance = jnp.split(out, 2, axis=-1)
    return mean, jnp.clip(log_variance, -30.0, 20.0)


@functools.partial(jax.jit, static_argnums=0)
def encode(config: VAEConfig, params: Any, frames: chex.Array) -> jax.Array:
    """Normalised latents of a whole clip (the mean of the posterior).

    Args:
      config, params: of the VAE.
      frames: `[T, H, W, 3]` in [-1, 1]; `T = r k + 1`; H and W multiples of the stride.

    Returns:
      `[t, h, w, C]` with `t = 1 + (T - 1) / r`.

    Raises:
      UserError: for another number of frames or an odd size; nothing is dropped silently.
    """
    return normalise(config, moments(config, params, frames)[0])


@functools.partial(jax.jit, static_argnums=0)
def encode_stream(config: VAEConfig, params: Any, frames: chex.Array, cache: Cache = None) -> tuple[jax.Array, Cache]:
    """Normalised latents of the next chunk of a stream, and the cache to carry.

    Without a cache the stream starts: `r k + 1` frames. With one, `r k` frames follow.
    """
    first = cache is None
    _check_frames(config, frames, frames.shape[0] + (not first))
    out, cache = _stream(config, params, frames, cache, "encode")
    return normalise(config, jnp.split(out, 2, axis=-1)[0]), cache


@functools.partial(jax.jit, static_argnums=0)
def decode(config: VAEConfig, params: Any, latents: chex.Array) -> jax.Array:
    """Frames `[r (t - 1) + 1, H, W, 3]`, clipped to [-1, 1], of a whole clip of normalised latents."""
    out = VAE(config).apply({"params": params}, denormalise(config, latents), method="decode")
    return jnp.clip(out, -1.0, 1.0)


@functools.partial(jax.jit, static_argnums=0)
def decode_stream(config: VAEConfig, params: Any, latents: chex.Array, cache: Cache = None) -> tuple[jax.Array, Cache]:
    """Frames of the next latents of a stream, and the cache to carry.

    Without a cache the stream starts: the first latent frame gives one frame. With one,
    every latent frame gives `r` frames. Equal to `decode` of the whole.
    """
    out, cache = _stream(config, params, denormalise(config, latents), cache, "decode")
    return jnp.clip(out, -1.0, 1.0), cache


def normalise(config: VAEConfig, z: chex.Array) -> jax.Array:
    """`(z - mean) / std` per channel, in float32 and back."""
    if not config.latent_mean:
        return jnp.asarray(z)
    mean, std = (jnp.array(x, jnp.float32) for x in (config.latent_mean, config.latent_std))
    return ((z - mean) / std).astype(z.dtype)


def denormalise(config: VAEConfig, latents: chex.Array) -> jax.Array:
    """The inverse of `normalise`."""
    if not config.latent_mean:
        return jnp.asarray(latents)
    mean, std = (jnp.array(x, jnp.float32) for x in (config.latent_mean, config.latent_std))
    return (latents * std + mean).astype(latents.dtype)


def _stream(config: VAEConfig, params: Any, x: chex.Array, cache: Cache, method: str) -> tuple[jax.Array, Cache]:
    variables = {"params": params} | ({} if cache is None else {"cache": cache})
    out, updated = VAE(config).apply(variables, x, first=cache is None, method=method, mutable=["cache"])
    return out, updated.get("cache", {})  # without convolutions over time there is no past to carry


def _check_frames(config: VAEConfig, frames: chex.Array, count: int) -> None:
    config.latent_frames(count)
    _, height, width, channels = frames.shape
    stride = config.stride_space
    if height % stride or width % stride or channels != 3:
        raise UserError(f"the VAE needs RGB frames with sides that are multiples of {stride}, got {frames.shape}")


# fmt: off
WAN22 = VAEConfig(
    latent_mean=(
        -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813, 0.0891, 0.157,
        -0.0098, 0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502, -0.2055,
        -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.123, -0.0313, -0.1649, 0.0117, 0.0723, -0.2839, -0.2083,
        -0.052, 0.3748, 0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667,
    ),
    latent_std=(
        0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.499, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901, 0.6885, 0.6165,
        0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659, 0.7069, 0.5338, 0.4889, 0.4917,
        0.4069, 0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944, 0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.06,
        0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
    ),
)
# fmt: on
"""The VAE of Wan2.2-TI2V-5B with its public latent statistics: 16x16x4 strides, 48 channels, 704,688,668 parameters."""

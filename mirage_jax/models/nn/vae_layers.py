"""The layers of the video VAE: causal convolutions with a cache, residual and resampling blocks, shortcuts.

All take one clip, `[T, H, W, C]`.
"""

from __future__ import annotations

import math

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from mirage_jax.models.nn import attention


class CausalConv(nn.Module):
    """3-D convolution that sees only the past; `[T, H, W, C] -> [T', H', W', features]`.

    Attributes:
      features: output channels.
      kernel: extents in time, height and width.
      stride_time: with 2, the caller gives the past frame itself (see `TimeDown`).
      pad_past: whether the module keeps the past (zeros at the start of a video).
    """

    features: int
    kernel: tuple[int, int, int] = (3, 3, 3)
    stride_time: int = 1
    pad_past: bool = True

    @nn.compact
    def __call__(self, x: chex.Array) -> jax.Array:
        time, height, width = self.kernel
        fan_in = math.prod(self.kernel) * x.shape[-1]
        bound = 1 / math.sqrt(fan_in)

        def uniform(key, shape):
            return jax.random.uniform(key, shape, jnp.float32, -bound, bound)

        kernel = self.param("kernel", uniform, (*self.kernel, x.shape[-1], self.features)).astype(x.dtype)
        bias = self.param("bias", uniform, (self.features,)).astype(x.dtype)
        if self.pad_past and time > 1:
            x = _with_past(self, x, time - 1)
        frames = (x.shape[0] - time) // self.stride_time + 1
        pad = [(height // 2, height // 2), (width // 2, width // 2)]
        if attention.platform() == "cpu":
            # XLA's 3-D convolution is slow on CPU: one 2-D convolution a time tap is several times faster.
            taps = [x[k : k + (frames - 1) * self.stride_time + 1 : self.stride_time] for k in range(time)]
            out = sum(_conv2d(tap, kernel[k], pad) for k, tap in enumerate(taps)) + bias
            return out
        out = jax.lax.conv_general_dilated(
            x[None], kernel, (self.stride_time, 1, 1), [(0, 0), *pad], dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
        )
        return out[0] + bias


def _conv2d(x: jax.Array, kernel: jax.Array, pad, stride: int = 1) -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), pad, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _with_past(module: nn.Module, x: jax.Array, frames: int) -> jax.Array:
    """`x` preceded by its `frames` predecessors: from the cache if one is carried, else zeros."""
    zeros = jnp.zeros((frames, *x.shape[1:]), x.dtype)
    if not module.is_mutable_collection("cache"):
        return jnp.concatenate([zeros, x])
    past = module.variable("cache", "past", lambda: zeros)
    x = jnp.concatenate([past.value.astype(x.dtype), x])
    past.value = x[-frames:]
    return x


class ChannelNorm(nn.Module):
    """L2 norm over channels times sqrt(channels) times a weight."""

    @nn.compact
    def __call__(self, x: chex.Array) -> jax.Array:
        weight = self.param("weight", nn.initializers.ones, (x.shape[-1],))
        x32 = x.astype(jnp.float32)
        # Equal to x / max(|x|, 1e-12), with a gradient that stays finite at zero.
        inverse = jax.lax.rsqrt(jnp.maximum(jnp.sum(x32 * x32, axis=-1, keepdims=True), 1e-24))
        return (x32 * inverse * (x.shape[-1] ** 0.5) * weight).astype(x.dtype)


class ResidualBlock(nn.Module):
    """Norm, SiLU, causal convolution, twice, plus a 1x1x1 shortcut where widths differ."""

    features: int
    time_kernel: int = 3

    @nn.compact
    def __call__(self, x: chex.Array) -> jax.Array:
        kernel = (self.time_kernel, 3, 3)
        shortcut = x if x.shape[-1] == self.features else CausalConv(self.features, (1, 1, 1), name="shortcut")(x)
        x = CausalConv(self.features, kernel, name="conv1")(nn.silu(ChannelNorm(name="norm1")(x)))
        x = CausalConv(self.features, kernel, name="conv2")(nn.silu(ChannelNorm(name="norm2")(x)))
        return x + shortcut


class FrameAttention(nn.Module):
    """Single-head self-attention over the cells of each frame, with a residual."""

    @nn.compact
    def __call__(self, x: chex.Array) -> jax.Array:
        frames, height, width, dim = x.shape
        qkv = CausalConv(3 * dim, (1, 1, 1), name="qkv")(ChannelNorm(name="norm")(x))
        q, k, v = jnp.split(qkv.reshape(frames, height * width, 1, 3 * dim), 3, axis=-1)
        out = jax.nn.dot_product_attention(q, k, v).reshape(frames, height, width, dim)
        return x + CausalConv(dim, (1, 1, 1), name="out")(out)


class Middle(nn.Module):
    """Residual block, attention, residual block at the coarsest level."""

    features: int
    time_kernel: int

    @nn.compact
    def __call__(self, x: chex.Array) -> jax.Array:
        x = ResidualBlock(self.features, self.time_kernel, name="block1")(x)
        x = FrameAttention(name="attention")(x)
        return ResidualBlock(self.features, self.time_kernel, name="block2")(x)


class Down(nn.Module):
    """Halves space, and time if asked; frame 0 of a video keeps its own latent frame."""

    time: bool

    @nn.compact
    def __call__(self, x: chex.Array, first: bool) -> jax.Array:
        dim = x.shape[-1]
        x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
        x = Conv2D(dim, stride=2, name="space")(x)
        if not self.time:
            return x
        conv = CausalConv(dim, (3, 1, 1), stride_time=2, pad_past=False, name="time")
        cached = self.is_mutable_collection("cache")
        last = self.variable("cache", "past", lambda: x[-1:]) if cached else None
        if first:
            # A call keeps parameters and cache alive even where a first chunk has one frame.
            body = conv(jnp.concatenate([x[:1], x[:1], x[:1]]) if len(x) == 1 else x)
            out = x if len(x) == 1 else jnp.concatenate([x[:1], body])
        else:
            out = conv(jnp.concatenate([last.value.astype(x.dtype), x]))  # pyright: ignore
        if last is not None:
            last.value = x[-1:]
        return out


class Up(nn.Module):
    """Doubles space, and time if asked; frame 0 of a video stays one frame."""

    time: bool

    @nn.compact
    def __call__(self, x: chex.Array, first: bool) -> jax.Array:
        if self.time:
            double = TimeDouble(name="time")
            if first:
                body = double(x[1:]) if len(x) > 1 else double(x[:0])
                x = jnp.concatenate([x[:1], body])
            else:
                x = double(x)
        x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
        return Conv2D(x.shape[-1], pad=1, name="space")(x)


class TimeDouble(nn.Module):
    """Two frames from each frame and its past."""

    @nn.compact
    def __call__(self, x: chex.Array) -> jax.Array:
        frames, height, width, dim = x.shape
        x = CausalConv(2 * dim, (3, 1, 1), name="conv")(x)
        x = x.reshape(frames, height, width, 2, dim).transpose(0, 3, 1, 2, 4)
        return x.reshape(2 * frames, height, width, dim)


class Conv2D(nn.Module):
    """3x3 convolution frame by frame, zero padding `pad`."""

    features: int
    stride: int = 1
    pad: int = 0

    @nn.compact
    def __call__(self, x: chex.Array) -> jax.Array:
        bound = 1 / math.sqrt(9 * x.shape[-1])

        def uniform(key, shape):
            return jax.random.uniform(key, shape, jnp.float32, -bound, bound)

        kernel = self.param("kernel", uniform, (3, 3, x.shape[-1], self.features)).astype(x.dtype)
        bias = self.param("bias", uniform, (self.features,)).astype(x.dtype)
        return _conv2d(x, kernel, [(self.pad, self.pad)] * 2, self.stride) + bias


def average_down(x: chex.Array, features: int, time: int, space: int) -> jax.Array:
    """Parameter-free shortcut of a down step: space-time cells folded into channels, then averaged.

    `[T, H, W, C] -> [ceil(T/time), H/space, W/space, features]`; zeros fill the front of time.
    Where the fold gives fewer than `features` channels they are repeated instead.
    """
    x = jnp.pad(x, ((-len(x) % time, 0), (0, 0), (0, 0), (0, 0)))
    frames, height, width, channels = x.shape
    x = x.reshape(frames // time, time, height // space, space, width // space, space, channels)
    x = x.transpose(0, 2, 4, 6, 1, 3, 5)  # channel slowest, then time, row, column
    x = x.reshape(*x.shape[:3], -1)
    if features > x.shape[-1]:
        return jnp.repeat(x, features // x.shape[-1], axis=-1)
    return x.reshape(*x.shape[:3], features, -1).mean(axis=-1)


def duplicate_up(x: chex.Array, features: int, time: int, space: int, first: bool) -> jax.Array:
    """Parameter-free shortcut of an up step: channels repeated, then unfolded to space-time cells.

    `[T, H, W, C] -> [T * time, H * space, W * space, features]`; a video's first frame stays one.
    """
    frames, height, width, channels = x.shape
    x = jnp.repeat(x, features * time * space * space // channels, axis=-1)
    x = x.reshape(frames, height, width, features, time, space, space)
    x = x.transpose(0, 4, 1, 5, 2, 6, 3).reshape(frames * time, height * space, width * space, features)
    return x[time - 1 :] if first else x


def fold_patches(x: chex.Array, patch: int) -> jax.Array:
    """`[T, H, W, c] -> [T, H/p, W/p, c p p]`, channel order (c, column, row) as in Wan2.2."""
    frames, height, width, channels = x.shape
    x = x.reshape(frames, height // patch, patch, width // patch, patch, channels)
    return x.transpose(0, 1, 3, 5, 4, 2).reshape(frames, height // patch, width // patch, -1)


def unfold_patches(x: chex.Array, patch: int) -> jax.Array:
    """The inverse of `fold_patches`."""
    frames, height, width, channels = x.shape
    x = x.reshape(frames, height, width, channels // patch**2, patch, patch)
    return x.transpose(0, 1, 5, 2, 4, 3).reshape(frames, height * patch, width * patch, -1)

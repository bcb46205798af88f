"""The pieces a Wan block is made of: attention layers, norms, the modulated block itself.

Everything is unbatched (`[frames, tokens, dim]` or `[L, dim]`); a batch is a `jax.vmap` outside,
under which every `Dense` stays one 2-D matrix product over batch x tokens.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from mirage_jax.models import partition, quantize
from mirage_jax.models.nn import rope, sequence_parallel
from mirage_jax.models.nn.attention import attention


def timestep_features(timesteps: jax.Array, width: int) -> jax.Array:
    """`[cos | sin]` of `t * 10000^(-j / (width/2))`: `[F]` in 0..1000 -> `[F, width]` float32."""
    half = width // 2
    frequencies = 10_000.0 ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = timesteps.astype(jnp.float32)[:, None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class RMSNorm(nn.Module):
    """`x / rms(x) * weight` over the last axis, computed in float32."""

    eps: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[..., D]` -> `[..., D]`, same dtype."""
        weight = self.param("weight", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        wide = x.astype(jnp.float32)
        scale = jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        return (wide * scale * weight).astype(x.dtype)


def layer_norm(x: jax.Array, eps: float) -> jax.Array:
    """Layer norm without learned parameters, in and out of float32."""
    x = x.astype(jnp.float32)
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(centred * centred, axis=-1, keepdims=True) + eps)


def modulate(x: jax.Array, shift: jax.Array, scale: jax.Array, eps: float, dtype: jnp.dtype) -> jax.Array:
    """`LN(x) (1 + scale) + shift` in float32: `x [F, n, D]`, `shift` and `scale` `[F, D]` -> `[F, n, D]`."""
    return (layer_norm(x, eps) * (1.0 + scale[:, None]) + shift[:, None]).astype(dtype)


class Dense(nn.Dense):
    """A linear layer whose kernel may be one in 8 bits (`quantize.int8`)."""

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """`[..., in]` -> `[..., features]`."""
        kernel = self.get_variable("params", "kernel")
        if not quantize.is_quantized(kernel):
            return super().__call__(inputs)
        out = quantize.matmul(inputs, kernel, self.dtype)
        return out + self.get_variable("params", "bias").astype(self.dtype) if self.use_bias else out


def dense(features: int, dtype: jnp.dtype, name: str | None = None, **options) -> nn.Dense:
    """A linear layer in the initialisation of Wan: Xavier-uniform weights, zero bias."""
    options.setdefault("kernel_init", nn.initializers.xavier_uniform())
    return Dense(features, dtype=dtype, name=name, **options)


class Attention(nn.Module):
    """Multi-head attention with RMS norm of queries and keys over the full width.

    Attributes:
      dim: width; `heads` divides it.
      eps: of the norms.
      dtype: of the computation.
    """

    dim: int
    heads: int
    eps: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        context: jax.Array | None = None,
        *,
        rotary: tuple[jax.Array, jax.Array] | None = None,
        key_mask: jax.Array | None = None,
    ) -> jax.Array:
        """`x [F, n, D]` or `[L, D]` attends to `context [M, D]` (itself where None) -> as `x`.

        Args:
          x: queries; the mesh in use splits those of frames, `[F, n, D]`.
          context: keys and values.
          rotary: cosines and sines `[F * n, head_dim / 2]` for queries and keys (self-attention only).
          key_mask: bool `[F * n]`, the keys that count (self-attention only).
        """
        keys = x if context is None else context

        def split(y: jax.Array) -> jax.Array:
            return y.reshape(*y.shape[:-1], self.heads, -1)

        q = RMSNorm(self.eps, name="norm_q")(dense(self.dim, self.dtype, "q")(x))
        k = RMSNorm(self.eps, name="norm_k")(dense(self.dim, self.dtype, "k")(keys))
        q, k, v = split(q), split(k), split(dense(self.dim, self.dtype, "v")(keys))
        if rotary is not None:
            rotary = tuple(table.reshape(*x.shape[:-1], -1) for table in rotary)
            q, k = rope.rotate_pairs(q, *rotary), rope.rotate_pairs(k, *rotary)
        if x.ndim == 2:
            out = attention(q, k, v, key_mask)
        elif context is None:
            out = sequence_parallel.self_attention(q, k, v, key_mask)
        else:
            out = sequence_parallel.cross_attention(q, k, v)
        return dense(self.dim, self.dtype, "o")(out.reshape(x.shape))


class FeedForward(nn.Module):
    """Linear, tanh-GELU, linear."""

    dim: int
    hidden: int
    dtype: jnp.dtype
    kernel_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[..., any]` -> `[..., dim]`."""
        x = nn.gelu(dense(self.hidden, self.dtype, "up", kernel_init=self.kernel_init)(x), approximate=True)
        return dense(self.dim, self.dtype, "down", kernel_init=self.kernel_init)(x)


class Block(nn.Module):
    """One Wan block: modulated self-attention, text cross-attention, modulated feed-forward.

    Attributes:
      dim, ffn_dim, heads, eps, dtype: as in `DiTConfig`.
      text: whether the block has cross-attention.
    """

    dim: int
    ffn_dim: int
    heads: int
    eps: float
    dtype: jnp.dtype
    text: bool

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        modulation: jax.Array,
        rotary: tuple[jax.Array, jax.Array],
        key_mask: jax.Array | None,
        text: jax.Array | None,
    ) -> jax.Array:
        """Transforms the tokens `x [F, n, D]` of `F` latent frames.

        Args:
          x: tokens.
          modulation: `[F, 6, D]` float32, projected time embedding of each frame.
          rotary: cosines and sines `[F * n, head_dim / 2]`.
          key_mask: bool `[F * n]` or None, the tokens others may attend to.
          text: `[L, D]` embedded text; required exactly if the block has cross-attention.
        """
        table = self.param("modulation", nn.initializers.normal(self.dim**-0.5), (6, self.dim), jnp.float32)
        shift1, scale1, gate1, shift2, scale2, gate2 = jnp.moveaxis(modulation + table, 1, 0)

        attend = Attention(self.dim, self.heads, self.eps, self.dtype, name="self_attention")
        y = attend(modulate(x, shift1, scale1, self.eps, self.dtype), rotary=rotary, key_mask=key_mask)
        x = (x + y * gate1[:, None]).astype(self.dtype)

        if self.text:
            attend = Attention(self.dim, self.heads, self.eps, self.dtype, name="cross_attention")
            norm = nn.LayerNorm(epsilon=self.eps, use_fast_variance=False, dtype=jnp.float32, name="cross_norm")
            x = x + attend(norm(x).astype(self.dtype), text)

        y = FeedForward(self.dim, self.ffn_dim, self.dtype, name="ffn")(
            modulate(x, shift2, scale2, self.eps, self.dtype)
        )
        return partition.constrain((x + y * gate2[:, None]).astype(self.dtype), "tokens")

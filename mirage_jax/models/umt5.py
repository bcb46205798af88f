"""The text encoder of the Wan family: the encoder half of umT5, at any width.

A T5 encoder (Raffel et al. 2020) with a relative position bias of its own in every layer (umT5, Chung et al. 2023).
Matrix products run in `UMT5Config.dtype`; the residual stream, norms, position bias and softmax are float32, because T5
adds to few, very large components of the stream for its whole depth, which bfloat16 would round.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mirage_jax.errors import UserError
from mirage_jax.models.nn import layers


@dataclasses.dataclass(frozen=True)
class UMT5Config:
    """Sizes of a umT5 encoder.

    Attributes:
      vocabulary: token ids are below this.
      dim: width of a token.
      ffn_dim: hidden width of the feed-forward part.
      heads, head_dim: of the attention; their product need not be `dim`.
      layers: blocks.
      buckets: of relative positions, half of them for each direction; a multiple of 4.
      max_distance: tokens, from which on all distances share a bucket.
      eps: of every norm.
      dtype: of the matrix products.
    """

    vocabulary: int
    dim: int
    ffn_dim: int
    heads: int
    head_dim: int
    layers: int
    buckets: int = 32
    max_distance: int = 128
    eps: float = 1e-6
    dtype: str = "float32"

    def __post_init__(self):
        if self.buckets % 4 or self.buckets < 4 or self.max_distance <= self.buckets // 4:
            raise UserError(
                f"umT5 position buckets must be a multiple of 4 and max_distance above a quarter of them, "
                f"found {self.buckets} and {self.max_distance}"
            )


UMT5_XXL = UMT5Config(vocabulary=256_384, dim=4096, ffn_dim=10_240, heads=64, head_dim=64, layers=24, dtype="bfloat16")


@functools.partial(jax.jit, static_argnums=0)
def encode(config: UMT5Config, params: Any, ids: jax.Array, mask: jax.Array) -> jax.Array:
    """What the Wan DiT reads: the embedded tokens of one prompt, zero after its end.

    Args:
      config: sizes.
      params: the 'text' part of a model.
      ids: int32 `[L]`, padded.
      mask: bool `[L]`, the tokens of the prompt, its end mark included; at least one.

    Returns:
      float32 `[L, dim]`.
    """
    embedded = UMT5Encoder(config).apply({"params": params}, ids, mask)
    return jnp.where(mask[:, None], embedded, 0.0)


class UMT5Encoder(nn.Module):
    """Token ids to embeddings."""

    config: UMT5Config

    @nn.compact
    def __call__(self, ids: jax.Array, mask: jax.Array) -> jax.Array:
        """Embeds one text.

        Args:
          ids: int32 `[L]`.
          mask: bool `[L]`; no token attends to one that is False. At least one is True.

        Returns:
          float32 `[L, dim]`; rows where `mask` is False mean nothing.
        """
        config = self.config
        chex.assert_equal_shape((ids, mask))
        table = self.param("token_embedding", nn.initializers.normal(1.0), (config.vocabulary, config.dim))
        x = jnp.take(table, ids, axis=0).astype(jnp.float32)
        for index in range(config.layers):
            x = _Layer(config, name=f"blocks_{index}")(x, mask)
        return layers.RMSNorm(config.eps, name="norm")(x)


class _Layer(nn.Module):
    config: UMT5Config

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        config = self.config
        x = x + _SelfAttention(config, name="attention")(layers.RMSNorm(config.eps, name="attention_norm")(x), mask)
        return x + _GatedFeedForward(config, name="ffn")(layers.RMSNorm(config.eps, name="ffn_norm")(x))


class _SelfAttention(nn.Module):
    config: UMT5Config

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        config = self.config
        width = config.heads * config.head_dim

        def heads_first(name: str, fan_in: int) -> jax.Array:
            y = _linear(config, width, name, fan_in)(x)
            return jnp.swapaxes(y.reshape(len(x), config.heads, config.head_dim), 0, 1)

        # Queries start small by the factor that other transformers divide the logits by.
        query = heads_first("q", config.dim * config.head_dim)
        key, value = heads_first("k", config.dim), heads_first("v", config.dim)
        table = self.param(
            "relative_bias", nn.initializers.normal(config.dim**-0.5), (config.buckets, config.heads), jnp.float32
        )
        by_distance = table.astype(jnp.float32)[position_buckets(config, len(x))].T

        def one_head(qkvb: tuple[jax.Array, jax.Array, jax.Array, jax.Array]) -> jax.Array:
            q, k, v, bias = qkvb
            logits = jnp.dot(q, k.T, preferred_element_type=jnp.float32) + toeplitz(bias)
            weights = jax.nn.softmax(jnp.where(mask[None, :], logits, -jnp.inf), axis=-1)
            return jnp.dot(weights.astype(v.dtype), v)

        # On a CPU one head at a time, for the reasons in `attention`: products stay 2-D and a head's map in cache.
        over_heads = functools.partial(jax.lax.map, one_head) if jax.default_backend() == "cpu" else jax.vmap(one_head)
        out = jnp.swapaxes(over_heads((query, key, value, by_distance)), 0, 1).reshape(len(x), width)
        return _linear(config, config.dim, "o", width)(out)


class _GatedFeedForward(nn.Module):
    config: UMT5Config

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        config = self.config
        gate = nn.gelu(_linear(config, config.ffn_dim, "gate", config.dim)(x), approximate=True)
        up = _linear(config, config.ffn_dim, "up", config.dim)(x)
        return _linear(config, config.dim, "down", config.ffn_dim)(gate * up)


def _linear(config: UMT5Config, features: int, name: str, fan_in: int) -> nn.Dense:
    normal = nn.initializers.normal(fan_in**-0.5)
    return layers.dense(features, jnp.dtype(config.dtype), name, use_bias=False, kernel_init=normal)


def position_buckets(config: UMT5Config, length: int) -> np.ndarray:
    """The bucket of each distance `key - query` from `1 - length` to `length - 1`, int32 `[2 * length - 1]`.

    Keys after the query have the upper half of the buckets. In each half the first half holds one distance a bucket;
    the rest grows geometrically up to `max_distance` (Raffel et al. 2020, section 2.1).
    """
    distance = np.arange(1 - length, length)
    half, exact = config.buckets // 2, config.buckets // 4
    ahead, steps = np.where(distance > 0, half, 0), np.abs(distance)
    octaves = np.log(np.maximum(steps, exact) / exact) / np.log(config.max_distance / exact)
    geometric = exact + (octaves * (half - exact)).astype(np.int32)
    return (ahead + np.where(steps < exact, steps, np.minimum(geometric, half - 1))).astype(np.int32)


def toeplitz(values: jax.Array) -> jax.Array:
    """`[2 L - 1]` values of distances `1 - L .. L - 1` -> `[L, L]` whose element `i, j` is that of distance `j - i`."""
    # A row is the row above moved right by one, so rows of length 2 L - 1 cut from a sequence of period 2 L line up.
    # That is a copy; a gather of L x L single elements takes longer than the attention itself.
    length = (len(values) + 1) // 2
    period = jnp.concatenate([values[length - 1 :], jnp.zeros(1, values.dtype), values[: length - 1]])
    return jnp.tile(period, length)[: length * (2 * length - 1)].reshape(length, -1)[:, :length]

"""Convolutions at the resolution of the latent grid, where the transformer sees tokens of several cells."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

RESIDUAL_BLOCKS = 2


def conv(features: int, dtype: jnp.dtype, name: str, zero: bool = False) -> nn.Conv:
    """A 3x3 convolution, of zeros at the start if asked for."""
    kernel = nn.initializers.zeros if zero else nn.initializers.lecun_normal()
    return nn.Conv(features, (3, 3), dtype=dtype, name=name, kernel_init=kernel)


def residual_blocks(x: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Residual blocks and a last norm on `[F, h, w, D]`, as parts of the module that calls; float32 norms."""
    width = x.shape[-1]
    for index in range(RESIDUAL_BLOCKS):
        y = nn.silu(nn.LayerNorm(dtype=jnp.float32, name=f"norm_{index}")(x))
        y = nn.silu(conv(width, dtype, f"conv_{index}a")(y))
        x = x + conv(width, dtype, f"conv_{index}b", zero=True)(y)
    return nn.silu(nn.LayerNorm(dtype=jnp.float32, name="norm_out")(x))

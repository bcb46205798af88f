"""The adversarial term of a loss: a patch discriminator of decoded pictures, trained beside what it judges.

A squared error asks for the mean of all that could be there, and LPIPS leaves open what its layers do not see. The
discriminator (Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks", 2017) says of every
patch whether it looks drawn or decoded. Both are trained in one step: each term below sees the other's parameters
through `stop_gradient`, so that the gradient of their sum is the gradient of each.
"""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

_WIDTHS = (32, 64, 128, 128)
_GROUPS = 8
_SIDE = 2 ** len(_WIDTHS)  # pixels of a patch


class PatchDiscriminator(nn.Module):
    """Pictures `[T, H, W, c]` in [-1, 1] to one score for each patch, `[T, H/16, W/16]`: high where it looks true."""

    @nn.compact
    def __call__(self, frames: chex.Array) -> jax.Array:
        x = nn.leaky_relu(nn.Conv(_WIDTHS[0], (4, 4), strides=2, name="conv0")(frames), 0.2)
        for i, width in enumerate(_WIDTHS[1:], start=1):
            x = nn.Conv(width, (4, 4), strides=2, name=f"conv{i}")(x)
            x = nn.leaky_relu(nn.GroupNorm(_GROUPS, name=f"norm{i}")(x), 0.2)
        return nn.Conv(1, (3, 3), name="score")(x)[..., 0]


def init(key: chex.PRNGKey, channels: int = 3) -> Any:
    """Fresh parameters of the discriminator of pictures of so many channels."""
    return PatchDiscriminator().init(key, jnp.zeros((1, _SIDE, _SIDE, channels)))["params"]


def losses(params: Any, shown: chex.Array, truth: chex.Array) -> dict[str, jax.Array]:
    """The hinge losses of both sides (Lim and Ye, "Geometric GAN", 2017, eq. 8 and 9).

    Args:
      params: of the discriminator.
      shown: `[T, H, W, c]` in [-1, 1], what is trained to pass for true; neighbouring frames may lie side by side in
        the channels, so that it is judged how one follows from the other.
      truth: the same of true pictures.

    Returns:
      `adversarial`, float32 `[]`, moves what made `shown` and no parameter of the discriminator; `discriminator`,
      float32 `[]`, moves its parameters only.
    """
    chex.assert_equal_shape([shown, truth])

    def score(params: Any, frames: jax.Array) -> jax.Array:
        return PatchDiscriminator().apply({"params": params}, frames)  # pyright: ignore[reportReturnType]

    passes = score(jax.lax.stop_gradient(params), shown)
    drawn, decoded = score(params, truth), score(params, jax.lax.stop_gradient(shown))
    return {
        "adversarial": -passes.mean(),
        "discriminator": nn.relu(1.0 - drawn).mean() + nn.relu(1.0 + decoded).mean(),
    }

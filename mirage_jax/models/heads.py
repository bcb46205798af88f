"""Light heads on one latent frame: metric depth, what to keep in memory, and sky.

A small U-Net on latent cells: three resolutions, and attention over the whole coarsest grid. Depth is predicted as
logarithm for a camera of canonical focal length and then scaled by the true one (an object of given apparent size is
farther away the longer the lens), which together with the rays as input makes it metric for other fields of view.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from mirage_jax.models.nn import layers, vae_layers


@dataclasses.dataclass(frozen=True)
class LatentHeadsConfig:
    """Sizes of the heads.

    Attributes:
      in_channels: latent channels `C`.
      widths: channels at the finest, half and quarter of its resolution.
      blocks: residual blocks at each of these on the way down, and at the first two on the way up.
      attention_heads: of the coarsest level; they divide its width.
      typical_depth: metres predicted at the start of training for a camera of canonical focal length.
      canonical_focal: focal length in latent cells at which depth is predicted unscaled (8: 90 degrees over 16 cells).
      patch: latent cells of a side that are read as one at the finest resolution.
    """

    in_channels: int
    widths: tuple[int, int, int] = (64, 96, 128)
    blocks: tuple[int, int, int] = (1, 1, 1)
    attention_heads: int = 4
    typical_depth: float = 5.0
    canonical_focal: float = 8.0
    patch: int = 1


class LatentHeads(nn.Module):
    """Depth, keep and sky of every cell of one latent frame."""

    config: LatentHeadsConfig

    @nn.compact
    def __call__(self, latent: jax.Array, rays: jax.Array) -> dict[str, jax.Array]:
        """Reads a latent frame.

        Args:
          latent: `[h, w, C]` normalised latents; `h` and `w` at least four patches, and whole ones.
          rays: `[h, w, 3]` camera rays with z = 1 through the cell centres (`geometry.camera.rays`).

        Returns:
          `depth [h, w]` metres, > 0; `keep_logit [h, w]`, of being static and not sky; `sky_logit [h, w]`.
        """
        config = self.config
        height, width = latent.shape[:2]
        chex.assert_shape(latent, (None, None, config.in_channels))
        chex.assert_shape(rays, (height, width, 3))

        x = jnp.concatenate([latent, rays[..., :2], _grid_coordinates(height, width)], axis=-1)
        (x,) = vae_layers.fold_patches(x[None], config.patch)
        x = nn.Conv(config.widths[0], (3, 3), name="stem")(x)
        skips = []
        for level, channels in enumerate(config.widths):
            if level:
                skips.append(x)
                x = nn.Conv(channels, (3, 3), strides=(2, 2), name=f"down_{level}")(x)
            x = _blocks(config.blocks[level], f"encode_{level}", x)
        x = GridAttention(config.attention_heads, name="context")(x)
        for level in reversed(range(len(skips))):
            skip = skips[level]
            x = nn.Dense(skip.shape[-1], name=f"up_{level}")(x)
            x = skip + jax.image.resize(x, skip.shape, "linear")
            x = _blocks(config.blocks[level], f"decode_{level}", x)
        x = nn.silu(nn.LayerNorm(name="norm")(x))
        out = nn.Dense(3 * config.patch**2, kernel_init=nn.initializers.zeros, name="out")(x)
        (out,) = vae_layers.unfold_patches(out[None], config.patch)
        log_depth, keep, sky = jnp.moveaxis(out, -1, 0)

        log_scale = math.log(config.typical_depth / config.canonical_focal) + jnp.log(_focal_length(rays))
        return {"depth": jnp.exp(log_depth + log_scale), "keep_logit": keep, "sky_logit": sky}


@functools.partial(jax.jit, static_argnums=0)
def predict(config: LatentHeadsConfig, params: Any, latents: chex.Array, rays: chex.Array) -> dict[str, jax.Array]:
    """What `LatentHeads` say of each of `T` frames.

    Args:
      config, params: of the heads.
      latents: `[T, h, w, C]`.
      rays: `[T, h, w, 3]`.

    Returns:
      as `LatentHeads`, `[T, h, w]` each.
    """
    return jax.vmap(functools.partial(LatentHeads(config).apply, {"params": params}))(latents, rays)


def decide(out: dict[str, jax.Array], threshold: chex.Numeric = 0.5) -> tuple[jax.Array, jax.Array]:
    """What to keep and what is sky, from the logits of `LatentHeads`.

    A cell moves if what is left of the two probabilities, `1 - keep - sky`, is above the threshold. Otherwise it is the
    likelier of the two: a cell that could be wall or sky is not taken for an actor.

    Args:
      out: `keep_logit` and `sky_logit`, `[..., h, w]`.
      threshold: in 0..1; a lower one forgets more of what may move.

    Returns:
      `keep` and `sky`, bool `[..., h, w]`, never both; neither where it moves.
    """
    keep, sky = nn.sigmoid(out["keep_logit"]), nn.sigmoid(out["sky_logit"])
    still = 1.0 - keep - sky <= threshold
    return still & (keep >= sky), still & (sky > keep)


def _blocks(count: int, name: str, x: jax.Array) -> jax.Array:
    """Residual blocks one after the other; those after the first begin as the identity."""
    for number in range(count):
        x = ResidualBlock(identity=number > 0, name=f"{name}_{number}" if number else name)(x)
    return x


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, each after norm and SiLU, around a shortcut."""

    identity: bool = False  # before training

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[h, w, D]` -> `[h, w, D]`."""
        y = nn.Conv(x.shape[-1], (3, 3), name="first")(nn.silu(nn.LayerNorm(name="first_norm")(x)))
        start = nn.initializers.zeros if self.identity else nn.linear.default_kernel_init
        second = nn.Conv(x.shape[-1], (3, 3), kernel_init=start, name="second")
        return x + second(nn.silu(nn.LayerNorm(name="second_norm")(y)))


class GridAttention(nn.Module):
    """Self-attention among all cells of a small grid, around a shortcut."""

    heads: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[h, w, D]` -> `[h, w, D]`."""
        tokens = nn.LayerNorm(name="norm")(x).reshape(-1, x.shape[-1])
        attend = layers.Attention(x.shape[-1], self.heads, eps=1e-6, dtype=x.dtype, name="attention")
        return x + attend(tokens).reshape(x.shape)


def _grid_coordinates(height: int, width: int) -> jax.Array:
    """`[h, w, 2]` column and row of each cell in -1..1."""
    column, row = jnp.meshgrid(jnp.linspace(-1.0, 1.0, width), jnp.linspace(-1.0, 1.0, height))
    return jnp.stack([column, row], axis=-1)


def _focal_length(rays: jax.Array) -> jax.Array:
    """Focal length in cells, `[]`: the geometric mean of both axes, read off the spacing of the rays."""
    height, width = rays.shape[:2]
    across = (width - 1) / (rays[0, -1, 0] - rays[0, 0, 0])
    down = (height - 1) / (rays[-1, 0, 1] - rays[0, 0, 1])
    return jnp.sqrt(across * down)

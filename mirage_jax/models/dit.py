"""The diffusion transformer of the Wan2.2 family, at any width.

Per latent frame timesteps, one token per patch, tokens grouped by latent frame `[F, n, dim]`, so that
what depends on the frame only (the timestep) is computed once a frame and not once a token.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mirage_jax.errors import UserError
from mirage_jax.models import partition
from mirage_jax.models.nn import blocks, grid, layers

REMAT: dict[str, Callable[..., Any] | None] = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots_no_batch": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
"""What the backward pass of a block may keep, by name.

'none' recomputes nothing, 'full' the whole block, 'dots_no_batch' all but products with weights (so attention).
"""


@dataclasses.dataclass(frozen=True)
class DiTConfig:
    """Sizes of a diffusion transformer.

    Attributes:
      dim: width of a token.
      ffn_dim: hidden width of the feed-forward part.
      heads: attention heads; `dim / heads` is even.
      layers: blocks.
      in_channels: latent channels `C`, in and out.
      patch: latent frames, rows and columns of a token; one frame always.
      text_dim: width of the text encoder's output; 0 leaves text cross-attention out altogether.
      text_tokens: length of the (padded) text.
      freq_dim: sines and cosines of the timestep.
      eps: of every norm.
      prediction: 'flow', the network gives `noise - x0` (Wan), or 'sample', it gives `x0`.
      paint: width of convolutions at the latent grid that finish the output (see `Paint`); 0 for none, as in Wan.
      dtype: of the computation; parameters, norms, modulation and time embedding are float32.
      remat: what the backward pass computes again, a name in `REMAT`.
    """

    dim: int
    ffn_dim: int
    heads: int
    layers: int
    in_channels: int
    patch: tuple[int, int, int] = (1, 2, 2)
    text_dim: int = 0
    text_tokens: int = 512
    freq_dim: int = 256
    eps: float = 1e-6
    prediction: str = "flow"
    paint: int = 0
    dtype: str = "float32"
    remat: str = "none"

    def __post_init__(self):
        if self.remat not in REMAT:
            raise UserError(f"DiT remat must be one of {', '.join(REMAT)}, found {self.remat!r}")
        if self.dim % self.heads or (self.dim // self.heads) % 2:
            raise UserError(f"DiT dim {self.dim} must be an even multiple of its {self.heads} heads")
        if self.patch[0] != 1:
            raise UserError(f"DiT patch {self.patch} must span one latent frame: timesteps are per latent frame")
        if self.prediction not in ("flow", "sample"):
            raise UserError(f"DiT prediction must be 'flow' or 'sample', found {self.prediction!r}")

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.dim // self.heads

    def block(self, **options: Any) -> layers.Block:
        """One block of these sizes; `remat` is applied here, for the DiT and the side branch alike.

        Args:
          options: `name` or `parent` of the module.
        """
        policy = REMAT[self.remat]
        # In a scan nothing can be merged with what is computed again: no barrier is needed against that.
        module = layers.Block if policy is None else nn.remat(layers.Block, policy=policy, prevent_cse=False)
        return module(
            dim=self.dim,
            ffn_dim=self.ffn_dim,
            heads=self.heads,
            eps=self.eps,
            dtype=jnp.dtype(self.dtype),
            text=self.text_dim > 0,
            **options,
        )


WAN22_TI2V_5B = DiTConfig(
    dim=3072, ffn_dim=14336, heads=24, layers=30, in_channels=48, text_dim=4096, dtype="bfloat16", remat="full"
)


def patchify(latents: jax.Array, patch: tuple[int, int, int]) -> jax.Array:
    """`[F, h, w, C]` -> `[F, n, rows * columns * C]`, tokens in raster order.

    Raises `ValueError` if the patch does not divide the grid.
    """
    frames, height, width, channels = latents.shape
    _, rows, columns = patch
    if height % rows or width % columns:
        raise ValueError(f"latent grid {height}x{width} is not a multiple of the patch {rows}x{columns}")
    grid = latents.reshape(frames, height // rows, rows, width // columns, columns, channels)
    return jnp.swapaxes(grid, 2, 3).reshape(frames, -1, rows * columns * channels)


def unpatchify(tokens: jax.Array, height: int, width: int, patch: tuple[int, int, int]) -> jax.Array:
    """The inverse of `patchify`: `[F, n, rows * columns * C]` -> `[F, height, width, C]`."""
    _, rows, columns = patch
    grid = tokens.reshape(len(tokens), height // rows, width // columns, rows, columns, -1)
    return jnp.swapaxes(grid, 2, 3).reshape(len(tokens), height, width, -1)


class TimeEmbedding(nn.Module):
    """Timesteps to the embedding of the head and the six modulation vectors of the blocks, all in float32."""

    config: DiTConfig

    @nn.compact
    def __call__(self, timesteps: jax.Array) -> tuple[jax.Array, jax.Array]:
        """`[F]` timesteps in 0..1000 -> embedding `[F, dim]`, modulation `[F, 6, dim]`."""
        dim = self.config.dim

        # Full precision also where a float32 product runs in fewer bits by default (TPU, TF32).
        def linear(features: int, name: str, **options) -> nn.Dense:
            return layers.dense(features, jnp.float32, name, precision=jax.lax.Precision.HIGHEST, **options)

        normal = nn.initializers.normal(0.02)
        x = layers.timestep_features(timesteps, self.config.freq_dim)
        x = nn.silu(linear(dim, "up", kernel_init=normal)(x))
        embedding = linear(dim, "down", kernel_init=normal)(x)
        modulation = linear(6 * dim, "projection")(nn.silu(embedding))
        return embedding, modulation.reshape(-1, 6, dim)


class Head(nn.Module):
    """Modulated norm and a linear map (zero at the start) from tokens to latent patches."""

    config: DiTConfig

    @nn.compact
    def __call__(self, x: jax.Array, embedding: jax.Array) -> jax.Array:
        """Tokens `[F, n, dim]`, time embedding `[F, dim]` -> float32 `[F, n, rows * columns * C]`."""
        config = self.config
        table = self.param("modulation", nn.initializers.normal(config.dim**-0.5), (2, config.dim), jnp.float32)
        shift, scale = jnp.moveaxis(embedding[:, None] + table, 1, 0)
        features = config.in_channels * config.patch[1] * config.patch[2]
        linear = layers.dense(features, jnp.dtype(config.dtype), "linear", kernel_init=nn.initializers.zeros)
        return linear(layers.modulate(x, shift, scale, config.eps, jnp.dtype(config.dtype))).astype(jnp.float32)


class Paint(nn.Module):
    """Adds to the output, frame by frame, what tokens of several cells cannot say; at the start nothing.

    Where detail is to be made up, the noise decides which.
    """

    config: DiTConfig

    @nn.compact
    def __call__(self, output: jax.Array, noisy: jax.Array, hint: jax.Array | None) -> jax.Array:
        """Output so far and noisy latents `[F, h, w, C]`, hint `[F, h, w, paint]` or None -> `[F, h, w, C]`."""
        dtype = jnp.dtype(self.config.dtype)
        x = grid.conv(self.config.paint, dtype, "conv_in")(jnp.concatenate([output, noisy], axis=-1))
        x = grid.residual_blocks(x if hint is None else x + hint, dtype)
        return output + grid.conv(self.config.in_channels, dtype, "conv_out", zero=True)(x).astype(jnp.float32)


class DiT(nn.Module):
    """The transformer: tokens in, tokens out, hints of a side branch added on the way."""

    config: DiTConfig

    def setup(self):
        """Declares the parts; their names are the parameter paths."""
        config = self.config
        dtype = jnp.dtype(config.dtype)
        self.patch_embedding = layers.dense(config.dim, dtype)
        self.time_embedding = TimeEmbedding(config)
        if config.text_dim:
            self.text_embedding = layers.FeedForward(
                config.dim, config.dim, dtype, kernel_init=nn.initializers.normal(0.02)
            )
        self.blocks = [config.block() for _ in range(config.layers)]
        self.head = Head(config)
        if config.paint:
            self.paint = Paint(config)

    def embed(self, latents: jax.Array) -> jax.Array:
        """Latents `[F, h, w, C]` -> tokens `[F, n, dim]`."""
        tokens = patchify(partition.constrain(latents, "latents"), self.config.patch)
        return partition.constrain(self.patch_embedding(tokens), "tokens")

    def embed_time(self, timesteps: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Timesteps `[F]` -> embedding `[F, dim]`, modulation `[F, 6, dim]`."""
        return self.time_embedding(timesteps)

    def embed_text(self, text: jax.Array | None) -> jax.Array | None:
        """Text `[text_tokens, text_dim]` -> `[text_tokens, dim]`; None for a model without text.

        Raises `ValueError` if text is missing for a model with text, given to one without, or of another shape.
        """
        config = self.config
        expected = (config.text_tokens, config.text_dim) if config.text_dim else None
        found = None if text is None else text.shape
        if found != expected:
            raise ValueError(f"text embedding has shape {found}, the model takes {expected}")
        return None if text is None else self.text_embedding(text)

    def __call__(
        self,
        x: jax.Array,
        time: tuple[jax.Array, jax.Array],
        rotary: tuple[jax.Array, jax.Array],
        key_mask: jax.Array | None = None,
        text: jax.Array | None = None,
        hints: jax.Array | None = None,
        every: int = 1,
    ) -> jax.Array:
        """Runs blocks and head.

        Args:
          x: tokens `[F, n, dim]`.
          time: what `embed_time` gives for the `F` frames.
          rotary: cosines and sines `[F * n, head_dim / 2]`.
          key_mask: bool `[F * n]`, the tokens others may attend to.
          text: what `embed_text` gives.
          hints: `[B, F', n, dim]`, added after blocks 0, `every`, 2 `every`, .. to the last `F'` frames.
          every: of the side branch.

        Returns:
          `[F, n, rows * columns * C]` float32.
        """
        embedding, modulation = time
        given = (modulation, rotary, key_mask, text)
        if self.is_initializing():
            for block in self.blocks:
                x = block(x, *given)
            return self.head(x, embedding)

        block = self.config.block(parent=None)

        def step(params: Any, index: jax.Array, x: jax.Array) -> tuple[jax.Array, None]:
            x = block.apply({"params": params}, x, *given)
            if hints is None:
                return x, None
            hint = jnp.where(index % every == 0, hints[index // every], 0)
            return x + jnp.pad(hint, ((len(x) - len(hint), 0), (0, 0), (0, 0))), None

        x, _ = blocks.scan(step, blocks.stacked(self.variables["params"]), x)
        return self.head(x, embedding)

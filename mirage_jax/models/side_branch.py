"""The side branch that tells the transformer what the memory holds (VACE blocks, paper section "Generator").

It sees the control latents (readout, visibility, whatever else the control channels carry) of the
target and preceding frames and gives one hint for every second DiT block (`SideBranchConfig.every`).
All its ways out start at zero, so a new side branch leaves the backbone exactly as it was.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mirage_jax.errors import UserError
from mirage_jax.models import partition
from mirage_jax.models.dit import DiTConfig, patchify
from mirage_jax.models.nn import layers

REFINE_BLOCKS = 2


@dataclasses.dataclass(frozen=True)
class SideBranchConfig:
    """Sizes of a side branch; everything else is that of the DiT it belongs to.

    Attributes:
      control_channels: channels `Cc` of the control latents.
      output_hint: also a linear map (zero at the start) from the raw control patches to the output of the
        target frames, by which a small model can pass a readout through. Wan has none.
      every: one side block for DiT blocks 0, `every`, 2 `every`, ..: 2 in Wan's 5B model, 5 in its 14B ones.
      refine: width of the convolutions that bring the readout into place first (see `Refine`), whose channels are
        then the first ones of the control; 0 for none, as in Wan.
    """

    control_channels: int
    output_hint: bool = False
    refine: int = 0
    every: int = 2

    def __post_init__(self):
        if self.every < 1:
            raise UserError(f"side branch config: every must be at least 1, found {self.every}")


def hinted_blocks(dit: DiTConfig, config: SideBranchConfig) -> range:
    """Indices of the DiT blocks that receive a hint."""
    return range(0, dit.layers, config.every)


class SideBlock(nn.Module):
    """A DiT block followed by the projection to its hint; the first one also joins control and backbone."""

    dit: DiTConfig
    first: bool

    @nn.compact
    def __call__(self, control, x, modulation, rotary, key_mask, text) -> tuple[jax.Array, jax.Array]:
        """Control stream and backbone tokens `[F, n, dim]` -> control stream and hint, both `[F, n, dim]`."""
        dtype = jnp.dtype(self.dit.dtype)
        zeros = nn.initializers.zeros
        if self.first:
            control = layers.dense(self.dit.dim, dtype, "join", kernel_init=zeros)(control) + x
        control = self.dit.block("block")(control, modulation, rotary, key_mask, text)
        return control, layers.dense(self.dit.dim, dtype, "hint", kernel_init=zeros)(control)


class Refine(nn.Module):
    """Brings the tokens of a readout to where, how large and how moving they should be, frame by frame.

    A token that was read stands for a cell of its own view. How that cell lies over the one that shows it is known
    (control channels `offset`, `scale`, `between`), and neighbours hold what is missing: residual convolutions at the
    resolution of the latent grid, where the transformer sees patches. At the start they change nothing.
    """

    width: int
    channels: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, control: jax.Array) -> jax.Array:
        """`[F, h, w, Cc]` to itself, with its first `channels` changed."""

        def conv(features: int, name: str, **options: Any) -> nn.Conv:
            return nn.Conv(features, (3, 3), dtype=self.dtype, name=name, **options)

        zeros = nn.initializers.zeros
        x = conv(self.width, "conv_in")(control)
        for index in range(REFINE_BLOCKS):
            y = nn.silu(nn.LayerNorm(dtype=jnp.float32, name=f"norm_{index}")(x))
            y = nn.silu(conv(self.width, f"conv_{index}a")(y))
            x = x + conv(self.width, f"conv_{index}b", kernel_init=zeros)(y)
        x = nn.silu(nn.LayerNorm(dtype=jnp.float32, name="norm_out")(x))
        change = conv(self.channels, "conv_out", kernel_init=zeros)(x).astype(control.dtype)
        return jnp.asarray(control).at[..., : self.channels].add(change)


class SideBranch(nn.Module):
    """Control latents to hints."""

    dit: DiTConfig
    config: SideBranchConfig

    def setup(self):
        """Declares the parts; their names are the parameter paths."""
        dtype = jnp.dtype(self.dit.dtype)
        if self.config.refine:
            self.refine = Refine(self.config.refine, self.dit.in_channels, dtype)
        self.patch_embedding = layers.dense(self.dit.dim, dtype)
        self.blocks = [SideBlock(self.dit, first=index == 0) for index in hinted_blocks(self.dit, self.config)]
        if self.config.output_hint:
            features = self.dit.in_channels * self.dit.patch[1] * self.dit.patch[2]
            self.output_hint = layers.dense(features, jnp.float32, kernel_init=nn.initializers.zeros)

    def __call__(
        self,
        control: jax.Array,
        x: jax.Array,
        modulation: jax.Array,
        rotary: tuple[jax.Array, jax.Array],
        key_mask: jax.Array | None,
        text: jax.Array | None,
    ) -> tuple[dict[int, jax.Array], jax.Array | None]:
        """Hints for target and preceding frames.

        Args:
          control: `[F, h, w, Cc]`.
          x: the backbone's embedded tokens of these frames, `[F, n, dim]`.
          modulation: `[F, 6, dim]`, from the backbone's time embedding.
          rotary: cosines and sines `[F * n, head_dim / 2]`.
          key_mask: bool `[F * n]` or None.
          text: the backbone's embedded text.

        Returns:
          `[F, n, dim]` by DiT block index, and `[F, n, rows * columns * C]` to add to the output (or None).
        """
        if self.config.refine:
            control = self.refine(control)
        patches = patchify(control, self.dit.patch)
        stream = partition.constrain(self.patch_embedding(patches), "tokens")
        hints = {}
        for index, block in zip(hinted_blocks(self.dit, self.config), self.blocks, strict=True):
            stream, hints[index] = block(stream, x, modulation, rotary, key_mask, text)
        return hints, self.output_hint(patches) if self.config.output_hint else None


def side_params_from_dit(dit_params: dict[str, Any], side_params: dict[str, Any], every: int) -> dict[str, Any]:
    """A side branch whose blocks start as copies of the DiT blocks they belong to.

    Args:
      dit_params: the 'dit' part of a generator's parameters.
      side_params: the 'side' part, freshly initialised.
      every: as in `SideBranchConfig`.

    Returns:
      `side_params` with the weights of block `i` replaced by those of DiT block `every i`; embedding, join and hint
      projections are kept.
    """
    copied = dict(side_params)
    for name in (name for name in side_params if name.startswith("blocks_")):
        source = f"blocks_{every * int(name.removeprefix('blocks_'))}"
        copied[name] = {**side_params[name], "block": dit_params[source]}
    return copied

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
from flax import struct

from mirage_jax.errors import UserError
from mirage_jax.models import partition
from mirage_jax.models.dit import DiTConfig, patchify
from mirage_jax.models.nn import blocks, grid, layers


@dataclasses.dataclass(frozen=True)
class SideBranchConfig:
    """Sizes of a side branch; everything else is that of the DiT it belongs to.

    Attributes:
      control_channels: channels `Cc` of the control latents.
      every: one side block for DiT blocks 0, `every`, 2 `every`, ..: 2 in Wan's 5B model, 5 in its 14B ones.
      refine: width of the convolutions that bring the readout into place first (see `Refine`), whose channels are
        then the first ones of the control; 0 for none, as in Wan.
      identity: whether the prediction of a clean sample begins at the readout, as refined, and at zero where nothing is
        visible, so that all the network has to learn is what to add. Needs `refine`; Wan has no such thing.
    """

    control_channels: int
    refine: int = 0
    every: int = 2
    identity: bool = False

    def __post_init__(self):
        if self.every < 1:
            raise UserError(f"side branch config: every must be at least 1, found {self.every}")
        if self.identity and not self.refine:
            raise UserError("side branch config: identity needs refine, which brings the readout into place")


def hinted_blocks(dit: DiTConfig, config: SideBranchConfig) -> range:
    """Indices of the DiT blocks that receive a hint."""
    return range(0, dit.layers, config.every)


def join(dit: DiTConfig, name: str | None = None, **options: Any) -> nn.Dense:
    """What the control stream goes through before the backbone's tokens are added to it, zero at the start.

    Args:
      dit: its sizes.
      name, options: of the module; `parent=None` for one that stands alone.
    """
    return layers.dense(dit.dim, jnp.dtype(dit.dtype), name, kernel_init=nn.initializers.zeros, **options)


class SideBlock(nn.Module):
    """A DiT block followed by the projection to its hint; the first one also joins control and backbone."""

    dit: DiTConfig
    first: bool = False

    @nn.compact
    def __call__(self, control, x, modulation, rotary, key_mask, text) -> tuple[jax.Array, jax.Array]:
        """Control stream and backbone tokens `[F, n, dim]` -> control stream and hint, both `[F, n, dim]`."""
        dtype = jnp.dtype(self.dit.dtype)
        zeros = nn.initializers.zeros
        if self.first:
            control = join(self.dit, blocks.JOIN)(control) + x
        control = self.dit.block(name="block")(control, modulation, rotary, key_mask, text)
        return control, layers.dense(self.dit.dim, dtype, "hint", kernel_init=zeros)(control)


class Refine(nn.Module):
    """Brings the tokens of a readout to how they should look from here, frame by frame.

    A token that was read stands for a cell of another view. What is known of it lies in the other control channels,
    and neighbours hold what is missing: residual convolutions at the resolution of the latent grid, where the
    transformer sees patches. At the start they change nothing.
    """

    width: int
    channels: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, control: jax.Array) -> tuple[jax.Array, jax.Array]:
        """`[F, h, w, Cc]` -> itself with its first `channels` changed, and `[F, h, w, width]` from which they are."""
        x = grid.residual_blocks(grid.conv(self.width, self.dtype, "conv_in")(control), self.dtype)
        change = grid.conv(self.channels, self.dtype, "conv_out", zero=True)(x).astype(control.dtype)
        return jnp.asarray(control).at[..., : self.channels].add(change), x


@struct.dataclass
class Hints:
    """What a side branch gives to the backbone.

    Attributes:
      blocks: `[B, F, n, dim]`, added after DiT blocks 0, `every`, 2 `every`, ..
      start: `[F, h, w, C]` where the prediction begins, or None for zero.
      paint: `[F, h, w, D]` for the convolutions at the end (`dit.Paint`), or None.
    """

    blocks: jax.Array  # [B, F, n, dim]
    start: jax.Array | None = None  # [F, h, w, C]
    paint: jax.Array | None = None  # [F, h, w, D]


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
        if self.config.refine and self.dit.paint:
            self.paint_hint = layers.dense(self.dit.paint, dtype, kernel_init=nn.initializers.zeros)

    def __call__(
        self,
        control: jax.Array,
        x: jax.Array,
        modulation: jax.Array,
        rotary: tuple[jax.Array, jax.Array],
        key_mask: jax.Array | None,
        text: jax.Array | None,
    ) -> Hints:
        """Hints for target and preceding frames.

        Args:
          control: `[F, h, w, Cc]`.
          x: the backbone's embedded tokens of these frames, `[F, n, dim]`.
          modulation: `[F, 6, dim]`, from the backbone's time embedding.
          rotary: cosines and sines `[F * n, head_dim / 2]`.
          key_mask: bool `[F * n]` or None.
          text: the backbone's embedded text.
        """
        start = paint = None
        if self.config.refine:
            control, features = self.refine(control)
            start = control[..., : self.dit.in_channels] if self.config.identity else None
            paint = self.paint_hint(features) if self.dit.paint else None
        stream = partition.constrain(self.patch_embedding(patchify(control, self.dit.patch)), "tokens")
        hints = self._hints(stream, x, modulation, rotary, key_mask, text)
        return Hints(blocks=hints, start=start, paint=paint)

    def _hints(self, stream: jax.Array, x: jax.Array, *given: Any) -> jax.Array:
        """Control stream and backbone tokens `[F, n, dim]` -> `[B, F, n, dim]`."""
        if self.is_initializing():
            found = []
            for block in self.blocks:
                stream, hint = block(stream, x, *given)
                found.append(hint)
            return jnp.stack(found)

        params = blocks.stacked(self.variables["params"])
        stream = join(self.dit, parent=None).apply({"params": params[blocks.JOIN]}, stream) + x
        block = SideBlock(self.dit, parent=None)

        def step(params: Any, _: jax.Array, stream: jax.Array) -> tuple[jax.Array, jax.Array]:
            return block.apply({"params": params}, stream, x, *given)

        return blocks.scan(step, params, stream)[1]


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

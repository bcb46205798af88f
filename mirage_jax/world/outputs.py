"""What a segment gives beside the next state."""

from __future__ import annotations

import chex
from flax import struct

from mirage_jax.memory.points import Readout


@struct.dataclass
class Diagnostics:
    """How a segment went.

    Attributes:
      visible: `[n]` share of cells of each new latent frame that the memory showed before the segment was made.
      points: int32 `[]` points the segment added.
      overflow: int32 `[]` points that had to go for others, over the whole rollout.
      depth_scale: `[]` factor that brought the new depth (for a relative network, its inverse) to the memory's scale;
        the mean over frames where every frame has its own.
      depth_shift: `[]` what was added to the inverse depth of a relative network, 1 / metres, in the mean; else 0.
      depth_residual: `[]` median absolute log-ratio to the memory's depth that these left (of the worst frame).
      compared: int32 `[]` cells in which new depth and the memory could be compared.
      refused: `[]` share of frames of which nothing was written, because their depth does not fit the memory.
      kept: `[]` share of new cells that were static and not sky.
      moving: `[]` share of new cells that the dynamic filter left out.
      retired: int32 `[]` points that the dynamic filter, or others in their place, took out of the memory.
      references: int32 `[]` reference frames used.
      passes: int32 `[]` times that the generator ran.
      entities: int32 `[]` things that move that are remembered after the segment.
      confirmed: int32 `[]` of these, those seen more than once.
      refuted: int32 `[]` things given up because their place was seen empty, over the whole rollout.
      unseen: `[]` latent frames since they were seen, in the mean.
    """

    visible: chex.Array  # [n]
    points: chex.Array
    overflow: chex.Array
    depth_scale: chex.Array
    depth_shift: chex.Array
    depth_residual: chex.Array
    compared: chex.Array
    refused: chex.Array
    kept: chex.Array
    moving: chex.Array
    retired: chex.Array
    references: chex.Array
    passes: chex.Array
    entities: chex.Array
    confirmed: chex.Array
    refuted: chex.Array
    unseen: chex.Array


@struct.dataclass
class SegmentOutput:
    """What a segment gives.

    Attributes:
      frames: uint8 `[F, H, W, 3]`, the new frames.
      latents: `[n, h, w, C]`, their latents.
      readout: what the memory showed at the new latent frames' cameras, `[n, h, w, ..]`.
      diagnostics: how it went.
    """

    frames: chex.Array  # [F, H, W, 3]
    latents: chex.Array  # [n, h, w, C]
    readout: Readout  # [n, h, w, ..]
    diagnostics: Diagnostics

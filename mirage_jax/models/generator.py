"""The generator: one segment of latents, denoised in the sight of its past and of the memory.

Token order is reference | target | preceding (wan22: segment layout).
"""

from __future__ import annotations

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from mirage_jax.models.dit import DiT, DiTConfig, unpatchify
from mirage_jax.models.nn import rope
from mirage_jax.models.side_branch import SideBranch, SideBranchConfig


class Generator(nn.Module):
    """A DiT and, where `side` is given, its side branch; parameters split as `{'dit': .., 'side': ..}`.

    Initialise with `control` given, so that the side branch gets its parameters.
    """

    dit: DiTConfig
    side: SideBranchConfig | None = None

    def setup(self):
        """Declares the two parts."""
        self.backbone = DiT(self.dit, name="dit")
        if self.side is not None:
            self.branch = SideBranch(self.dit, self.side, name="side")

    def __call__(
        self,
        target: jax.Array,
        timesteps: jax.Array,
        *,
        preceding: jax.Array | None = None,
        reference: jax.Array | None = None,
        preceding_valid: jax.Array | None = None,
        reference_valid: jax.Array | None = None,
        control: jax.Array | None = None,
        text: jax.Array | None = None,
    ) -> jax.Array:
        """Predicts the clean segment, or the flow, as `DiTConfig.prediction` says.

        Args:
          target: `[T, h, w, C]` noisy latents (clean ones where the timestep is 0).
          timesteps: `[T]` in 0..1000, of each target frame.
          preceding: `[P, h, w, C]` clean latents just before the segment.
          reference: `[R, h, w, C]` clean latents from earlier views.
          preceding_valid, reference_valid: bool `[P]`, `[R]`; a frame that is False has no influence at all,
            whatever it holds. None means all valid.
          control: `[T + P, h, w, Cc]`, target first; None runs the backbone alone.
          text: `[text_tokens, text_dim]` for a model with text.

        Returns:
          `[T, h, w, C]` float32.

        Raises:
          ValueError: if `control` is given to a generator without a side branch, or shapes do not fit.
        """
        chex.assert_rank(target, 4)
        chex.assert_shape(timesteps, (len(target),))
        frame_shape = target.shape[1:]
        preceding, preceding_valid = _clean_frames(preceding, preceding_valid, frame_shape)
        reference, reference_valid = _clean_frames(reference, reference_valid, frame_shape)
        counts = len(reference), len(target), len(preceding)

        latents = jnp.concatenate([reference, target, preceding]).astype(jnp.float32)
        times = jnp.pad(timesteps.astype(jnp.float32), (counts[0], counts[2]))
        valid = jnp.concatenate([reference_valid, jnp.ones(counts[1], bool), preceding_valid])

        x = self.backbone.embed(latents)
        time = self.backbone.embed_time(times)
        text = self.backbone.embed_text(text)
        rows, columns = frame_shape[0] // self.dit.patch[1], frame_shape[1] // self.dit.patch[2]
        rotary = rope.segment_rotary(*counts, rows, columns, self.dit.head_dim)
        key_mask = jnp.repeat(valid, x.shape[1])
        # Reference tokens come first and stay outside the side branch: what it needs is all but those.
        frame, token = counts[0], counts[0] * x.shape[1]

        hints = None
        if control is not None:
            if self.side is None:
                raise ValueError("control was given to a generator without a side branch")
            chex.assert_shape(control, (counts[1] + counts[2], *frame_shape[:2], self.side.control_channels))
            control = jnp.where(valid[frame:, None, None, None], control, 0.0)
            inner_rotary = (rotary[0][token:], rotary[1][token:])
            hints = self.branch(control, x[frame:], time[1][frame:], inner_rotary, key_mask[token:], text)

        added = (None, 1) if hints is None else (hints.blocks, self.side.every)
        output = self.backbone(x, time, rotary, key_mask, text, *added)[frame : frame + counts[1]]
        output = unpatchify(output, frame_shape[0], frame_shape[1], self.dit.patch)
        if hints is not None and hints.start is not None:
            output = output + hints.start[: counts[1]]
        if self.dit.paint:
            paint = None if hints is None or hints.paint is None else hints.paint[: counts[1]]
            output = self.backbone.paint(output, latents[frame : frame + counts[1]], paint)
        return output


def _clean_frames(
    latents: jax.Array | None, valid: jax.Array | None, frame_shape: tuple[int, ...]
) -> tuple[jax.Array, jax.Array]:
    """Frames and mask with the defaults filled in; what is not valid is zeroed, so that a NaN in it is harmless."""
    latents = jnp.zeros((0, *frame_shape)) if latents is None else latents
    valid = jnp.ones(len(latents), bool) if valid is None else valid
    chex.assert_shape(latents, (None, *frame_shape))
    chex.assert_shape(valid, (len(latents),))
    return jnp.where(valid[:, None, None, None], latents, 0.0), valid

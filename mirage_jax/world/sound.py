"""Whether what a segment gave can be a video at all: never garbage that looks like a result. On the host."""

from __future__ import annotations

import jax
import numpy as np

from mirage_jax.errors import UserError
from mirage_jax.world.align import LARGEST_FACTOR
from mirage_jax.world.outputs import SegmentOutput
from mirage_jax.world.state import RolloutState

_BURNT = 0.9  # share of a frame's pixels that are pure white, from which on it shows nothing


def check_state(state: RolloutState) -> None:
    """Checks what a world starts from, such as the code of a first picture.

    Raises:
      UserError: if its memory holds NaN, or its latents NaN or infinity.
    """
    latents, memory = jax.device_get((state.context, state.memory))
    if not np.isfinite(np.asarray(latents, np.float32)).all():
        raise UserError(f"the world begins with latents that hold NaN or infinity; {_LIKELY}")
    if any(np.isnan(np.asarray(values, np.float32)).any() for values in jax.tree.leaves(memory)):
        raise UserError(f"the memory of the world begins with NaN; {_LIKELY}")


def check_output(output: SegmentOutput, where: str) -> list[str]:
    """Checks what one segment, or several, gave.

    Args:
      output: of `segment` or `rollout`.
      where: which segment, for messages.

    Returns:
      Warnings: of frames that show next to nothing, and of depth at the bound of what alignment may do.

    Raises:
      UserError: if latents hold NaN or infinity or are all equal, or the frames are all of one colour.
    """
    output = jax.device_get(output)
    latents = np.asarray(output.latents, np.float32)
    if not np.isfinite(latents).all():
        raise UserError(f"{where}: its latents hold NaN or infinity, so that there is no video; {_LIKELY}")
    if latents.min() == latents.max():
        raise UserError(f"{where}: its latents are all {latents.min():g}, so that there is no video; {_LIKELY}")
    frames = np.asarray(output.frames)
    pixels = frames.reshape(-1, 3)
    if (pixels.min(axis=0) == pixels.max(axis=0)).all():
        raise UserError(f"{where}: all its frames are of one colour, {pixels[0].tolist()}; {_LIKELY}")
    burnt = (frames == 255).all(axis=-1).mean(axis=(-2, -1)).reshape(-1) > _BURNT
    warnings = []
    if burnt.any():
        warnings.append(
            f"warning: {where}: {burnt.sum()} of its {burnt.size} frames are white all over and show no world"
        )
    scale = np.atleast_1d(np.asarray(output.diagnostics.depth_scale, np.float32))
    if not np.isfinite(scale).all():
        raise UserError(f"{where}: its depth holds NaN or infinity; {_LIKELY}")
    at_bound = np.isclose(scale, LARGEST_FACTOR, rtol=1e-4) | np.isclose(scale, 1 / LARGEST_FACTOR, rtol=1e-4)
    if at_bound.any():
        factor = float(scale[np.argmax(at_bound)])
        warnings.append(
            f"warning: {where}: new depth was brought to the memory's scale by {factor:g}, the most that is allowed: "
            "what is written from here on may not meet what was there"
        )
    return warnings


_LIKELY = "the weights are damaged, or do not belong to this model"

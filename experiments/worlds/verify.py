"""Checks that the depth and poses of a clip explain its pictures.

One frame is warped to another with depth and cameras; where both see the same static
surface, depths and colours must agree. A camera that only turns says nothing about depth:
there a source needs a check of its own (the Doom renderer compares with the game's buffer).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from mirage_jax.data.clip import PosedClip

_SAME_SURFACE = 0.03  # relative depth difference under which two pixels show one surface
_IN_FRONT = 0.06  # relative; a point this much nearer than what is seen there contradicts it


@dataclasses.dataclass(frozen=True)
class Residuals:
    """How far one warped frame is from the frame it was warped to."""

    photometric: float  # median absolute colour difference in 0..1 on shared surfaces
    depth: float  # median relative depth difference on shared surfaces
    contradiction: float  # fraction of overlapping pixels that float in front of what is seen
    overlap: float  # fraction of static valid pixels that land in the other view


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Largest residuals of a clip that is kept; medians over the pairs that overlap."""

    photometric: float = 0.04
    depth: float = 0.005
    contradiction: float = 0.03
    overlap: float = 0.2  # pairs below this say nothing


def residuals(clip: PosedClip, source: int, target: int) -> Residuals:
    """Warps the static pixels of frame `source` into frame `target`."""
    height, width = clip.depth.shape[1:]
    keep = clip.valid[source] & ~clip.dynamic[source]
    v, u = np.nonzero(keep)
    pixels = np.stack([u + 0.5, v + 0.5, np.ones(len(u))]).astype(np.float64)
    rays = np.linalg.solve(clip.intrinsics[source].astype(np.float64), pixels)
    points = rays * clip.depth[source][keep]
    target_from_source = np.linalg.inv(clip.cam2world[target].astype(np.float64)) @ clip.cam2world[source]
    local = target_from_source[:3, :3] @ points + target_from_source[:3, 3:]
    z = local[2]
    with np.errstate(divide="ignore", invalid="ignore"):
        uv = (clip.intrinsics[target].astype(np.float64) @ local)[:2] / z
    inside = (z > 1e-3) & (uv[0] >= 0) & (uv[0] < width) & (uv[1] >= 0) & (uv[1] < height)
    if not inside.any():
        return Residuals(0.0, 0.0, 0.0, 0.0)
    column, row = uv[:, inside].astype(int)
    seen, z = clip.depth[target][row, column], z[inside]
    static = ~clip.dynamic[target][row, column]
    known = static & (seen > 0)
    difference = np.where(known & np.isfinite(seen), np.abs(z - seen) / np.maximum(z, 1e-6), np.inf)
    shared = difference < _SAME_SURFACE
    floats = known & (z < seen * (1 - _IN_FRONT))
    warped = clip.frames[source][keep][inside].astype(np.float32) / 255
    photo = np.abs(warped - clip.frames[target][row, column].astype(np.float32) / 255).mean(axis=-1)
    return Residuals(
        photometric=float(np.median(photo[shared])) if shared.any() else 1.0,
        depth=float(np.median(difference[shared])) if shared.any() else 1.0,
        contradiction=float(floats.sum() / max(known.sum(), 1)),
        overlap=float(known.sum() / max(keep.sum(), 1)),
    )


def verify(clip: PosedClip, bounds: Bounds | None = None) -> tuple[str | None, dict[str, float]]:
    """Warps several pairs of frames and compares with bounds.

    Returns:
      The reason to reject the clip (None if it is good), and the medians over the pairs.
    """
    bounds = bounds or Bounds()
    last = len(clip) - 1
    marks = sorted({0, last // 4, last // 2, 3 * last // 4, last})
    near = [(m, min(m + 4, last)) for m in marks[:-1]]
    found = [residuals(clip, *pair) for pair in [*near, *itertools.permutations(marks, 2)]]
    found = [r for r in found if r.overlap >= bounds.overlap]
    if not found:
        return "no pair of frames overlaps", {}
    medians = {
        name: float(np.median([getattr(r, name) for r in found])) for name in ("photometric", "depth", "contradiction")
    }
    for name, value in medians.items():
        if value > getattr(bounds, name):
            return f"{name} residual", medians
    return None, medians


def percentiles(residuals: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """The 50th, 90th and 100th percentile of every residual, over clips."""
    return {
        name: {str(q): round(float(np.percentile([row[name] for row in residuals], q)), 6) for q in (50, 90, 100)}
        for name in (residuals[0] if residuals else ())
    }

"""What is kept of a clip to know it again: checksums, and a sketch that tells small differences from large ones."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from mirage_jax.data.clip import PosedClip

_MARKS = 3  # frames of a sketch
_CELLS = 4  # blocks along a side of its pictures
_COLOUR, _DEPTH, _POSE, _SHARE = 4.0, 0.03, 1e-4, 0.005  # tolerances: levels, relative, metres, share of pixels


def of(clip: PosedClip) -> dict[str, Any]:
    """The fingerprint of a clip: its sizes, SHA-256 of its integers and of its other numbers, and a sketch."""
    pixels = [clip.frames, np.packbits(clip.dynamic)]
    pixels += [array for array in (clip.background, clip.instances) if array is not None]
    geometry = [clip.depth.astype(np.float16), clip.intrinsics, clip.cam2world]
    geometry += [] if clip.tracks is None else [clip.tracks]
    sizes = {"frames": len(clip), "size": clip.frames.shape[1]}
    return sizes | {"pixels": _sha(pixels), "geometry": _sha(geometry), "sketch": _sketch(clip)}


def _sha(arrays: Sequence[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _sketch(clip: PosedClip) -> str:
    marks = np.linspace(0, len(clip) - 1, _MARKS).astype(int)
    size = clip.frames.shape[1]
    edges = np.arange(_CELLS) * size // _CELLS

    def blocks(values: np.ndarray) -> np.ndarray:
        total = np.add.reduceat(np.add.reduceat(values.astype(np.float64), edges, axis=1), edges, axis=2)
        return total / (size // _CELLS) ** 2

    near = np.where(np.isfinite(clip.depth[marks]), np.minimum(clip.depth[marks], 100.0), 100.0)
    values = (
        blocks(clip.frames[marks]).ravel(),
        blocks(near).ravel(),
        clip.cam2world[marks].ravel(),
        [clip.dynamic.mean()],
    )
    return base64.b64encode(np.concatenate(values).astype(np.float32).tobytes()).decode()


def _close(found: str, wanted: str) -> bool:
    """Whether two sketches are of the same clip."""
    count = _MARKS * _CELLS**2
    ends = np.cumsum([3 * count, count, 16 * _MARKS])
    first, second = (np.frombuffer(base64.b64decode(text), np.float32) for text in (found, wanted))
    if first.shape != second.shape:
        return False
    allowed = zip(np.split(first, ends), np.split(second, ends), (_COLOUR, None, _POSE, _SHARE), strict=True)
    return all(np.all(np.abs(a - b) <= (_DEPTH * b if most is None else most)) for a, b, most in allowed)


def compare(found: dict[str, Any], wanted: dict[str, Any], *, exact_pixels: bool) -> tuple[str | None, str]:
    """How two fingerprints agree: "exact", "close" or None; and what differs.

    Args:
      found, wanted: of `of`.
      exact_pixels: whether clips whose pixels differ are never close.
    """
    if found == wanted:
        return "exact", ""
    same_pixels = found["pixels"] == wanted["pixels"]
    same_kind = (found["frames"], found["size"]) == (wanted["frames"], wanted["size"])
    close = same_kind and _close(found["sketch"], wanted["sketch"]) and (same_pixels or not exact_pixels)
    return "close" if close else None, "depth or poses" if same_pixels else "pixels"

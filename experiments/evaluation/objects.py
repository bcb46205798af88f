"""What became of the things that move while the camera looks elsewhere?

Pixels of moving objects and of the background are scored apart. For every object that the given frames show:

- *persistence*: is it where it is now (not where it was when last seen)? The frame has to be closer to the true frame
  than to the scene without objects, within the object's true mask. Where it is instead is the place near by at which
  the object's true appearance explains the frame best; its distance is in object sizes (roots of the area).
- *look*: LPIPS between the object there and the true one, all around it taken from the truth.
- *ghosting*: the object's appearance of an earlier frame, carried along with the scene into the present view, explains
  the frame better than the truth does, at a place where no object is any more.

Everything is split by phase: `visible` until an object leaves the view, `disappeared` while it is away, `reappeared`
from its return on. Nothing here is learned except LPIPS. A frame that is wrong altogether shows neither the object nor
a ghost: each has to explain half of what sets it apart from the background.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage
import scipy.signal
from PIL import Image

from mirage_jax.evaluation import metrics
from mirage_jax.geometry import Camera
from mirage_jax.memory import rgb

MOTION_CLASSES = ("none", "0-1", "1-5", "5-15", "15+")
"""Classes of clips by their percentage of moving pixels."""

PHASES = ("visible", "disappeared", "reappeared")

_NO_PHASE = ""

MARGIN = 0.2
"""By how much a frame has to be closer to one picture than to the other, as a share of their squared distance.

A blend of the two counts as the first from a share of 0.6 on.
"""

_LEAST_PIXELS = 12  # of an object, or of the place it left
_LEAST_CONTRAST = 8.0  # grey values: an object that looks like what is behind it can neither be found nor missed
_LEAST_GAP = 4  # frames: shorter absences are flicker, not disappearance
_REACH = 2.0  # object sizes: how far around its true place an object is looked for
_SOURCES = 8  # earlier appearances of an object that are looked for as ghosts
_LEAST_LEFT = 0.5  # of an earlier appearance that has to be clear of objects now
_DEPTH_SLACK = 1.05  # a ghost is no deeper than this times the true surface
_CROP = 64  # pixels on a side of the crops that LPIPS compares


@dataclasses.dataclass(frozen=True)
class _Match:
    """Where an object was found."""

    detected: bool  # at its true place
    shift: tuple[int, int] | None  # rows and columns off its true place; None if it is nowhere near


def motion_class(dynamic: np.ndarray) -> str:
    """The class of a clip by the share of moving pixels, of all pixels of all frames.

    Args:
      dynamic: bool `[T, H, W]`.

    Returns:
      one of `MOTION_CLASSES`; limits belong to the class above.
    """
    percentage = 100.0 * float(np.mean(dynamic))
    if percentage == 0:
        return "none"
    return MOTION_CLASSES[1 + int(np.searchsorted([1.0, 5.0, 15.0], percentage, side="right"))]


def score(
    frames: np.ndarray,
    truth: np.ndarray,
    dynamic: np.ndarray,
    background: np.ndarray | None = None,
    *,
    instances: np.ndarray | None = None,
    depth: np.ndarray | None = None,
    cameras: Camera | None = None,
    given: int = 1,
) -> dict[str, Any]:
    """Scores of background and objects of one video.

    Args:
      frames: uint8 `[T, H, W, 3]`, the video to judge, the given frames included.
      truth: uint8 `[T, H, W, 3]`.
      dynamic: bool `[T, H, W]`, where the truth shows what moves.
      background: uint8 `[T, H, W, 3]`, the truth without what moves; persistence needs it.
      instances: `[T, H, W]`, which moving object is seen, 0 for none. Without it, each connected part of `dynamic` is
        looked for on its own, and all together are one object as to phases.
      depth: `[T, H, W]` z-depth of the truth, scene units, inf for sky, 0 for unknown; ghosting needs it.
      cameras: `Camera[T]` of the truth on the `H x W` grid; ghosting needs them.
      given: frames from the start that the maker of the video was given. They are not scored, and neither are
        objects that they do not show: nobody can know those.

    Returns:
      Means over all phases, and by the name of each phase over that phase, of
        `background_psnr`, `background_lpips`: over frames, the objects taken from the truth; also where no object is
          known, which belongs to no phase;
        `object_psnr`, `object_lpips`: over the true masks of the objects;
        `detected`: share of objects in frames that are there, `found`: that are there or near by;
        `centroid_error`: of the found ones, in object sizes; `look`: their LPIPS;
        `ghosting`: share of objects in frames of which an earlier appearance is left elsewhere;
        `object_frames`: the number of masks judged.
      None where there is nothing to take a mean of, or what it needs is not given.

    Raises:
      ValueError: if shapes differ.
    """
    grid = truth.shape[:3]
    others = [x.shape for x in (dynamic, instances, depth) if x is not None]
    pictures = [x.shape for x in (frames, truth, background) if x is not None]
    if any(shape != grid for shape in others) or any(shape != (*grid, 3) for shape in pictures):
        raise ValueError(f"arrays of shapes {pictures + others} do not belong to one video")
    labels = np.where(dynamic, 1, 0) if instances is None else np.asarray(instances)
    moving = dynamic | (labels > 0)
    names = [name for name in np.unique(labels) if name and _seen(labels == name)[:given].any()]
    phases = {name: _phases(_seen(labels == name)) for name in names}

    values: dict[str, dict[str, list[float]]] = {phase: {} for phase in (*PHASES, _NO_PHASE)}

    def note(phase: str, **entries: float) -> None:
        for key, value in entries.items():
            values[phase].setdefault(key, []).append(float(value))

    by_frame = [_phase_of_frame([phases[name][t] for name in names]) for t in range(len(truth))]
    only_background = np.where(moving[..., None], truth, frames)
    noise = np.minimum(metrics.masked_psnr(frames, truth, ~moving), metrics.PSNR_OF_EQUAL_FRAMES)
    distance = np.asarray(metrics.lpips(only_background, truth))
    for t in range(given, len(truth)):
        if np.isfinite(noise[t]):
            note(by_frame[t] or _NO_PHASE, background_psnr=noise[t], background_lpips=distance[t])

    crops: list[tuple[str, str, np.ndarray, np.ndarray]] = []
    for name in names:
        mine = labels == name
        quality = np.minimum(metrics.masked_psnr(frames, truth, mine), metrics.PSNR_OF_EQUAL_FRAMES)
        for t in (t for t in range(given, len(truth)) if phases[name][t]):
            phase = phases[name][t]
            for mask in _parts(mine[t], apart=instances is None):
                note(phase, object_psnr=quality[t], object_frames=1)
                crops.append((phase, "object_lpips", *_crops(frames[t], truth[t], mask, (0, 0))))
                if background is None or _contrast(truth[t], background[t], mask) < _LEAST_CONTRAST:
                    continue
                match = _find(frames[t], truth[t], background[t], mask)
                note(phase, detected=match.detected, found=match.shift is not None)
                if match.shift is not None:
                    note(phase, centroid_error=np.hypot(*match.shift) / np.sqrt(mask.sum()))
                    crops.append((phase, "look", *_crops(frames[t], truth[t], mask, match.shift)))
        if depth is not None and cameras is not None:
            ghosts = _ghosts(frames, truth, moving, mine, depth, cameras)
            for t in range(given, len(truth)):
                if phases[name][t] and np.isfinite(ghosts[t]):
                    note(phases[name][t], ghosting=ghosts[t])
    for (phase, key, *_), value in zip(crops, _crop_distances(crops), strict=True):
        note(phase, **{key: value})

    together: dict[str, list[float]] = {}
    for of_phase in values.values():
        for key, entries in of_phase.items():
            together[key] = together.get(key, []) + entries
    return _means(together) | {phase: _means(values[phase]) for phase in PHASES}


_KEYS = (
    *("background_psnr", "background_lpips", "object_psnr", "object_lpips"),
    *("detected", "found", "centroid_error", "look", "ghosting"),
)


def _means(values: dict[str, list[float]]) -> dict[str, float | None]:
    means = {key: float(np.mean(values[key])) if values.get(key) else None for key in _KEYS}
    return means | {"object_frames": float(len(values.get("object_frames", [])))}


def _seen(mine: np.ndarray) -> np.ndarray:
    """`[T]` bool, whether an object shows enough of itself: `[T, H, W]` -> `[T]`."""
    return mine.sum((1, 2)) >= _LEAST_PIXELS


def _phases(seen: np.ndarray) -> list[str]:
    """The phase of an object in each frame; empty before it is seen and while it flickers."""
    phases, away, returned, before = [], 0, False, False
    for t, here in enumerate(seen):
        if here:
            returned |= away >= _LEAST_GAP
            away, before = 0, True
            phases.append("reappeared" if returned else "visible")
            continue
        away += before
        until = np.flatnonzero(seen[t:])
        whole = away + (until[0] - 1 if len(until) else _LEAST_GAP)
        phases.append("disappeared" if before and whole >= _LEAST_GAP else "")
    return phases


def _phase_of_frame(phases: list[str]) -> str:
    """One phase for a frame with several objects: a return matters most, then what is in view."""
    return next((phase for phase in ("reappeared", "visible", "disappeared") if phase in phases), "")


def _parts(mask: np.ndarray, *, apart: bool) -> Iterator[np.ndarray]:
    """The mask of an object, or of each connected part that is large enough."""
    parts, count = scipy.ndimage.label(mask, np.ones((3, 3))) if apart else (mask.astype(int), 1)
    for i in range(1, count + 1):
        if (part := parts == i).sum() >= _LEAST_PIXELS:
            yield part


def _contrast(truth: np.ndarray, background: np.ndarray, mask: np.ndarray) -> float:
    return float(np.sqrt(np.mean((truth[mask].astype(float) - background[mask]) ** 2)))


def _box(mask: np.ndarray) -> tuple[slice, slice]:
    return scipy.ndimage.find_objects(mask.astype(int))[0]


def _find(frame: np.ndarray, truth: np.ndarray, background: np.ndarray, mask: np.ndarray) -> _Match:
    """Looks for the pixels of `truth` under `mask` at all whole shifts near by that keep them inside the frame."""
    rows, columns = _box(mask)
    reach = int(np.ceil(_REACH * np.sqrt(mask.sum())))
    top, left = max(0, rows.start - reach), max(0, columns.start - reach)
    area = slice(top, rows.stop + reach), slice(left, columns.stop + reach)
    # Around mid-grey the sums are smaller, and with them what the transforms lose.
    here, behind, looks = (x.astype(float) - 127.5 for x in (frame[area], background[area], truth[rows, columns]))
    inside = mask[rows, columns].astype(float)

    def over_shifts(picture: np.ndarray, pattern: np.ndarray) -> np.ndarray:
        return scipy.signal.correlate(picture, pattern, mode="valid", method="fft")

    def to_object(picture: np.ndarray) -> np.ndarray:
        """Squared distance of the picture to the object at each shift."""
        cross = sum(over_shifts(picture[..., c], looks[..., c] * inside) for c in range(3))
        return over_shifts((picture**2).sum(-1), inside) - 2 * cross + (looks**2 * inside[..., None]).sum()

    as_object, as_background = to_object(here), over_shifts(((here - behind) ** 2).sum(-1), inside)
    explains = _explains(as_object, as_background, to_object(behind))
    gain = np.where(explains, as_background - as_object, -np.inf)
    own = rows.start - top, columns.start - left
    best = np.unravel_index(np.argmax(gain), gain.shape)
    shift = (int(best[0]) - own[0], int(best[1]) - own[1]) if explains.any() else None
    return _Match(bool(explains[own]), shift)


def _explains(to_first: np.ndarray, to_second: np.ndarray, apart: np.ndarray) -> np.ndarray:
    """Whether a frame shows the first of two pictures, by its squared distances to them and theirs to each other."""
    return (to_second - to_first > MARGIN * apart) & (to_first < 0.5 * apart)


def _ghosts(
    frames: np.ndarray, truth: np.ndarray, moving: np.ndarray, mine: np.ndarray, depth: np.ndarray, cameras: Camera
) -> np.ndarray:
    """`[T]`: 1 where an earlier appearance of an object is left, 0 where not, NaN where none could be seen."""
    result = np.full(len(truth), np.nan)
    seen = np.flatnonzero(_seen(mine))
    for source in np.unique(seen[np.linspace(0, len(seen) - 1, _SOURCES).round().astype(int)]):
        old, place, surface = (np.asarray(x) for x in _carried(truth, depth, mine, cameras, source))
        free = np.isinf(depth) | (surface <= _DEPTH_SLACK * depth)
        left = place & free & ~moving
        for t in range(source + 1, len(truth)):
            count = left[t].sum()
            if count < max(_LEAST_PIXELS, _LEAST_LEFT * (place[t] & free[t]).sum()):
                continue
            now, then, shown = (x[t][left[t]].astype(float) for x in (truth, old, frames))
            apart = ((then - now) ** 2).sum()
            if apart < 3 * count * _LEAST_CONTRAST**2:
                continue
            ghost = _explains(((shown - then) ** 2).sum(), ((shown - now) ** 2).sum(), apart)
            result[t] = np.fmax(result[t], float(ghost))
    return result


@jax.jit
def _carried(
    truth: jax.Array, depth: jax.Array, mine: jax.Array, cameras: Camera, source: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """An object as frame `source` shows it, seen from all cameras as if it had stayed: colours, where, z-depth."""
    one = jnp.asarray(source)[None]
    memory = rgb.create(depth[0].size)
    memory = rgb.write(memory, truth[one].astype(jnp.float32), depth[one], cameras[one], mine[one])
    shown = rgb.read(memory, cameras, max_footprint=3)
    return shown.features, shown.visible, shown.depth


def _crops(
    frame: np.ndarray, truth: np.ndarray, mask: np.ndarray, shift: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Two uint8 `[_CROP, _CROP, 3]` pictures around an object: as the frame shows it at a shift, and as it is."""
    shown = truth.copy()
    row, column = np.nonzero(mask)
    shown[row, column] = frame[row + shift[0], column + shift[1]]
    rows, columns = _box(mask)
    margin = max(2, max(rows.stop - rows.start, columns.stop - columns.start) // 8)
    area = (
        slice(max(0, rows.start - margin), rows.stop + margin),
        slice(max(0, columns.start - margin), columns.stop + margin),
    )
    size = (_CROP, _CROP)
    pictures = [np.asarray(Image.fromarray(x[area]).resize(size, Image.Resampling.BILINEAR)) for x in (shown, truth)]
    return pictures[0], pictures[1]


def _crop_distances(crops: list[tuple[str, str, np.ndarray, np.ndarray]]) -> list[float]:
    """LPIPS of each pair."""
    if not crops:
        return []
    shown, true = (np.stack([crop[place] for crop in crops]) for place in (2, 3))
    return np.asarray(metrics.lpips(shown, true)).tolist()

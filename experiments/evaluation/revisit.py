"""Does a place look the same when the camera comes back? Pairs of frames chosen from the camera path alone.

`closed_loop_pairs` is for paths that retrace themselves: every frame is compared with its return. `select_pairs` is for
any path and follows R2M-Bench (arXiv 2608.27328): the likeness of revisited views is set against that of unrelated
views the same time apart (else a video that stands still would win) and of views a moment apart (the best that can be
hoped for). Everything here is numpy on the host.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

Metric = Callable[[np.ndarray, np.ndarray], np.ndarray]  # [n, H, W, 3], [n, H, W, 3] -> [n]

_MOST_PAIRS = 100
_FEWEST_SHORT_PAIRS = 20


@dataclasses.dataclass(frozen=True)
class RevisitPairs:
    """Pairs of frame numbers, the earlier frame first.

    Attributes:
      revisit: `[n, 2]` the same view, a fifth of the video or more apart.
      baseline: `[m, 2]` other views, as far apart in time and from the same parts of the video; m <= n.
      short: `[k, 2]` a few frames apart.
    """

    revisit: np.ndarray
    baseline: np.ndarray
    short: np.ndarray


def closed_loop_pairs(cam2world: np.ndarray) -> np.ndarray:
    """The pairs (i, T-1-i) of a path that returns the way it came.

    Args:
      cam2world: `[T, 4, 4]`.

    Returns:
      `[T // 2, 2]`; the first row is the first frame and the last.

    Raises:
      ValueError: if a frame's camera is not the one of its return, to 0.1 degrees and a thousandth of the path's length
        (at least 1 mm).
    """
    count = len(cam2world)
    pairs = np.stack([np.arange(count // 2), count - 1 - np.arange(count // 2)], axis=1)
    length = np.linalg.norm(np.diff(cam2world[:, :3, 3], axis=0), axis=1).sum()
    offset, turn = pose_differences(cam2world, pairs)
    wrong = (offset > 1e-3 * max(1.0, length)) | (turn > 0.1)
    if wrong.any():
        i, j = pairs[wrong][0]
        raise ValueError(
            f"the path does not return the way it came: frames {i} and {j} are {offset[wrong][0]:.3g} m and "
            f"{turn[wrong][0]:.3g} degrees apart"
        )
    return pairs


def select_pairs(cam2world: np.ndarray, *, seed: int = 0) -> RevisitPairs:
    """Chooses the three kinds of pairs of R2M-Bench.

    Two views are the same if they are at most clip(2 P95(step), 0.1, 1) metres and clip(2 P95(turn), 1, 5) degrees
    apart, where step and turn are those from frame to frame. The angle is that of the whole rotation, which on level
    paths is the benchmark's yaw difference. A baseline pair is near a revisit if both its ends are within
    max(6, 2 % of the video) frames of that revisit's ends.

    Args:
      cam2world: `[N, 4, 4]`, metres.
      seed: which pairs are drawn where there are more than needed.

    Raises:
      ValueError: if the path revisits nothing, or there is nothing to compare with.
    """
    count = len(cam2world)
    random = np.random.default_rng(seed)
    first, second = np.triu_indices(count, k=1)
    gap = second - first
    pairs = np.stack([first, second], axis=1)

    offset, turn = pose_differences(cam2world, pairs)
    step_offset, step_turn = offset[gap == 1], turn[gap == 1]
    reach, widest = view_tolerance(step_offset, step_turn)
    same_view = (offset <= reach) & (turn <= widest)
    is_revisit = same_view & (gap >= 0.2 * count)
    if not is_revisit.any():
        raise ValueError(f"no view of this path of {count} frames is seen again a fifth of the video later")
    revisit = _draw(pairs[is_revisit], _MOST_PAIRS, random)

    moment = max(6, int(0.02 * count))
    unrelated = ~same_view & ~_near_a_revisit(pairs, pairs[is_revisit], count, moment)
    baseline = _match(revisit, pairs[unrelated], count, random)
    if not len(baseline):
        raise ValueError(
            f"no two unrelated views of this path of {count} frames are as far apart in time as its revisits"
        )
    short = pairs[(gap >= 2) & (gap <= moment)]
    short = _draw(short, int(np.clip(len(revisit), _FEWEST_SHORT_PAIRS, _MOST_PAIRS)), random)
    return RevisitPairs(revisit=revisit, baseline=baseline, short=short)


def score(frames: np.ndarray, pairs: RevisitPairs, metric: Metric, *, higher_is_closer: bool) -> dict[str, float]:
    """Applies `metric` to the pairs of one video.

    Args:
      frames: `[N, H, W, 3]`.
      pairs: from `select_pairs` on the video's cameras.
      metric: compares frames one by one, as those of `mirage_jax.evaluation.metrics`.
      higher_is_closer: True for similarities (PSNR, SSIM), False for distances (LPIPS).

    Returns:
      `revisit`, `baseline`, `short`, the means R, B, S over each kind of pair; `gain`, R - B, how much closer revisited
      views are than unrelated ones, and `range`, S - B, how much closer views a moment apart are (both with the other
      sign for distances).
    """
    kinds = ("revisit", "baseline", "short")
    mean = {kind: float(np.mean(compare_pairs(frames, getattr(pairs, kind), metric))) for kind in kinds}
    sign = 1 if higher_is_closer else -1
    gain, reach = (sign * (mean[kind] - mean["baseline"]) for kind in ("revisit", "short"))
    return {**mean, "gain": gain, "range": reach}


def compare_pairs(frames: np.ndarray, pairs: np.ndarray, metric: Metric) -> np.ndarray:
    """`metric` between the later and the earlier frame of each pair: `[N, H, W, 3]`, `[n, 2]` -> `[n]`."""
    return np.asarray(metric(frames[pairs[:, 1]], frames[pairs[:, 0]]))


def pose_differences(cam2world: np.ndarray, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance of the centres and angle between the orientations of each pair of cameras.

    Args:
      cam2world: `[N, 4, 4]`.
      pairs: `[n, 2]` indices into it.

    Returns:
      `[n]` scene units and `[n]` degrees in 0..180.
    """
    poses = np.asarray(cam2world, np.float64)
    a, b = poses[pairs[:, 0]], poses[pairs[:, 1]]
    offset = np.linalg.norm(a[:, :3, 3] - b[:, :3, 3], axis=-1)
    # |R - I| = 2 sqrt(2) sin(angle / 2) is well conditioned at small angles, where the trace is not.
    chord = np.linalg.norm(a[:, :3, :3] - b[:, :3, :3], axis=(-2, -1)) / (2 * np.sqrt(2))
    return offset, np.degrees(2 * np.arcsin(np.clip(chord, 0, 1)))


def view_tolerance(step_offset: np.ndarray, step_turn: np.ndarray) -> tuple[float, float]:
    """How far apart two views may be to count as the same: metres and degrees, of the steps from frame to frame."""
    return (
        _at_most(2 * float(np.percentile(step_offset, 95)), 0.1, 1.0),
        _at_most(2 * float(np.percentile(step_turn, 95)), 1.0, 5.0),
    )


def _at_most(value: float, low: float, high: float) -> float:
    """`value` within `low`..`high`, and a little more: at constant speed, views two steps apart lie on the bound."""
    return float(np.clip(value, low, high)) * (1 + 1e-4)


def _near_a_revisit(pairs: np.ndarray, revisits: np.ndarray, count: int, moment: int) -> np.ndarray:
    """`[n]` bool: both ends of the pair lie within `moment` frames of the ends of one revisit."""
    hits = np.zeros((count + 2 * moment + 1, count + 2 * moment + 1), np.int64)
    hits[revisits[:, 0] + moment + 1, revisits[:, 1] + moment + 1] = 1
    total = hits.cumsum(0).cumsum(1)
    first, second = pairs.T  # `moment` frames around `first` are the rows first + 1 .. first + 2 moment + 1 of `hits`
    last = 2 * moment + 1
    inside = total[first + last, second + last] - total[first, second + last]
    return inside - total[first + last, second] + total[first, second] > 0


def _match(revisit: np.ndarray, candidates: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """One candidate for each revisit: from the same tenth of the video, the gap equal to max(10, 30 %); none twice."""
    gap = candidates[:, 1] - candidates[:, 0]
    tenth = 10 * candidates[:, 0] // count
    free = np.ones(len(candidates), bool)
    chosen = []
    for first, second in revisit:
        wanted = second - first
        fits = free & (tenth == 10 * first // count) & (np.abs(gap - wanted) <= max(10, 0.3 * wanted))
        if fits.any():
            chosen.append(random.choice(np.flatnonzero(fits)))
            free[chosen[-1]] = False
    return candidates[np.sort(np.array(chosen, np.int64))]


def _draw(pairs: np.ndarray, most: int, random: np.random.Generator) -> np.ndarray:
    """At most `most` of the pairs, in their order."""
    if len(pairs) <= most:
        return pairs
    return pairs[np.sort(random.choice(len(pairs), most, replace=False))]

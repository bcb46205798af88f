"""Means over clips with 95 % bootstrap intervals, and paired differences between methods.

A clip is the unit that is drawn again: frames of one clip depend on each other, so they are averaged first, and so are
several seeds of one clip.
"""

from __future__ import annotations

import dataclasses

import numpy as np

_RESAMPLES = 10_000
_CHUNK = 500  # resamples at once, which bounds memory to CHUNK x clips


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean over clips and where it would lie in 95 % of repetitions with other clips.

    Attributes:
      mean: the mean of the clips at hand.
      low, high: the 2.5th and 97.5th percentile of the mean over clips drawn again with replacement.
      count: the number of clips.
    """

    mean: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}] (n={self.count})"


def bootstrap_mean(values: np.ndarray, *, seed: int = 0) -> Interval:
    """The mean over clips with its percentile bootstrap interval (Efron 1979).

    Args:
      values: `[clips]`, or `[clips, seeds]` for several runs of each clip, which are averaged by clip.
      seed: of the draws; the same values and seed give the same interval.

    Raises:
      ValueError: if there are fewer than two clips, or a value is NaN or infinite.
    """
    values = np.asarray(values, np.float64)
    if values.ndim not in (1, 2):
        raise ValueError(f"expected values [clips] or [clips, seeds], got shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(values))} of {values.size} values are NaN or infinite")
    clips = values.reshape(len(values), -1).mean(axis=1)
    if len(clips) < 2:
        raise ValueError(f"an interval over clips needs at least 2 clips, got {len(clips)}")
    random = np.random.default_rng(seed)
    draws = (random.integers(len(clips), size=(_CHUNK, len(clips))) for _ in range(_RESAMPLES // _CHUNK))
    low, high = np.percentile(np.concatenate([clips[draw].mean(axis=1) for draw in draws]), [2.5, 97.5])
    return Interval(mean=float(clips.mean()), low=float(low), high=float(high), count=len(clips))


def paired_difference(a: np.ndarray, b: np.ndarray, *, seed: int = 0) -> Interval:
    """How much larger `a` is than `b` on the same clips and seeds, with the interval of that difference.

    Args:
      a, b: `[clips]` or `[clips, seeds]`, equal shapes: entry by entry the same clip and seed.
      seed: as in `bootstrap_mean`.

    Raises:
      ValueError: if the shapes differ, or as `bootstrap_mean` does.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape:
        raise ValueError(f"a paired difference needs the same clips and seeds, got shapes {a.shape} and {b.shape}")
    return bootstrap_mean(a - b, seed=seed)

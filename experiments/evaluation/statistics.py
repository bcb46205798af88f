"""Means and medians over clips with 95 % bootstrap intervals; of paired differences, they are those between methods.

A clip is the unit that is drawn again: frames of one clip depend on each other, so they are averaged first, and so are
several seeds of one clip. `scipy.stats.bootstrap` draws.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import scipy.stats


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean (or median) over clips and where it would lie in 95 % of repetitions with other clips.

    Attributes:
      mean: that of the clips at hand.
      low, high: the 2.5th and 97.5th percentile of that of clips drawn again with replacement.
      count: the number of clips.
    """

    mean: float
    low: float
    high: float
    count: int


def bootstrap_mean(values: np.ndarray, *, seed: int = 0) -> Interval:
    """The mean over clips with its percentile bootstrap interval (Efron 1979).

    Args:
      values: `[clips]`, or `[clips, seeds]` for several runs of each clip, which are averaged by clip.
      seed: of the draws; the same values and seed give the same interval.

    Raises:
      ValueError: if there are fewer than two clips, or a value is NaN or infinite.
    """
    return _bootstrap(np.mean, values, seed)


def bootstrap_median(values: np.ndarray, *, seed: int = 0) -> Interval:
    """The median over clips with its interval; arguments and errors as of `bootstrap_mean`."""
    return _bootstrap(np.median, values, seed)


def _bootstrap(statistic: Callable[..., np.ndarray], values: np.ndarray, seed: int) -> Interval:
    values = np.asarray(values, np.float64)
    if values.ndim not in (1, 2):
        raise ValueError(f"expected values [clips] or [clips, seeds], got shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(values))} of {values.size} values are NaN or infinite")
    clips = values.reshape(len(values), -1).mean(axis=1)
    if len(clips) < 2:
        raise ValueError(f"an interval over clips needs at least 2 clips, got {len(clips)}")
    low, high = _percentiles(lambda drawn, axis: statistic(clips[drawn], axis=axis), [len(clips)], seed)
    return Interval(mean=float(statistic(clips)), low=low, high=high, count=len(clips))


def ratio_of_means(groups: Sequence[np.ndarray], *, extra: float = 0.0, seed: int = 0) -> Interval:
    """Mean over mean within each group of clips, averaged over groups; clips are drawn again within their group.

    Args:
      groups: `[clips, 2]` each, above and below; two clips or more in all.
      extra: added to the mean below.
      seed: of the draws.
    """

    def drawn_again(*drawn: np.ndarray, axis: int) -> np.ndarray:
        ratios = []
        for group, index in zip(groups, drawn, strict=True):
            above, below = (group[index, column].mean(axis) for column in range(2))
            ratios.append(above / np.where(below > 0, below + extra, np.nan))
        return np.mean(ratios, axis=0)

    mean = np.mean([group[:, 0].mean() / (group[:, 1].mean() + extra) for group in groups])
    low, high = _percentiles(drawn_again, [len(group) for group in groups], seed)
    return Interval(mean=float(mean), low=low, high=high, count=sum(map(len, groups)))


def _percentiles(statistic: Callable[..., np.ndarray], sizes: Sequence[int], seed: int) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of a statistic of places drawn again; of those draws that have one."""
    # Of a single clip there is nothing to draw, which scipy refuses: twice the same is the same.
    places = [np.arange(size) if size > 1 else np.zeros(2, int) for size in sizes]
    options = {"n_resamples": 10_000, "batch": 500, "method": "percentile", "rng": np.random.default_rng(seed)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", scipy.stats.DegenerateDataWarning)  # of draws without a ratio, left out below
        drawn = scipy.stats.bootstrap(places, statistic, vectorized=True, **options).bootstrap_distribution
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return float(low), float(high)

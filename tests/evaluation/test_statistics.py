"""Bootstrap intervals: known widths, coverage, pairing, and what is refused."""

import numpy as np
import pytest

from experiments.evaluation.statistics import bootstrap_mean, bootstrap_median, ratio_of_means


def test_width_is_that_of_the_normal_theory():
    values = np.random.RandomState(0).normal(3.0, 2.0, 400)
    interval = bootstrap_mean(values)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert interval.mean == pytest.approx(values.mean()) and interval.count == 400
    assert interval.low == pytest.approx(values.mean() - half, abs=0.05 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.05 * half)


def test_a_median_and_its_interval_do_not_mind_what_is_far_off():
    values = np.random.RandomState(0).normal(3.0, 2.0, 400)
    interval = bootstrap_median(values)
    half = 1.96 * 1.2533 * 2.0 / np.sqrt(400)  # of the normal theory
    assert interval.mean == np.median(values) and interval.count == 400
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.3)
    far = np.where(values > np.quantile(values, 0.9), 1e6, values)
    assert bootstrap_median(far) == interval


def test_about_95_of_100_intervals_hold_the_truth():
    random = np.random.RandomState(1)
    hits = sum(
        interval.low <= 1 <= interval.high
        for interval in (bootstrap_mean(random.exponential(1, 60)) for _ in range(100))
    )
    assert 87 <= hits <= 99


def test_same_seed_same_interval():
    values = np.random.RandomState(2).rand(20)
    assert bootstrap_mean(values, seed=4) == bootstrap_mean(values, seed=4)
    assert bootstrap_mean(values, seed=4) != bootstrap_mean(values, seed=5)


def test_seeds_of_a_clip_are_not_more_clips():
    values = np.random.RandomState(3).rand(10, 1)
    assert bootstrap_mean(np.repeat(values, 50, axis=1)) == bootstrap_mean(values[:, 0])


def test_pairing_removes_what_clips_share():
    random = np.random.RandomState(4)
    difficulty = random.normal(25, 6, 60)  # clips differ by much more than methods do
    a, b = difficulty + 0.5 + random.normal(0, 0.3, 60), difficulty + random.normal(0, 0.3, 60)
    paired = bootstrap_mean(a - b)
    assert 0 < paired.low < 0.5 < paired.high < 0.8
    assert bootstrap_mean(a).low < bootstrap_mean(b).high  # unpaired, nothing could be said


@pytest.mark.parametrize("values", [[1.0], [], [1.0, np.nan], [1.0, np.inf], np.zeros((2, 2, 2))])
def test_refused(values):
    with pytest.raises(ValueError):
        bootstrap_mean(np.array(values))


def test_a_ratio_of_means_is_taken_within_groups():
    random = np.random.RandomState(5)
    below = random.uniform(1, 3, 200)
    groups = [np.stack([share * below + random.normal(0, 0.1, 200), below], axis=1) for share in (0.2, 0.6)]
    found = ratio_of_means(groups)
    assert found.count == 400 and found.mean == pytest.approx(0.4, abs=0.01)
    assert 0.38 < found.low < found.mean < found.high < 0.42
    alone = ratio_of_means([np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]])])
    assert (alone.low, alone.mean, alone.high) == (0.625, 0.625, 0.625), "of one clip there is nothing to draw"

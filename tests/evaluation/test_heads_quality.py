"""The heads against the truth: errors of depth by clip and over all cells, masks over all cells."""

import numpy as np
import pytest

from experiments.evaluation import summary
from mirage_jax.evaluation import heads

_DEPTH = np.array([[[np.inf, 0.0], [4.0, 4.0]], [[4.0, 4.0], [4.0, 4.0]]], np.float32)  # sky, unknown, walls
_SAID = _DEPTH.clip(4.0, 5.0) * np.array([[[9, 9], [1.1, 0.7]], [[1.14, 0.87], [1.16, 1.0]]], np.float32)
_ACTOR = np.array([[[False, False], [False, True]], [[False, False], [False, True]]])


@pytest.fixture(scope="module")
def values():
    seen = np.array([[[False, False], [False, True]], [[False, False], [True, True]]])  # one cell too many
    still = np.isfinite(_DEPTH) & ~seen
    out = {"depth": _SAID, "keep_logit": np.where(still, 5.0, -5.0), "sky_logit": np.where(np.isinf(_DEPTH), 5.0, -5.0)}
    return heads.compare(out, _DEPTH, _ACTOR).values


def test_scores_of_a_clip(values):
    assert values["depth_median_relative_error"] == pytest.approx((0.13 + 0.14) / 2)  # 0, 0.1, 0.13, 0.14, 0.16, 0.3
    assert (values["depth_within_15_percent_count"], values["depth_count"]) == (4, 6)
    assert (values["actor_intersection"], values["actor_union"]) == (2, 3)
    assert (values["sky_intersection"], values["sky_union"]) == (1, 1)


def test_cells_are_summed_over_clips_and_medians_averaged(values):
    other = {**values, "depth_median_relative_error": 0.5, "depth_within_15_percent_count": 0, "depth_count": 2}
    about = {"kind": "walk", "motion": "none", "protocol": "heads", "method": "heads", "seed": 0}
    rows = [{"clip": "a", **about, **values}, {"clip": "b", **about, **other}]
    alone = summary.of_one_protocol(
        [{k: v for k, v in r.items() if k not in ("kind", "motion", "protocol")} for r in rows]
    )
    suite = summary.summarise(rows)["heads"]["heads"]
    assert alone["heads"]["depth_median_relative_error"]["mean"] == pytest.approx((0.135 + 0.5) / 2)
    for name, expected in (("depth_within_15_percent", 4 / 8), ("actor_iou", 2 / 3), ("sky_iou", 1.0)):
        assert alone["heads"][name] == pytest.approx(expected)
        assert suite[name]["mean"] == pytest.approx(expected)
    assert not any(name.endswith(summary.SUMMED) for name in suite)

"""Choice of pairs against a brute-force twin, and the scores of videos whose memory is known."""

import numpy as np
import pytest

from experiments.evaluation import revisit, summary
from mirage_jax.evaluation import metrics


def _poses(x, yaw_degrees):
    """Level cameras: `x` metres to the right, turned by `yaw_degrees`; -> `[N, 4, 4]`."""
    yaw = np.radians(np.broadcast_to(yaw_degrees, np.shape(x)))
    poses = np.tile(np.eye(4, dtype=np.float32), (len(x), 1, 1))
    poses[:, 0, 0], poses[:, 0, 2] = np.cos(yaw), np.sin(yaw)
    poses[:, 2, 0], poses[:, 2, 2] = -np.sin(yaw), np.cos(yaw)
    poses[:, 0, 3] = x
    return poses


def _there_and_back(count=81, far=8.0):
    way = np.linspace(0, far, count // 2 + 1)
    return np.concatenate([way, way[-2::-1]])


_RANDOM = np.random.RandomState(0)
_PANORAMA = np.repeat(np.repeat(_RANDOM.randint(0, 256, (3, 9, 3)), 16, axis=0), 16, axis=1).astype(np.uint8)


def _video(x, pixels_per_metre=12):
    """Frames of a camera that slides along a wide picture: the same place always looks the same."""
    return np.stack([_PANORAMA[:, round(pixels_per_metre * v) :][:, :48] for v in x])


def _forgetful(x):
    """As `_video` while the camera goes away; on the way back another world."""
    frames = _video(x).copy()
    back = len(x) // 2 + 1
    frames[back:] = 255 - np.roll(frames[back:], 24, axis=1)
    return frames


def test_pose_differences():
    poses = _poses(np.array([0.0, 3.0, 3.0]), np.array([0.0, 0.001, 179.0]))
    offset, turn = revisit.pose_differences(poses, np.array([[0, 1], [1, 2], [0, 2]]))
    np.testing.assert_allclose(offset, [3, 0, 3])
    np.testing.assert_allclose(turn, [0.001, 178.999, 179], rtol=1e-3)


@pytest.mark.parametrize("kind", ["slide", "turn", "orbit", "stop"])
def test_pairs_keep_every_rule(kind):
    count = 120
    t = np.arange(count)
    poses = {
        "slide": _poses(4 * np.abs(np.sin(t / 19)), 0.0),
        "turn": _poses(np.zeros(count), 60 * np.sin(t / 17)),
        "orbit": _poses(2 * np.sin(t / 15), 80 * np.sin(t / 15 + 1)),
        "stop": _poses(np.clip(np.abs(t - 60) - 20, 0, 9) * 0.3, 0.0),
    }[kind]
    pairs = revisit.select_pairs(poses, seed=3)
    x = poses[:, 0, 3].astype(float)

    def differs(i, j):
        forward = [poses[k, 0, 2] + 1j * poses[k, 2, 2] for k in (i, j)]  # level cameras: the yaw says all
        return abs(x[i] - x[j]), abs(np.degrees(np.angle(forward[0] / forward[1])))

    steps = np.array([differs(i, i + 1) for i in range(count - 1)])
    far = np.clip(2 * np.percentile(steps[:, 0], 95), 0.1, 1.0)
    turned = np.clip(2 * np.percentile(steps[:, 1], 95), 1, 5)

    def same_view(i, j):
        offset, turn = differs(i, j)
        return offset <= 1.0001 * far and turn <= 1.0001 * turned

    revisits = {(i, j) for i in range(count) for j in range(i + 24, count) if same_view(i, j)}
    assert len(pairs.revisit) == min(100, len(revisits)) and set(map(tuple, pairs.revisit)) <= revisits
    assert len(set(map(tuple, pairs.revisit))) == len(pairs.revisit)

    assert 0 < len(pairs.baseline) <= len(pairs.revisit)
    assert len(set(map(tuple, pairs.baseline))) == len(pairs.baseline)
    for i, j in pairs.baseline:
        assert not same_view(i, j)
        assert not any(abs(i - p) <= 6 and abs(j - q) <= 6 for p, q in revisits)
        fitting = [(p, q) for p, q in pairs.revisit if 10 * p // count == 10 * i // count]
        assert any(abs((j - i) - (q - p)) <= max(10, 0.3 * (q - p)) for p, q in fitting)

    gap = pairs.short[:, 1] - pairs.short[:, 0]
    assert gap.min() >= 2 and gap.max() <= 6
    assert len(pairs.short) == np.clip(len(pairs.revisit), 20, 100)


def test_same_seed_same_pairs():
    poses = _poses(_there_and_back(161), 0.0)
    once, again, other = (revisit.select_pairs(poses, seed=seed) for seed in (1, 1, 2))
    for kind in ("revisit", "baseline", "short"):
        np.testing.assert_array_equal(getattr(once, kind), getattr(again, kind))
        assert not np.array_equal(getattr(once, kind), getattr(other, kind))


def test_a_path_that_never_returns_is_refused():
    with pytest.raises(ValueError, match="no view of this path of 60 frames is seen again"):
        revisit.select_pairs(_poses(np.linspace(0, 9, 60), 0.0))


def test_a_path_that_stands_still_is_refused():
    with pytest.raises(ValueError, match="no two unrelated views"):
        revisit.select_pairs(_poses(np.zeros(60), 0.0))


@pytest.mark.parametrize("name", ["psnr", "ssim", "lpips"])
def test_memory_is_told_from_forgetting_and_from_standing_still(name):
    x = _there_and_back()
    chosen = revisit.select_pairs(_poses(x, 0.0))
    some = slice(None, None, 20 if name == "lpips" else 5)
    pairs = revisit.RevisitPairs(chosen.revisit[some], chosen.baseline[some], chosen.short[some])
    metric = getattr(metrics, name)

    def score(frames):
        return revisit.score(frames, pairs, metric, higher_is_closer=name != "lpips")

    remembers, forgets, still = score(_video(x)), score(_forgetful(x)), score(_video(np.zeros(len(x))))
    assert remembers["gain"] > 0 and remembers["gain"] > 3 * abs(forgets["gain"])
    assert still["gain"] == 0 and still["range"] == 0
    ratio = _normalised({"line": [remembers]})
    assert ratio == pytest.approx(remembers["gain"] / remembers["range"], rel=1e-6)
    assert _normalised({"line": [forgets]}) < 0.3 * ratio
    # A still video is left out; so is a kind of path with nothing but still videos.
    assert _normalised({"line": [remembers, still], "orbit": [still]}) == ratio
    assert _normalised({"line": [still]}) is None, "nothing changes: nothing to score"


def _normalised(by_kind):
    """The report's NMR of videos by kind of path."""
    about = {"motion": "none", "protocol": "revisit", "method": "latent", "seed": 0}
    rows = [
        {**about, "clip": f"{kind}/{i}", "kind": kind, "psnr_gain": one["gain"], "psnr_range": one["range"]}
        for kind, scores in by_kind.items()
        for i, one in enumerate(scores)
    ]
    entry = summary.summarise(rows)["revisit"]["latent"].get("nmr_psnr")
    return None if entry is None else entry["mean"]


def test_normalised_memory_averages_within_a_kind_first():
    kinds = {"line": [{"gain": 1, "range": 2}, {"gain": 3, "range": 6}], "orbit": [{"gain": 9, "range": 10}]}
    assert _normalised(kinds) == pytest.approx((4 / 8 + 9 / 10) / 2)


def test_a_distance_counts_the_other_way():
    frames = np.array([0.0, 0.2, 0.6, 0.1])
    pairs = revisit.RevisitPairs(*(np.array([[0, later]]) for later in (1, 2, 3)))
    found = revisit.score(frames, pairs, np.subtract, higher_is_closer=False)
    assert found["gain"] == pytest.approx(0.4) and found["range"] == pytest.approx(0.5)
    other = revisit.score(frames, pairs, np.subtract, higher_is_closer=True)
    assert other["gain"] == pytest.approx(-0.4) and other["range"] == pytest.approx(-0.5)


def test_closed_loop_compares_every_frame_with_its_return():
    x = _there_and_back(41)
    pairs = revisit.closed_loop_pairs(_poses(x, 10 * x))
    assert pairs.shape == (20, 2) and pairs[0].tolist() == [0, 40] and pairs[-1].tolist() == [19, 21]
    np.testing.assert_allclose(revisit.compare_pairs(_video(x), pairs, metrics.lpips), 0, atol=1e-9)
    forgotten = revisit.compare_pairs(_forgetful(x), pairs, metrics.psnr)
    assert forgotten.shape == (20,) and forgotten.max() < 20


def test_closed_loop_of_an_open_path_is_refused():
    x = _there_and_back(41)
    x[30] += 0.5
    with pytest.raises(ValueError, match=r"frames 10 and 30 are 0\.5 m and 0 degrees apart"):
        revisit.closed_loop_pairs(_poses(x, 0.0))
    yaw = np.zeros(41)
    yaw[-1] = 3
    with pytest.raises(ValueError, match="frames 0 and 40 are 0 m and 3 degrees apart"):
        revisit.closed_loop_pairs(_poses(_there_and_back(41), yaw))

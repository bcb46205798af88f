"""Protocols on videos whose scores are known: the truth, its frames shuffled, a still picture."""

import dataclasses

import numpy as np
import pytest

from experiments.evaluation import summary, video
from mirage_jax.evaluation import metrics, scores
from tests import analytic


def there_and_back(seed=1, moving=False):
    """A walk out and the same way back; what moves goes back to where it was."""
    out = analytic.scene(seed, frames=13, height=48, width=48, moving=moving)
    index = np.concatenate([np.arange(13), np.arange(12)[::-1]])
    arrays = ("frames", "depth", "intrinsics", "cam2world", "dynamic")
    return dataclasses.replace(out, **{name: getattr(out, name)[index] for name in arrays}, source="room/1/loop")


@pytest.fixture(scope="module")
def clip():
    return there_and_back(moving=True)


@pytest.fixture(scope="module")
def truth(clip):
    return video.score(clip.frames, clip)


def test_truth_scored_as_a_video_is_perfect(truth):
    assert set(truth) == set(video.PROTOCOLS)
    best = metrics.PSNR_OF_EQUAL_FRAMES
    for protocol, suffix in (("reconstruction", ""), ("closed_loop", "_c"), ("closed_loop", "_there_and_back")):
        values = truth[protocol].values
        assert values[f"psnr{suffix}"] == pytest.approx(best)
        assert values[f"ssim{suffix}"] == pytest.approx(1, abs=1e-5)
        assert values[f"lpips{suffix}"] == pytest.approx(0, abs=1e-5)
    assert np.isnan(truth["reconstruction"].curves["psnr"][0]), "the first frame was given"
    assert truth["revisit"].values["psnr_gain"] > 10, "revisited views may be a step apart, so not equal"
    camera = truth["camera_control"].values
    assert camera["found"] == 1 and camera["worldscore"] > 0.99 and camera["rotation"] < 0.01
    assert truth["objects"].values


def test_shuffled_frames_are_worse_on_every_metric(clip, truth):
    order = np.random.default_rng(3).permutation(len(clip))
    shuffled = video.score(clip.frames[order], clip)
    compared = 0
    for protocol in ("reconstruction", "closed_loop", "revisit", "camera_control"):
        for name, value in truth[protocol].values.items():
            if name.endswith(("_baseline", "_short", "_range")):
                continue  # of which no value is good or bad by itself
            found = shuffled[protocol].values.get(name)
            if found is None:
                assert protocol == "camera_control", "no frame was found, so there is no median"
            elif summary.is_error(name):
                assert found > value, (protocol, name)
            else:
                assert found < value, (protocol, name)
            compared += 1
    assert compared > 15
    assert shuffled["objects"].values["background_psnr"] < truth["objects"].values["background_psnr"]


def test_a_still_video_gains_nothing(clip):
    still = video.score(np.repeat(clip.frames[:1], len(clip), axis=0), clip)
    for name in ("psnr", "ssim", "lpips"):
        assert still["revisit"].values[f"{name}_gain"] == pytest.approx(0, abs=1e-5)
    assert still["closed_loop"].values["psnr_c"] == pytest.approx(metrics.PSNR_OF_EQUAL_FRAMES), "and this is why"
    rows = [
        {"clip": str(i), "kind": "loop", "motion": "none", "protocol": "revisit", "method": "latent", "seed": 0}
        | still["revisit"].values
        for i in range(3)
    ]
    assert "nmr_psnr" not in summary.summarise(rows)["revisit"]["latent"], "nothing changes: nothing to score"


def test_a_return_is_the_view_of_the_start_after_leaving_it(clip):
    assert video.return_to_start(clip.cam2world) == len(clip) - 1
    assert video.return_to_start(clip.cam2world[:13]) is None, "gone and not come back"
    assert video.return_to_start(np.repeat(clip.cam2world[:1], 9, axis=0)) is None, "never left"
    assert video.closed_loop(clip.frames[:13], clip.cam2world[:13]) is None
    assert video.revisit_memory(clip.frames[:13], clip.cam2world[:13]) is None


def test_a_return_that_looks_different_scores_less(clip, truth):
    forgot = clip.frames.copy()
    forgot[-1] = 255 - forgot[-1]
    scores = video.closed_loop(forgot, clip.cam2world)
    assert scores.values["psnr_c"] < 20
    assert np.argmin(scores.curves["psnr"]) == 0 and scores.curves["psnr"][1] > 100


def test_a_camera_that_lags_behind_is_seen(clip, truth):
    late = clip.frames[np.maximum(np.arange(len(clip)) - 1, 0)]
    values = video.score(late, clip)["camera_control"].values
    assert values["relative_translation"] > 10 * max(truth["camera_control"].values["relative_translation"], 1e-4)
    assert values["worldscore"] < truth["camera_control"].values["worldscore"]


def test_another_length_is_refused(clip):
    with pytest.raises(ValueError, match="video is uint8"):
        video.score(clip.frames[:-1], clip)


def test_nested_scores_become_flat_and_lose_what_is_missing():
    nested = {"a": {"b": {"c": 1, "d": None}}, "e": np.float32(2), "f": float("nan")}
    assert scores.flat(nested) == {"a_b_c": 1.0, "e": 2.0}


def test_the_kind_of_path_is_in_the_name(clip):
    assert video.path_kind(clip) == "loop"
    assert video.path_kind(dataclasses.replace(clip, source="doom/MAP21/seed1/turn/monsters")) == "turn"

"""PSNR and SSIM against scikit-image, and what any metric of frames must do."""

import numpy as np
import pytest
from lpips_cases import cases
from skimage import metrics as skimage_metrics

from mirage_jax.evaluation import metrics
from mirage_jax.models import lpips


def _pairs():
    return [pair for pair in cases().values() if not np.array_equal(*pair)]


def test_psnr_and_ssim_equal_scikit_image():
    for a, b in _pairs():
        expected_psnr = skimage_metrics.peak_signal_noise_ratio(a, b, data_range=255)
        expected_ssim = skimage_metrics.structural_similarity(a, b, win_size=7, data_range=255, channel_axis=-1)
        np.testing.assert_allclose(metrics.psnr(a[None], b[None]), [expected_psnr], rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(metrics.ssim(a[None], b[None]), [expected_ssim], rtol=0, atol=1e-5)


def test_ssim_of_a_bright_flat_frame_keeps_its_precision():
    """Where the window mean is large and the variance tiny, E[x^2] - E[x]^2 in float32 is at its worst."""
    random = np.random.RandomState(1)
    a = (250 + random.randint(0, 2, (32, 32, 3))).astype(np.uint8)
    b = (250 + random.randint(0, 2, (32, 32, 3))).astype(np.uint8)
    expected = skimage_metrics.structural_similarity(a, b, win_size=7, data_range=255, channel_axis=-1)
    np.testing.assert_allclose(metrics.ssim(a[None], b[None]), [expected], rtol=0, atol=1e-5)


def test_equal_frames():
    frames = np.stack([cases()["noise"][0]] * 2)
    scores = metrics.all_metrics(frames, frames)
    np.testing.assert_allclose(scores["psnr"], metrics.PSNR_OF_EQUAL_FRAMES, rtol=1e-6)
    np.testing.assert_allclose(scores["ssim"], 1, rtol=1e-6)
    np.testing.assert_allclose(scores["lpips"], 0, atol=1e-9)


def test_one_value_a_frame_whatever_its_neighbours_and_type():
    a, b = cases()["noise"]
    c = cases()["blurred"][1]
    together = metrics.all_metrics(np.stack([a, a, b]), np.stack([b, c, c]))
    alone = metrics.all_metrics(a[None].astype(np.float32), c[None].astype(np.float32))
    for name in ("psnr", "ssim", "lpips"):
        assert together[name].shape == (3,) and together[name].dtype == np.float32
        np.testing.assert_allclose(together[name][1:2], alone[name], rtol=2e-5)
        assert len(set(together[name].tolist())) == 3


def test_lpips_remembers_frames_without_mixing_them_up(monkeypatch):
    monkeypatch.setattr(metrics, "_seen", metrics._Seen(most_bytes=10**6))
    random = np.random.default_rng(0)
    frames = random.integers(0, 256, (20, 64, 64, 3), np.uint8)
    calls = []
    network = lpips.features
    monkeypatch.setattr(lpips, "features", lambda weights, batch: calls.append(len(batch)) or network(weights, batch))
    order = random.integers(0, 20, (2, 50))
    direct = lpips.distance(lpips.load_parameters(), *(frames[half].astype(np.float32) for half in order))
    np.testing.assert_allclose(metrics.lpips(frames[order[0]], frames[order[1]]), direct, rtol=1e-5, atol=1e-7)
    assert 0 < metrics._seen._bytes <= 10**6
    assert metrics._seen._bytes == sum(layer.nbytes for kept in metrics._seen._found.values() for layer in kept)
    before = len(calls)
    last = frames[order[:, -3:]]
    metrics.lpips(*last)
    metrics.lpips(*last.astype(np.float32))  # other bytes, the same picture
    assert len(calls) == before + 1
    assert frames.dtype == np.uint8 and metrics.lpips(frames[:1], frames[:1])[0] == 0


def test_a_shuffled_video_is_worse_on_every_metric():
    moving = np.stack([np.roll(cases()["noise"][0], 9 * i, axis=1) for i in range(6)])
    generated = np.clip(moving + np.random.RandomState(2).randint(-9, 10, moving.shape), 0, 255).astype(np.uint8)
    shuffled = generated[[3, 0, 5, 1, 2, 4]]
    right, wrong = metrics.all_metrics(generated, moving), metrics.all_metrics(shuffled, moving)
    assert (wrong["psnr"] < right["psnr"]).all()
    assert (wrong["ssim"] < right["ssim"]).all()
    assert (wrong["lpips"] > right["lpips"]).all()


def test_wrong_shapes_are_refused():
    small = np.zeros((1, 6, 9, 3), np.uint8)
    with pytest.raises(ValueError, match="at least 7x7, got 6x9"):
        metrics.ssim(small, small)
    with pytest.raises(AssertionError):
        metrics.psnr(small, small[:, :5])
    with pytest.raises(AssertionError):
        metrics.lpips(small[0], small[0])


def test_sharpness_is_the_share_of_the_truths_gradient_energy():
    truth = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)
    assert metrics.sharpness(truth, truth) == 1.0
    assert metrics.sharpness(np.full_like(truth, 90), truth) == 0.0
    half = (truth.astype(np.float32) / 2).round().astype(np.uint8)
    np.testing.assert_allclose(metrics.sharpness(half, truth), 0.25, rtol=0.01)
    cells = np.zeros((3, 4, 4), bool)
    assert metrics.sharpness(truth, truth, cells) is None
    cells[1, 0, 0] = True
    blurred = truth.copy()
    blurred[1, :5, :5] = 7
    assert metrics.sharpness(blurred, truth, cells) == 0.0 and metrics.sharpness(blurred, truth, ~cells) > 0.9

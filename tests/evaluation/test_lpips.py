"""LPIPS against the public PyTorch implementation (values made by make_lpips_expected.py), and its weights."""

import json
import pathlib

import numpy as np
import pytest
from lpips_cases import cases

from mirage_jax.errors import UserError
from mirage_jax.models import lpips

_EXPECTED = json.loads((pathlib.Path(__file__).parent / "lpips_expected.json").read_text())


@pytest.mark.parametrize("name", list(cases()))
def test_equals_the_public_implementation(name):
    a, b = (frame[None].astype(np.float32) for frame in cases()[name])
    distance = lpips.distance(lpips.load_parameters(), a, b)
    np.testing.assert_allclose(distance, [_EXPECTED[name]], rtol=5e-4, atol=1e-5)
    np.testing.assert_allclose(distance, [_EXPECTED[name]], rtol=0, atol=1e-4)


def test_symmetric_and_independent_of_the_batch():
    pairs = [pair for pair in cases().values() if pair[0].shape == (128, 128, 3)]
    a, b = (np.stack(frames).astype(np.float32) for frames in zip(*(pairs * 4), strict=True))  # 12: not a multiple of 8
    distance = lpips.distance(lpips.load_parameters(), a, b)
    assert distance.shape == (12,)
    np.testing.assert_allclose(distance, np.tile(distance[:3], 4), rtol=1e-5)
    np.testing.assert_allclose(lpips.distance(lpips.load_parameters(), b, a), distance, rtol=1e-5)


def test_too_small_frames_are_refused():
    small = np.zeros((1, 30, 64, 3), np.float32)
    with pytest.raises(ValueError, match="at least 31x31, got 30x64"):
        lpips.distance(lpips.load_parameters(), small, small)


def test_damaged_or_missing_weights(monkeypatch, tmp_path):
    content = bytearray(lpips.ASSET.read_bytes())
    content[-1] ^= 1
    monkeypatch.setattr(lpips, "ASSET", tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match="cannot read the weights"):
        lpips.load_parameters.__wrapped__()
    lpips.ASSET.write_bytes(content)
    with pytest.raises(UserError, match="damaged weights"):
        lpips.load_parameters.__wrapped__()

"""LPIPS against the public PyTorch implementation (values made by make_lpips_expected.py), and its weights."""

import hashlib
import io
import json
import pathlib
import pickle
import tarfile

import numpy as np
import pytest
from lpips_cases import cases

from mirage_jax.errors import UserError
from mirage_jax.evaluation import lpips_archive
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


def _archive(path, content, name=lpips_archive.MEMBER):
    with tarfile.open(path, "w:gz") as files:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        files.addfile(member, io.BytesIO(content))
    return str(path)


def test_conversion_reads_the_public_layout(monkeypatch, tmp_path):
    random = np.random.RandomState(0)
    arrays = {"AlexNet_0": {}}
    for index in range(5):
        kernel, bias, head = random.rand(3, 3, 2, 4), random.rand(4).astype("f4"), random.rand(1, 1, 4, 1).astype("f4")
        arrays["AlexNet_0"][f"Conv_{index}"] = {"kernel": kernel.astype("f4"), "bias": bias}
        arrays[f"NetLinLayer_{index}"] = {"Conv_0": {"kernel": head}}
    # Written by an older numpy, whose names for the same functions the public file has.
    content = pickle.dumps(arrays, protocol=3).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    monkeypatch.setattr(lpips_archive, "SHA256", hashlib.sha256(content).hexdigest())
    tensors = lpips_archive.convert(lpips_archive.read_arrays(_archive(tmp_path / "a.tar.gz", content)))
    assert sorted(tensors) == sorted(lpips.load_parameters())
    np.testing.assert_array_equal(tensors["conv3.kernel"], arrays["AlexNet_0"]["Conv_2"]["kernel"].astype(np.float16))
    np.testing.assert_array_equal(tensors["conv3.head"], arrays["NetLinLayer_2"]["Conv_0"]["kernel"][0, 0, :, 0])


def test_conversion_refuses_what_it_does_not_know(monkeypatch, tmp_path):
    class Harmful:
        def __reduce__(self):
            return (pathlib.Path.touch, (tmp_path / "harm",))

    content = pickle.dumps(Harmful())
    with pytest.raises(UserError, match="expected 443c5bc3"):
        lpips_archive.read_arrays(_archive(tmp_path / "a.tar.gz", content))
    with pytest.raises(UserError, match="expected the archive"):
        lpips_archive.read_arrays(_archive(tmp_path / "b.tar.gz", content, name="other"))
    (tmp_path / "c.tar.gz").write_bytes(b"no archive")
    with pytest.raises(UserError, match="expected the archive"):
        lpips_archive.read_arrays(str(tmp_path / "c.tar.gz"))
    monkeypatch.setattr(lpips_archive, "SHA256", hashlib.sha256(content).hexdigest())
    with pytest.raises(UserError, match="refused to load"):
        lpips_archive.read_arrays(_archive(tmp_path / "a.tar.gz", content))
    assert not (tmp_path / "harm").exists()

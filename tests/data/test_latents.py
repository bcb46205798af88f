"""Coded clips: written and read back bit for bit, in an order that the seed decides."""

import numpy as np
import pytest

from mirage_jax.data import latents
from mirage_jax.errors import UserError


def _sample(seed):
    rng = np.random.default_rng(seed)
    return {
        "latents": rng.normal(size=(3, 2, 2, 4)).astype(np.float16),
        "depth": np.array([np.inf, 0.0, 1.5, 2.0] * 3, np.float16).reshape(3, 2, 2),
        "dynamic": rng.integers(0, 2, (3, 2, 2), np.uint8),
        "intrinsics": rng.normal(size=(3, 3, 3)).astype(np.float32),
        "cam2world": rng.normal(size=(3, 4, 4)).astype(np.float32),
        "source": f"clip {seed}",
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("coded")
    latents.write(path, "train", (3, 2, 2, 4), (_sample(i) for i in range(5)))
    return path


def test_samples_come_back_as_they_were(folder):
    source = latents.load_source(folder, "train")
    found = {source[i]["source"].decode(): source[i] for i in range(5)}
    for seed in range(5):
        sample = _sample(seed)
        for name, value in sample.items():
            if name != "source":
                np.testing.assert_array_equal(found[sample["source"]][name], value)


def test_order_follows_the_seed(folder):
    source = latents.load_source(folder, "train")

    def first(seed):
        batches = iter(latents.clips(source, batch_size=2, seed=seed))
        return np.concatenate([next(batches)["latents"] for _ in range(4)])

    np.testing.assert_array_equal(first(0), first(0))
    assert (first(0) != first(1)).any()


def test_bad_requests_are_refused(folder, tmp_path):
    with pytest.raises(UserError, match="no coded split 'test'"):
        latents.load_source(folder, "test")
    with pytest.raises(UserError, match="exists already"):
        latents.write(folder, "train", (3, 2, 2, 4), iter([]))
    with pytest.raises(UserError, match="5 coded clips are too few for a batch of 6"):
        latents.clips(latents.load_source(folder, "train"), batch_size=6, seed=0)

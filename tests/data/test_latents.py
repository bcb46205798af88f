"""Coded clips: written and read back bit for bit, in an order that the seed decides."""

import shutil

import numpy as np
import pytest

from experiments.worlds import coded
from mirage_jax.data import latents, text_embeddings
from mirage_jax.errors import UserError


def _sample(seed):
    rng = np.random.default_rng(seed)
    return {
        "latents": rng.normal(size=(3, 2, 2, 4)).astype(np.float16),
        "depth": np.array([np.inf, 0.0, 1.5, 2.0] * 3, np.float16).reshape(3, 2, 2),
        "dynamic": rng.integers(0, 2, (3, 2, 2), np.uint8),
        "intrinsics": rng.normal(size=(9, 3, 3)).astype(np.float32),
        "cam2world": rng.normal(size=(9, 4, 4)).astype(np.float32),
        "caption": "a cave" if seed % 2 else "",
        "source": f"clip {seed}",
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("coded")
    coded.write(path, "train", (3, 2, 2, 4), (_sample(i) for i in range(5)))
    return path


def test_samples_come_back_as_they_were(folder):
    source = latents.load_source(folder, "train")
    found = {source[i]["source"].decode(): source[i] for i in range(5)}
    for seed in range(5):
        sample = _sample(seed)
        for name, value in sample.items():
            if name not in ("source", "caption"):
                np.testing.assert_array_equal(found[sample["source"]][name], value)


def _ordered(source, **options):
    batches = iter(latents.clips(source, batch_size=2, seed=0, **options))
    return [next(batches) for _ in range(5)]


def test_shards_are_read_together_and_none_may_be_missing(tmp_path):
    for shard in (1, 0, 2):
        coded.write(tmp_path, "train", (3, 2, 2, 4), (_sample(i) for i in range(shard, 5, 3)), shard, 3)
        if shard == 1:
            with pytest.raises(UserError, match="2 of 3 shards are missing, the first is 0"):
                latents.load_source(tmp_path, "train")
    source = latents.load_source(tmp_path, "train")
    assert {source[i]["source"].decode() for i in range(5)} == {f"clip {i}" for i in range(5)}
    with pytest.raises(UserError, match="belongs to another number of shards than 2"):
        coded.write(tmp_path, "train", (3, 2, 2, 4), iter([]), 0, 2)


def test_shard_that_cannot_be_opened_is_named(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    next((tmp_path / "copy").rglob("dataset_info.json")).write_text("{")
    with pytest.raises(UserError, match="copy/train: a shard cannot be opened"):
        latents.load_source(tmp_path / "copy", "train")


@pytest.fixture
def texts(tmp_path):
    values = np.zeros((2, 4, 3), np.float32)
    values[0, 0], values[1, :2] = 1.0, 2.0
    text_embeddings.save(tmp_path / "texts.safetensors", "tiny", ["", "a cave"], values)
    return text_embeddings.TextEmbeddings(tmp_path / "texts.safetensors")


def test_captions_become_embeddings_and_are_dropped_alike_for_any_number_of_shares(folder, texts):
    source = latents.load_source(folder, "train")
    whole = _ordered(source, texts=texts, text_dropout=0.5)
    assert whole[0]["text"].shape == (2, 4, 3)
    kinds = np.concatenate([batch["text"][:, 0, 0] for batch in whole])
    captioned = np.concatenate([batch["text"][:, 0, 0] for batch in _ordered(source, texts=texts)])
    assert set(captioned) == {1.0, 2.0} and (kinds <= captioned).all() and (kinds < captioned).any()
    shares = [_ordered(source, texts=texts, text_dropout=0.5, parts=(i,), count=2) for i in (0, 1)]
    for batch, a, b in zip(whole, *shares, strict=True):
        for name, value in batch.items():
            np.testing.assert_array_equal(value, np.concatenate([a[name], b[name]]))


def test_caption_without_embedding_is_named(folder, tmp_path):
    text_embeddings.save(tmp_path / "few.safetensors", "tiny", [""], np.ones((1, 4, 3), np.float32))
    few = text_embeddings.TextEmbeddings(tmp_path / "few.safetensors")
    with pytest.raises(UserError, match=r"few.safetensors: holds no embedding of the prompt 'a cave'"):
        _ordered(latents.load_source(folder, "train"), texts=few)


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
        coded.write(folder, "train", (3, 2, 2, 4), iter([]))
    with pytest.raises(UserError, match="5 coded clips are too few for a batch of 6"):
        latents.clips(latents.load_source(folder, "train"), batch_size=6, seed=0)


def test_pixels_come_along_where_they_were_coded_and_only_where_they_are_asked_for(tmp_path):
    rng = np.random.default_rng(3)
    further = {
        "frames": rng.integers(0, 256, (3, 16, 16, 3), np.uint8),
        "pixel_depth": rng.uniform(1, 9, (3, 16, 16)).astype(np.float16),
        "pixel_dynamic": rng.integers(0, 2, (3, 16, 16), np.uint8),
    }
    coded.write(tmp_path, "train", (3, 2, 2, 4), (_sample(i) | further for i in range(2)), pixels=(16, 16))
    source = latents.load_source(tmp_path, "train")
    for name, value in further.items():
        np.testing.assert_array_equal(source[1][name], value)
    assert set(further) <= set(next(iter(latents.clips(source, batch_size=2, seed=0))))
    cells = next(iter(latents.clips(source, batch_size=2, seed=0, fields=latents.CELLS)))
    assert set(cells) == set(latents.CELLS) - {"text"}

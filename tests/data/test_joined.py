import pickle

import pytest

from mirage_jax.data import joined, pipeline
from mirage_jax.errors import UserError


def test_samples_follow_each_other_source_by_source():
    source = joined.Joined([["a", "b"], ["c"], ["d", "e", "f"]])
    assert len(source) == 6 and source.starts == [0, 2, 3]
    assert [source[i] for i in range(6)] == list("abcdef")
    assert [source.locate(i) for i in (0, 1, 2, 5)] == [(0, 0), (0, 1), (1, 0), (2, 2)]
    for index in (-1, 6):
        with pytest.raises(IndexError, match=f"sample {index} of 6"):
            source[index]
    assert [pickle.loads(pickle.dumps(source))[i] for i in range(6)] == list("abcdef")


def test_folders_are_divided_by_commas_and_may_come_twice():
    assert joined.folders("data/a, data/b,data/a", "--data") == ["data/a", "data/b", "data/a"]
    for text in ("", "data/a,", "data/a,,data/b"):
        with pytest.raises(UserError, match=f"--data={text}: expected a folder"):
            joined.folders(text, "--data")


def test_windows_come_from_clips_of_every_length_that_have_as_many_frames():
    long, short = ([{"frames": [[i]] * n, "source": f"{i}"} for i in range(2)] for n in (13, 5))
    batches = pipeline.clips(joined.Joined([long, short]), batch_size=4, frames=5, seed=0)
    assert next(batches)["frames"].shape == (4, 5, 1)
    with pytest.raises(UserError, match="frames is 9, but clips have 5 frames"):
        pipeline.clips(joined.Joined([long, short]), batch_size=4, frames=9, seed=0)

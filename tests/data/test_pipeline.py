import grain
import numpy as np
import orbax.checkpoint as ocp
import pytest

from mirage_jax.data import pipeline, tolerance
from mirage_jax.errors import UserError
from mirage_jax.training import position

LENGTH = 13


class Counting:
    """Clips whose pixels say which clip and frame they are."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        frames = 100 * index + np.arange(LENGTH, dtype=np.int32)
        return {"frames": frames[:, None], "pose": frames[:, None, None] * np.ones((1, 2)), "source": f"clip{index}"}

    def __repr__(self):
        return f"Counting({self.count})"


def take(number, source=None, **changes):
    options = {"batch_size": 2, "frames": 5, "seed": 0} | changes
    batches = pipeline.clips(source or Counting(6), **options)
    return [next(batches) for _ in range(number)]


def numbers(batches):
    return np.concatenate([b["frames"][:, 0, 0] // 100 for b in batches])


def same(a, b):
    return all((x[name] == y[name]).all() for x, y in zip(a, b, strict=True) for name in x)


def test_windows_are_consecutive_frames_of_one_clip():
    starts = set()
    for batch in take(20):
        assert batch["frames"].shape == (2, 5, 1) and batch["pose"].shape == (2, 5, 1, 2)
        for frames, pose, name in zip(batch["frames"], batch["pose"], batch["source"], strict=True):
            np.testing.assert_array_equal(np.diff(frames[:, 0]), 1)
            assert len({int(f) // 100 for f in frames[:, 0]}) == 1 and name == f"clip{frames[0, 0] // 100}"
            np.testing.assert_array_equal(pose[:, 0, 0], frames[:, 0])
            starts.add(int(frames[0, 0]) % 100)
    assert starts == set(range(LENGTH - 5 + 1))


def test_every_epoch_reads_every_clip_in_another_order():
    first, second = numbers(take(6)).reshape(2, 6)
    assert sorted(first) == sorted(second) == list(range(6))
    assert list(first) != list(second)


def test_parts_make_the_batch_of_one_process():
    whole = take(5, batch_size=4, windows_per_clip=2)
    parts = [take(5, batch_size=4, windows_per_clip=2, parts=(i,), count=2) for i in (0, 1)]
    joined = [{k: np.concatenate([a[k], b[k]]) for k in a} for a, b in zip(*parts, strict=True)]
    assert same(whole, joined)


def test_parts_of_one_process_need_not_be_neighbours():
    whole = take(5, batch_size=8)
    outer, inner = (take(5, batch_size=8, parts=parts, count=4) for parts in ((0, 3), (1, 2)))
    for batch, a, b in zip(whole, outer, inner, strict=True):
        for name, value in batch.items():
            np.testing.assert_array_equal(value, np.concatenate([a[name][:2], b[name], a[name][2:]]))


class Broken(Counting):
    """Some of the clips cannot be read."""

    def __init__(self, count, bad):
        super().__init__(count)
        self.bad = bad

    def __getitem__(self, index):
        if index in self.bad:
            raise OSError(f"clip {index} is damaged")
        return super().__getitem__(index)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_clip_that_cannot_be_read_is_replaced_named_and_counted(workers):
    skipped = tolerance.Skipped(limit=2)
    found = take(6, Broken(6, {2, 3}), skipped=skipped, workers=workers)
    expected = [x if x not in (2, 3) else 4 for x in numbers(take(6))]
    assert list(numbers(found)) == expected
    assert same(found, take(6, Broken(6, {2, 3}), skipped=tolerance.Skipped(limit=2)))  # workers change nothing
    assert set(found[0]) == {"frames", "pose", "source"}
    assert skipped.counters() == {"skipped_samples": 2.0}
    assert sorted(skipped.reasons) == [
        "sample 2 (OSError: clip 2 is damaged)",
        "sample 3 (OSError: clip 3 is damaged)",
    ]


def test_more_bad_clips_than_the_limit_end_the_run():
    with pytest.raises(UserError, match=r"2 bad samples, more than --config.bad_samples=1: sample \d .*is damaged"):
        take(6, Broken(6, {2, 4}), skipped=tolerance.Skipped(limit=1))
    with pytest.raises(UserError, match="6 samples in a row cannot be read"):
        take(1, Broken(6, set(range(6))), skipped=tolerance.Skipped(limit=100))
    with pytest.raises(OSError, match="clip 2 is damaged"):
        take(6, Broken(6, {2}))


@pytest.mark.parametrize("workers", [0, 1])
def test_position_is_found_from_the_step_also_with_skipping(workers):
    def fresh(workers):
        skipped = tolerance.Skipped(limit=5)
        options = {"batch_size": 2, "frames": 5, "seed": 3, "skipped": skipped, "workers": workers}
        return pipeline.clips(Broken(6, {2}), **options)

    batches = fresh(0)
    for _ in range(4):
        next(batches)
    moved = fresh(workers)
    position.seek(moved, 4)
    assert same([next(moved) for _ in range(3)], [next(batches) for _ in range(3)])


def test_windows_of_one_clip_follow_each_other():
    for batch in take(6, batch_size=4, windows_per_clip=2):
        names = batch["source"].reshape(2, 2)
        assert (names[:, 0] == names[:, 1]).all() and names[0, 0] != names[1, 0]
    assert len({int(b["frames"][i, 0, 0]) for b in take(6, batch_size=2, windows_per_clip=2) for i in (0, 1)}) > 6


def test_the_seed_decides():
    assert same(take(5), take(5)) and not same(take(5), take(5, seed=1))


def test_fields():
    assert set(take(1, fields=("frames",))[0]) == {"frames"}


def test_position_is_saved_and_restored(tmp_path):
    batches = pipeline.clips(Counting(6), batch_size=2, frames=5, seed=3)
    for _ in range(4):
        next(batches)
    manager = ocp.CheckpointManager(tmp_path.absolute())
    manager.save(4, args=ocp.args.Composite(data=grain.checkpoint.CheckpointSave(batches)))
    manager.wait_until_finished()
    expected = [next(batches) for _ in range(5)]
    fresh = pipeline.clips(Counting(6), batch_size=2, frames=5, seed=3)
    manager.restore(4, args=ocp.args.Composite(data=grain.checkpoint.CheckpointRestore(fresh)))
    assert same([next(fresh) for _ in range(5)], expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 6}, "frames is 6, expected 4k"),
        ({"frames": 17}, "clips have 13 frames"),
        ({"windows_per_clip": 3}, "multiple of windows_per_clip"),
        ({"parts": (2,), "count": 2}, r"no parts \[2\] of 2"),
        ({"parts": (0,), "count": 4}, "multiple of windows_per_clip"),
    ],
)
def test_bad_requests(options, message):
    with pytest.raises(UserError, match=message):
        take(1, **options)

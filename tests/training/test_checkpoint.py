"""Checkpoints: a wrong byte is refused, kept by policy, errors are clear, and the data position comes with them."""

import errno
import json

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax.errors import UserError
from mirage_jax.training import checkpoint, manifest, position


def _state(step):
    return {"step": jnp.asarray(step), "w": jnp.arange(300.0) * step, "deep": {"b": jnp.full((4, 5), step + 0.5)}}


def _batches(workers=0):
    data = grain.MapDataset.range(40).seed(3).shuffle().repeat().batch(2).to_iter_dataset()
    return iter(data.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers)) if workers else data)


def _saved(folder, *steps, **options):
    """A manager's folder with checkpoints of these steps, and an iterator that has given as many batches."""
    manager, batches = checkpoint.Manager(folder, **({"keep": 9} | options)), _batches()
    for step in range(1, steps[-1] + 1):
        next(batches)
        if step in steps:
            manager.save(step, _state(step), batches)
    manager.wait()
    return manager


def _restored(folder, batches=None, **options):
    manager = checkpoint.Manager(folder, **({"keep": 9} | options))
    batches = batches or _batches()
    return manager.restore(_state(0), batches), batches


def test_restores_state_and_position_bit_for_bit(tmp_path):
    _saved(tmp_path, 2, 5)
    state, batches = _restored(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, state, _state(5))
    straight = _batches()
    expected = [next(straight) for _ in range(8)][5:]
    np.testing.assert_array_equal([next(batches) for _ in range(3)], expected)


def test_a_flipped_byte_anywhere_is_refused_by_name_and_the_one_before_is_used(tmp_path, capsys):
    _saved(tmp_path / "whole", 2, 5)
    files = sorted(file for file in (tmp_path / "whole" / "5").rglob("*") if file.is_file() and file.stat().st_size)
    assert len(files) > 8
    for number, file in enumerate(files):
        if file.name == "commit_success.txt":
            continue  # a note for people; nothing reads it
        folder = tmp_path / str(number)
        _copy(tmp_path / "whole", folder)
        broken = folder / file.relative_to(tmp_path / "whole")
        content = bytearray(broken.read_bytes())
        content[0 if broken.suffix == "" and broken.name.isupper() else len(content) // 2] ^= 0x10
        broken.write_bytes(content)
        state, _ = _restored(folder)
        assert int(state["step"]) == 2, file
        said = capsys.readouterr().err
        assert f"{folder / '5'} is refused: " in said
        assert broken.name in said or broken.name == manifest.NAME  # then it may name the file that it now misdescribes
        assert (folder / "refused_5").is_dir() and not (folder / "5").exists()


def test_cut_and_missing_files_are_refused(tmp_path, capsys):
    for damage in ("missing", "cut"):
        folder = tmp_path / damage
        _saved(folder, 2, 5)
        largest = max((p for p in (folder / "5" / "state").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
        if damage == "missing":
            largest.unlink()
        else:
            largest.write_bytes(largest.read_bytes()[:-3])
        assert int(_restored(folder)[0]["step"]) == 2
        assert largest.name in capsys.readouterr().err


def test_a_checkpoint_without_manifest_is_not_whole(tmp_path, capsys):
    _saved(tmp_path, 2, 5)
    (tmp_path / "5" / manifest.NAME).unlink()
    assert int(_restored(tmp_path)[0]["step"]) == 2
    assert "never completed" in capsys.readouterr().err


def test_the_step_of_a_refused_checkpoint_can_be_saved_again(tmp_path):
    _saved(tmp_path, 2, 5)
    (tmp_path / "5" / manifest.NAME).unlink()
    manager, batches = checkpoint.Manager(tmp_path, keep=9), _batches()
    manager.restore(_state(0), batches)
    manager.save(5, _state(5), batches)
    manager.wait()
    assert int(_restored(tmp_path)[0]["step"]) == 5


def test_no_whole_checkpoint_is_an_error_and_none_at_all_is_a_fresh_start(tmp_path):
    assert _restored(tmp_path / "none")[0] is None
    _saved(tmp_path / "bad", 2)
    (tmp_path / "bad" / "2" / manifest.NAME).unlink()
    with pytest.raises(UserError, match=r"none of the checkpoints \[2\] is whole"):
        _restored(tmp_path / "bad")


def test_another_config_is_an_error_and_damages_nothing(tmp_path):
    _saved(tmp_path, 2, 5)
    manager = checkpoint.Manager(tmp_path, keep=9)
    with pytest.raises(UserError, match=r"5: does not fit this config"):
        manager.restore(_state(0) | {"w": jnp.zeros(301)}, _batches())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "5"]


def test_keeps_the_newest_and_every_so_many(tmp_path):
    _saved(tmp_path, *range(1, 11), keep=2, keep_every=4)
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == [4, 8, 9, 10]


def test_a_full_disk_is_one_sentence_and_the_checkpoint_before_stays(tmp_path, monkeypatch):
    manager = _saved(tmp_path, 2)

    def full(folder):
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))

    with monkeypatch.context() as patch:
        patch.setattr(manifest, "write", full)
        manager.save(5, _state(5), _batches())
        with pytest.raises(UserError, match=r"disk is full, checkpoint 5 .* the last whole checkpoint is step 2"):
            manager.wait()
    assert int(_restored(tmp_path)[0]["step"]) == 2


def test_position_from_the_step_where_the_workers_changed(tmp_path, capsys):
    _saved(tmp_path, 2, 7, workers=1)
    straight = _batches()
    expected = [next(straight) for _ in range(11)][7:]
    _, batches = _restored(tmp_path, workers=0)
    np.testing.assert_array_equal([next(batches) for _ in range(4)], expected)
    assert "by 1 processes with 1 data workers each, now there are 1 with 0: data position" in capsys.readouterr().out


def test_position_in_the_turns_of_several_workers():
    """The state that Grain itself reports after three batches of two workers (tests/faults draws them for real)."""
    batches = _batches(workers=2)
    position.seek(batches, 3)
    state = batches.get_state()
    assert state["next_index_in_cycle"] == 1
    assert state["iterators_in_use_states"] == [{"next_index": 2}, {"next_index": 1}]


def test_position_by_drawing_where_the_data_cannot_jump():
    class Plain:
        def __init__(self):
            self.given = 0

        def get_state(self):
            return {"n": self.given}

        def _set_next_index(self, index):
            raise NotImplementedError

        def __next__(self):
            self.given += 1
            return self.given

    batches = Plain()
    position.seek(batches, 3)
    assert next(batches) == 4


def test_manifest_lists_every_file(tmp_path):
    _saved(tmp_path, 2)
    listed = set(json.loads((tmp_path / "2" / manifest.NAME).read_text())["files"])
    there = {p.relative_to(tmp_path / "2").as_posix() for p in (tmp_path / "2").rglob("*") if p.is_file()}
    assert there - listed == {manifest.NAME, "_CHECKPOINT_METADATA", "commit_success.txt"}


def _copy(source, target):
    for file in source.rglob("*"):
        copy = target / file.relative_to(source)
        if file.is_dir():
            copy.mkdir(parents=True, exist_ok=True)
        else:
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())

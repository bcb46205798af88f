import itertools

import pytest

from experiments.worlds.doom import engine, splits
from mirage_jax.errors import UserError


def test_splits_share_no_map_and_no_reserved_one():
    assert all(not set(a) & set(b) for a, b in itertools.combinations(splits.SPLITS.values(), 2))
    used = set().union(*splits.SPLITS.values())
    assert not used & splits.RESERVED and not used & splits.BAD_DEPTH
    assert len(used) == 68 - len(splits.RESERVED) - len(splits.BAD_DEPTH)
    assert {f"MAP{i}" for i in range(27, 33)} | {f"E4M{i}" for i in range(1, 10)} == splits.RESERVED


@pytest.mark.parametrize("name", [*sorted(splits.RESERVED), "E3M8", "MAP99"])
def test_no_engine_for_maps_outside_the_splits(name):
    why = {"E3M8": "left out", "MAP99": "no split"}.get(name, "reserved")
    with pytest.raises(UserError, match=f"{name}.*{why}"):
        engine.Engine(name, monsters=False)


def test_unknown_split():
    with pytest.raises(UserError, match="--split is 'dev'"):
        splits.maps("dev")


def test_freedm_is_for_training_only():
    names = splits.maps("train", "freedm")
    assert len(names) == 26 and not set(names) & set().union(*splits.SPLITS.values(), splits.RESERVED)
    assert not {f"DM{name.removeprefix('MAP')}" for name in splits.RESERVED} & set(names)
    for split in ("validation", "test"):
        with pytest.raises(UserError, match=f"--split is '{split}', expected one of train for freedm"):
            splits.maps(split, "freedm")
    with pytest.raises(UserError, match="--game is 'heretic'"):
        splits.maps("train", "heretic")


def test_a_map_is_looked_up_in_its_own_game(monkeypatch, tmp_path):
    assert [(file.name, name) for file, name in map(engine.iwad, ("MAP01", "E1M2"))] == [
        ("freedoom2.wad", "MAP01"),
        ("freedoom1.wad", "E1M2"),
    ]
    monkeypatch.setattr(engine, "_FREEDM", tmp_path / "freedm.wad")
    with pytest.raises(UserError, match="apt-get install freedm"):
        engine.Engine("DM07", monsters=False)
    (tmp_path / "freedm.wad").touch()
    assert engine.iwad("DM07") == (tmp_path / "freedm.wad", "MAP07")

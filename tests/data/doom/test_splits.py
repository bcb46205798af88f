import itertools

import pytest

from mirage_jax.data.doom import engine, splits
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

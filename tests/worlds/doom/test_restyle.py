"""A real map in other textures: what changes, and that nothing else does."""

import numpy as np
import pytest

from experiments.worlds.doom import engine, wad
from experiments.worlds.doom.variant import Variant
from mirage_jax.errors import UserError

NAME = "MAP08"


@pytest.fixture(scope="module")
def source():
    return wad.Wad(engine.iwad(NAME)[0])


@pytest.fixture(scope="module")
def before(source):
    return source.map_lumps(NAME)


@pytest.fixture(scope="module", params=[0, 1, 2])
def after(source, request):
    return Variant(style=request.param).lumps(source, NAME)


def test_only_textures_and_light_change(before, after):
    assert list(after) == list(before)
    assert {name for name in before if after[name] != before[name]} == {"SIDEDEFS", "SECTORS"}
    for lump, dtype, kept in (
        ("SIDEDEFS", wad.SIDE, ["offset", "sector"]),
        ("SECTORS", wad.SECTOR, ["floor", "ceiling", "special", "tag"]),
    ):
        old, new = np.frombuffer(before[lump], dtype), np.frombuffer(after[lump], dtype)
        for field in kept:
            np.testing.assert_array_equal(new[field], old[field], err_msg=field)


def test_walls_and_floors_are_other_ones_and_the_same_all_over_the_map(source, before, after):
    old, new = (np.frombuffer(lumps["SIDEDEFS"], wad.SIDE) for lumps in (before, after))
    lines = np.frombuffer(before["LINEDEFS"], wad.LINE)
    single = lines["sides"][lines["sides"][:, 1] == wad.NO_SIDE, 0]
    walls = [(old[part], new[part]) for part in ("upper", "lower")] + [(old["middle"][single], new["middle"][single])]
    old, new = (np.frombuffer(lumps["SECTORS"], wad.SECTOR) for lumps in (before, after))
    flats = [(old[part], new[part]) for part in ("floor_flat", "ceiling_flat")]
    for parts, known in ((walls, source.wall_textures()), (flats, source.flats())):
        pairs = {(a.upper(), b) for old, new in parts for a, b in zip(old.tolist(), new.tolist(), strict=True)}
        assert len(pairs) == len({a for a, _ in pairs})  # a function of the name
        assert all((a == b) == (a in (b"-", wad.SKY)) for a, b in pairs if a in (b"-", wad.SKY) or b in (b"-", wad.SKY))
        changed = [b for a, b in pairs if a != b]
        assert len(changed) > len(pairs) / 2 and set(changed) <= set(known)
    drawn = {b for old, new in walls for a, b in zip(old.tolist(), new.tolist(), strict=True) if a.upper() != b}
    assert all(source.opacity(b).all() for b in drawn)  # a hole there would show nothing


def test_what_can_be_seen_through_stays(before, after):
    lines = np.frombuffer(before["LINEDEFS"], wad.LINE)
    double = lines["sides"][lines["sides"][:, 1] != wad.NO_SIDE].ravel()
    old, new = (np.frombuffer(lumps["SIDEDEFS"], wad.SIDE)["middle"][double] for lumps in (before, after))
    assert (old != b"-").any()
    np.testing.assert_array_equal(new, old)
    old, new = (np.frombuffer(lumps["SECTORS"], wad.SECTOR)["ceiling_flat"] == wad.SKY for lumps in (before, after))
    assert old.any()
    np.testing.assert_array_equal(new, old)


def test_light_changes_by_one_amount_and_stays_in_range(source, before):
    old = np.frombuffer(before["SECTORS"], wad.SECTOR)["light"]
    for style in range(4):
        new = np.frombuffer(Variant(style=style).lumps(source, NAME)["SECTORS"], wad.SECTOR)["light"]
        assert (new >= np.minimum(old, 96)).all() and (new <= 255).all()
        free = (new > 96) & (new < 255) & (old >= 96)
        assert len(np.unique((new - old)[free])) <= 1


def test_a_style_is_one_thing_and_another_another(source):
    assert Variant(style=3).lumps(source, NAME) == Variant(style=3).lumps(source, NAME)
    assert Variant(style=3).lumps(source, NAME) != Variant(style=4).lumps(source, NAME)
    with pytest.raises(UserError, match="no map MAP99"):
        Variant(style=3).lumps(source, "MAP99")

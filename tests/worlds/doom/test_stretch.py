"""A real map in other proportions: what is multiplied, what stays, and that both changes of a map go together."""

import numpy as np
import pytest

from experiments.worlds.doom import engine, wad
from experiments.worlds.doom.variant import AS_IT_IS, Variant

NAME = "MAP08"


@pytest.fixture(scope="module")
def source():
    return wad.Wad(engine.iwad(NAME)[0])


def _lengths(source, variant):
    """Every length of the map that is stretched, in three arrays: along x, along y, in height."""
    lumps = variant.lumps(source, NAME)
    vertices = np.frombuffer(lumps["VERTEXES"], "<i2").reshape(-1, 2)
    things, sectors = np.frombuffer(lumps["THINGS"], wad.THING), np.frombuffer(lumps["SECTORS"], wad.SECTOR)
    plan = [np.concatenate([vertices[:, axis], things[name]]) for axis, name in enumerate("xy")]
    return [array.astype(float) for array in (*plan, np.concatenate([sectors["floor"], sectors["ceiling"]]))]


@pytest.mark.parametrize("shape", range(4))
def test_each_axis_is_multiplied_by_one_factor(source, shape):
    factors = []
    for old, new, most in zip(
        _lengths(source, AS_IT_IS), _lengths(source, Variant(shape=shape)), (1.5, 1.5, 1.3), strict=True
    ):
        bounds = np.sort((new[old != 0] + [[-0.5], [0.5]]) / old[old != 0], axis=0)  # rounded to whole units
        least, greatest = bounds[0].max(), bounds[1].min()
        assert 1 / most < least <= greatest < most and not least < 1 < greatest
        assert not new[old == 0].any()
        factors.append(least)
    assert len(set(np.round(factors, 3))) == 3


def test_all_but_shapes_stays_and_what_follows_from_them_is_left_to_the_engine(source):
    old, new = source.map_lumps(NAME), Variant(shape=1).lumps(source, NAME)
    assert list(new) == list(old)
    assert {name for name in old if not new[name]} == {"SEGS", "SSECTORS", "NODES", "REJECT", "BLOCKMAP"}
    assert new["LINEDEFS"] == old["LINEDEFS"] and new["SIDEDEFS"] == old["SIDEDEFS"]
    for lump, dtype, moved in (("THINGS", wad.THING, {"x", "y"}), ("SECTORS", wad.SECTOR, {"floor", "ceiling"})):
        for field in set(dtype.names) - moved:
            before, after = np.frombuffer(old[lump], dtype), np.frombuffer(new[lump], dtype)
            np.testing.assert_array_equal(after[field], before[field], err_msg=field)


def test_what_is_closed_or_level_stays_so(source):
    old, new = (np.frombuffer(v.lumps(source, NAME)["SECTORS"], wad.SECTOR) for v in (AS_IT_IS, Variant(shape=2)))
    assert (old["floor"] == old["ceiling"]).any()
    for first in ("floor", "ceiling"):
        for second in ("floor", "ceiling"):
            equal = old[first][:, None] == old[second]
            np.testing.assert_array_equal((new[first][:, None] == new[second])[equal], True)


def test_lengths_that_do_not_fit_become_the_longest_that_do(source):
    lumps = source.map_lumps(NAME)
    far = np.full(len(lumps["VERTEXES"]) // 2, 32000, "<i2")
    far[::2] = -32000
    source = type("Far", (), {"map_lumps": lambda self, name: {**lumps, "VERTEXES": far.tobytes()}})()
    reached = [np.frombuffer(Variant(shape=s).lumps(source, NAME)["VERTEXES"], "<i2") for s in range(8)]
    assert all((vertices[::2] < -20000).all() and (vertices[1::2] > 20000).all() for vertices in reached)
    assert any((vertices[1::2] == 32767).all() for vertices in reached)


def test_a_shape_is_one_thing_and_another_another(source):
    lumps = {shape: Variant(shape=shape).lumps(source, NAME)["VERTEXES"] for shape in (3, 4)}
    assert lumps[3] == Variant(shape=3).lumps(source, NAME)["VERTEXES"] != lumps[4]


def test_style_and_shape_together_are_the_changes_of_both(source):
    styled, shaped = Variant(style=5).lumps(source, NAME), Variant(shape=6).lumps(source, NAME)
    both = Variant(style=5, shape=6).lumps(source, NAME)
    assert both["SIDEDEFS"] == styled["SIDEDEFS"] and both["VERTEXES"] == shaped["VERTEXES"]
    sectors = [np.frombuffer(lumps["SECTORS"], wad.SECTOR) for lumps in (both, styled, shaped)]
    for field in wad.SECTOR.names:
        np.testing.assert_array_equal(sectors[0][field], sectors[2 if field in ("floor", "ceiling") else 1][field])


def test_a_variant_is_called_by_its_numbers():
    assert [str(v) for v in (AS_IT_IS, Variant(style=0), Variant(shape=7), Variant(2, 7))] == [
        "",
        "style0",
        "shape7",
        "style2/shape7",
    ]

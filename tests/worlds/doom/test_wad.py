import numpy as np
import pytest

from experiments.worlds.doom import wad
from mirage_jax.errors import UserError


def test_reads_lines_sectors_and_things(tiny_wad, tiny_map, geometry):
    rooms, _, grate = geometry
    assert wad.Wad(tiny_wad).maps() == ["MAP01"]
    np.testing.assert_array_equal(tiny_map.floor, [room[4] for room in rooms])
    np.testing.assert_array_equal(tiny_map.ceiling, [room[5] for room in rooms])
    np.testing.assert_array_equal(tiny_map.sky_ceiling, [room[6] for room in rooms])
    assert not tiny_map.sky_floor.any()
    two_sided = tiny_map.sectors[:, 1] >= 0
    np.testing.assert_array_equal(tiny_map.sectors[two_sided], [[0, 1], [1, 2], [2, 3]])
    np.testing.assert_array_equal(tiny_map.start[two_sided], [[256, 224], [512, 192], [768, 192]])
    np.testing.assert_array_equal(tiny_map.end[two_sided], [[256, 32], [512, 64], [768, 64]])
    assert tiny_map.things["type"].tolist() == [1, 2035]
    # Only a two-sided line's middle texture can be seen through, so only that one is decoded.
    assert (tiny_map.middle >= 0).sum() == 2 and (tiny_map.middle[two_sided][0] >= 0).all()
    np.testing.assert_array_equal(tiny_map.opacity[tiny_map.middle[two_sided][0, 0]], grate)


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [(None, "MAP01", "does not exist"), (b"not a game", "MAP01", "not a WAD"), ("tiny", "MAP07", "no map MAP07")],
)
def test_bad_files_are_named(tmp_path, tiny_wad, content, name, message):
    path = tmp_path / "x.wad"
    if content == "tiny":
        path.write_bytes(tiny_wad.read_bytes())
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        wad.Wad(path).map(name)
    assert "x.wad" in str(error.value)

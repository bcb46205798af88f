import numpy as np
import pytest

from experiments.worlds import paths
from experiments.worlds.doom.free_space import FreeSpace


@pytest.fixture(scope="module")
def space(tiny_map):
    return FreeSpace(tiny_map, tiny_map.floor, tiny_map.ceiling)


@pytest.mark.parametrize(
    ("point", "sector"),
    [((10, 10), 0), ((115, 115), -1), ((300, 100), 1), ((700, 70), 2), ((890, 100), 3), ((950, 9), -1)],
)
def test_sector_at(space, point, sector):
    assert space.sector_at(np.array(point, float)) == sector


def test_clearance_is_the_distance_to_walls_and_things(space):
    points = np.array([[20.0, 60.0], [400.0, 100.0], [460.0, 128.0], [200.0, 115.0]])
    # A wall, a barrel, the step of 40 into the third room, the step of 16 (which can be climbed) is no obstacle.
    np.testing.assert_allclose(space.clearance(points), [20, 28, 52, 70])


def test_plans_keep_clear_and_repeat(space):
    found = 0
    for seed in range(12):
        path = paths.plan("walk", space, 9, np.random.default_rng(seed))
        again = paths.plan("walk", space, 9, np.random.default_rng(seed))
        if path is None:
            assert again is None
            continue
        found += 1
        assert (space.clearance(path.positions) > 40).all() and space.standable(path.positions[0])
        np.testing.assert_array_equal(path.positions, again.positions)
        np.testing.assert_array_equal(path.angles, again.angles)
    assert found

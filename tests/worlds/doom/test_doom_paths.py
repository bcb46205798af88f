import numpy as np
import pytest

from experiments.worlds import paths
from experiments.worlds.doom.free_space import FreeSpace

FRAMES = 65


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


@pytest.mark.parametrize("kind", paths.KINDS)
def test_candidates_are_of_their_kind(kind):
    calm = 0
    for seed in range(40):
        positions, angles = paths._CANDIDATE[kind](FRAMES, np.random.default_rng(seed))
        assert positions.shape == (FRAMES, 2) and angles.shape == (FRAMES,)
        calm += paths._is_calm(paths.Path(positions, angles))
        np.testing.assert_allclose(positions[0], 0)
        away = np.abs(angles - angles[0]).max()
        home = np.linalg.norm(positions[-1] - positions[0]) / 32
        if kind == "turn":
            assert 60 <= away <= 180 and not positions.any()
        if kind == "look_away":  # out of the 64 degrees of view, then near the start but not on it
            assert away >= 70 and 0.099 <= home <= 0.601 and abs(angles[-1] - angles[0]) <= 6
        if kind == "loop":
            assert home <= 0.41
    assert calm > 20
    short = [paths._CANDIDATE[kind](9, np.random.default_rng(seed)) for seed in range(20)]
    assert any(paths._is_calm(paths.Path(*candidate)) for candidate in short)


def test_calm_paths_turn_and_move_slowly():
    straight = np.zeros((4, 2))
    assert paths._is_calm(paths.Path(straight, np.array([0, 4, 0, -4.0])))
    assert not paths._is_calm(paths.Path(straight, np.array([0, 4.1, 4, 4])))
    assert not paths._is_calm(paths.Path(np.array([[0, 0], [8.0, 8], [9, 9], [9, 9]]), np.zeros(4)))


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

import numpy as np
import pytest

from experiments.worlds import paths

FRAMES = 65


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

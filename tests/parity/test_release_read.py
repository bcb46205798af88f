"""The benchmark's twin of the release's read: right with one thread, and its mistakes are counted."""

import numpy as np
import pytest
import torch

from experiments.bench import memory_speed


@pytest.fixture
def held(monkeypatch):
    for name, size in (("HEIGHT", 6), ("WIDTH", 9), ("CHANNELS", 4), ("_SLOW_REPEATS", 1)):
        monkeypatch.setattr(memory_speed, name, size)
    return memory_speed._filled(2, capacity=2 * 9 * 54), memory_speed._walk(2)


def test_with_one_thread_every_cell_shows_the_nearest_point(held):
    found = memory_speed._release(torch, *held)
    assert found["release"]["one thread"]["wrong_cells"] == 0
    arrays = memory_speed._on_host(*held)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seen, depth = memory_speed._torch_read(torch, *(torch.from_numpy(np.array(array)) for array in arrays))
    torch.set_num_threads(threads)
    features, _, expected = memory_speed._sorted_read(*arrays)
    # Another order of operations: points on the border of two cells may fall either way.
    assert np.isclose(depth, expected, rtol=1e-4).mean() > 0.95
    assert (seen.numpy() == features).all(axis=-1).mean() > 0.95


def test_cells_that_show_another_point_are_counted(held, monkeypatch):
    read = memory_speed._torch_read

    def another_point(torch, points, features, intrinsics, world2cam):
        return read(torch, points, features.roll(1, 0), intrinsics, world2cam)  # features of another point

    monkeypatch.setattr(memory_speed, "_torch_read", another_point)
    assert memory_speed._release(torch, *held)["release"]["one thread"]["wrong_cells"] > 0.5

"""Suite `end_to_end`: the stages that are timed make the very segment that is timed beside them."""

import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.bench import end_to_end_speed
from mirage_jax import world

sys.path.append(str(Path(__file__).parents[1] / "world"))
import tiny_world


@pytest.fixture(scope="module")
def model():
    return tiny_world.quick()


def test_stages_make_a_segment(model, monkeypatch):
    """With the memory whose stages do most: reading encodes, writing takes the decoded frames."""
    monkeypatch.setattr(end_to_end_speed, "SEGMENTS", 1)
    params = tiny_world.random_parameters(model)
    params["heads"]["out"]["bias"] = np.array([1.0, 5.0, -5.0], np.float32)
    config, prepared, state, cameras = end_to_end_speed.begun(model, params, "rgb")
    assert int(state.segments) == 1 and int(state.memory.size) > 0
    calls, given = end_to_end_speed.staged(config, prepared, state, cameras)
    assert list(calls) == list(end_to_end_speed.STAGES)
    after, output = world.segment(config, prepared, state, cameras)
    np.testing.assert_allclose(given["denoise"][0], output.latents, atol=1e-4)
    frames = np.round((np.asarray(given["decode"][0]) + 1) * 127.5)
    np.testing.assert_allclose(frames, np.asarray(output.frames, np.float32), atol=1)
    written = given["write"][0]
    assert int(written.size) == int(after.memory.size) > int(state.memory.size)
    np.testing.assert_allclose(written.points, after.memory.points, rtol=1e-3, atol=1e-3)
    jax.tree.map(np.testing.assert_array_equal, calls["read"]()[1].visible, output.readout.visible)


def test_the_table_has_every_stage_their_sum_and_the_whole():
    times = {name: [0.001 * (1 + i)] * 3 for i, name in enumerate(end_to_end_speed.STAGES)} | {"segment": [0.012] * 3}
    record = {"model": "tiny", "frames": 4, "device": "this", "jax": "0", "repeats": 3, "points": {"latent": 10}}
    record |= {"methods": {"latent": times}, "memory": {"host_memory_peak_gib": 1.5}}
    table = end_to_end_speed.markdown(record)
    assert "| sum of the stages' medians | 15 |" in table and "| whole segment | 12 [12, 12] |" in table
    assert "1.50 GiB of the process" in table and "of the device" not in table
    assert all(f"| {name}: " in table for name in end_to_end_speed.STAGES)

"""Suite `rollout`: both memories hold the same frames, parts of a measurement stand for the whole, and runs go on."""

import dataclasses

import numpy as np
import pytest

from experiments.bench import rollout_speed
from mirage_jax.errors import UserError
from tests.world import tiny_world


@pytest.fixture(scope="module")
def size():
    base = tiny_world.video()
    coder = dataclasses.replace(
        base.vae,
        latent_channels=5,
        encoder_dim=4,
        decoder_dim=4,
        multipliers=(1, 1),
        time_downsample=(True,),
        time_kernels=(1, 3),
    )
    model = dataclasses.replace(
        base,
        height=32,
        width=48,
        vae=coder,
        segment=dataclasses.replace(base.segment, latents=2, control=("readout", "visible")),
    )
    return rollout_speed.Size(model, ((1, (1, 2)), (2, (1,))), 3, 3, 2, True, False)


@pytest.fixture
def sizes(size, monkeypatch):
    monkeypatch.setattr(rollout_speed, "sizes", lambda scale: {"small": size})


def test_both_memories_hold_the_same_frames(size):
    times = np.array([0.0, 1.5, 30.0])
    cells, pixels = (rollout_speed.filled(size.model, times, kind) for kind in ("latent", "rgb"))
    assert int(cells.size) == 3 * 8 * 12 and int(pixels.size) == 3 * 32 * 48
    assert int(cells.overflow) == int(pixels.overflow) == 0
    fine = rollout_speed.walk(size.model, times, "rgb")
    coarse = rollout_speed.walk(size.model, times, "latent")
    np.testing.assert_allclose(coarse.intrinsics, fine.resized(8, 12).intrinsics, rtol=1e-6)
    np.testing.assert_array_equal(coarse.cam2world, fine.cam2world)
    # Where the room is flat, the centre of a cell lies amid its four middle pixels.
    middle = np.asarray(pixels.points)[..., :3].reshape(3, 8, 4, 12, 4, 3)[:, :, 1:3, :, 1:3].mean((2, 4))
    apart = np.linalg.norm(np.asarray(cells.points)[..., :3].reshape(3, 8, 12, 3) - middle, axis=-1)
    assert np.median(apart) < 0.01 and np.ptp(np.asarray(cells.points), axis=0)[:3].min() > 1


def test_a_part_stands_for_the_whole(size, monkeypatch):
    monkeypatch.setattr(
        rollout_speed.timing, "in_turn", lambda calls, repeats: {name: [1.0] * repeats for name in calls}
    )
    row = rollout_speed._reading(size, 1, 2)
    frames = size.model.segment_frames
    assert row["latent"]["seconds_per_frame"] == [1 / frames] * 3, "one read serves the segment"
    assert row["rgb"]["seconds_per_frame"] == pytest.approx([(1 + frames) / 3 / frames] * 3), "3 of 1 + F frames"
    assert row["latent"]["frames"] == row["rgb"]["frames"] == 3
    assert row["latent"]["bytes"] == 3 * 8 * 12 * (24 + 4 * 5) and row["rgb"]["bytes"] == 3 * 32 * 48 * (24 + 4 * 3)
    assert f"3 of {1 + frames} frames" in row["note"]
    encoded = rollout_speed._encoding(size)
    assert encoded["seconds_per_frame"] == pytest.approx([3 / frames] * 2), "the first frame and two groups"


def test_a_stopped_run_goes_on(sizes, tmp_path, monkeypatch):
    calls = []

    def stopped(size, written, segments):
        calls.append((written, segments))
        if len(calls) == 3:
            raise KeyboardInterrupt
        one = {"seconds_per_frame": [1e-3] * 3, "points": 10, "channels": 8, "bytes": 100, "frames": 3}
        return {"latent": one, "rgb": {**one, "seconds_per_frame": [2e-2] * 3, "bytes": 6000, "points": 100}}

    monkeypatch.setattr(rollout_speed, "_reading", stopped)
    monkeypatch.setattr(rollout_speed, "_encoding", lambda size: {"seconds_per_frame": [1e-2, 3e-2, 2e-2]})
    with pytest.raises(KeyboardInterrupt):
        rollout_speed.measure(tmp_path, "full")
    record = rollout_speed.measure(tmp_path, "full")
    assert calls == [(1, 1), (1, 2), (2, 1), (2, 1)], "what was finished is not done again"
    lines = rollout_speed.ratios(record)
    assert [(line["written"], line["segments"]) for line in lines] == [(1, 1), (1, 2), (2, 1)]
    assert lines[0]["faster"] == pytest.approx((20 + 20) / 1) and lines[0]["smaller"] == pytest.approx(60)
    assert lines[0]["smaller_small_types"] == pytest.approx(100 * 27 / (10 * (24 + 16)))
    table = rollout_speed.markdown(record)
    assert table.count("| small |") == 3 and "40.0x" in table and "10.57" in table and "GEN3C" in table

    reads = record | {"rows": [row for row in record["rows"] if row["spec"]["what"] == "read"]}
    assert rollout_speed.ratios(reads)[0]["faster"] == pytest.approx(20 / 1), "rendering alone"
    assert rollout_speed.markdown(reads).count("not timed") == 3

    monkeypatch.setattr(rollout_speed.timing, "device", lambda: "another")
    with pytest.raises(UserError, match="now it is 'another'"):
        rollout_speed.measure(tmp_path, "full")


def test_full_scale_measures_the_default_size_too():
    full, tiny = (rollout_speed.sizes(scale) for scale in ("full", "tiny"))
    assert list(full) == ["default", "wan22"] and list(tiny) == ["default"]
    for one in full.values():
        assert max(numbers[-1] for _, numbers in one.contents) == 50 and one.repeats >= 5
        biggest = max((1 + written * numbers[-1]) for written, numbers in one.contents)
        assert biggest * one.model.height * one.model.width * 36 < 2e9

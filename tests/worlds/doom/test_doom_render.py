"""One short clip of a real map, with and without monsters."""

import dataclasses

import numpy as np
import pytest

from experiments.worlds import batch, verify
from experiments.worlds.doom import engine, jobs, render, wad
from experiments.worlds.doom.variant import Variant

FRAMES = 17


@pytest.fixture(scope="module")
def outcomes():
    yield [batch.render_one(job(moving)) for moving in (False, True)]
    jobs.close()


def job(moving):
    return jobs.Job(
        index=0, seed=3, split="train", map_name="MAP08", kind="walk", moving=moving, frames=FRAMES, size=64
    )


def test_clip_passes_its_own_checks(outcomes):
    for outcome in outcomes:
        clip = outcome.clip
        assert clip.frames.shape == (FRAMES, 64, 64, 3)
        assert verify.verify(clip)[0] is None
        assert (clip.depth == 0).mean() < 0.03
        np.testing.assert_allclose(clip.intrinsics[0], [[51.2, 0, 32], [0, 51.2, 32], [0, 0, 1]])
        np.testing.assert_array_equal(
            clip.cam2world[:, :3, 1], np.tile([0, 0, -1], (FRAMES, 1))
        )  # down is down: no pitch
        assert clip.source.startswith(f"doom/{clip.source.split('/')[1]}/seed") and "/walk" in clip.source


def test_what_is_too_dark_to_see_is_rejected():
    frames = np.zeros((2, 8, 8, 3), np.uint8)
    frames[..., 1] = 160  # a mean of 0.21
    render._check_colours(frames)
    frames[..., 1] = 145  # of 0.19
    with pytest.raises(batch.RejectedError, match="too dark"):
        render._check_colours(frames)


def test_only_monsters_are_dynamic(outcomes):
    still, moving = (outcome.clip for outcome in outcomes)
    assert not still.dynamic.any() and moving.dynamic.any()
    assert moving.source.endswith("/monsters") and "monsters" in moving.caption


def test_verification_needs_the_depth(outcomes):
    """The same clip with its depth scaled or its poses in another order is refused."""
    clip = outcomes[0].clip
    assert verify.verify(dataclasses.replace(clip, depth=clip.depth * np.float32(1.5)))[0]
    assert verify.verify(dataclasses.replace(clip, cam2world=clip.cam2world[::-1]))[0]


def test_same_seed_same_clip(outcomes):
    again = batch.render_one(job(True)).clip
    for name, value in outcomes[1].clip.arrays().items():
        np.testing.assert_array_equal(value, getattr(again, name), err_msg=name)


def test_a_map_of_freedm_is_played_from_its_own_file(monkeypatch):
    """Here another game's file stands in for FreeDM's, which need not be installed."""
    monkeypatch.setattr(engine, "_FREEDM", engine.iwad("MAP08")[0])
    try:
        game = jobs.running("DM08", False)
        assert game.map.name == "DM08"
        np.testing.assert_array_equal(game.map.start, wad.Wad(engine.iwad("MAP08")[0]).map("MAP08").start)
        rendered = batch.render_one(dataclasses.replace(job(False), map_name="DM08"))
        assert rendered.clip is not None and rendered.clip.source.startswith("doom/DM")
    finally:
        jobs.close()


def test_a_restyled_map_looks_otherwise_and_is_as_exact(outcomes):
    rendered = batch.render_one(dataclasses.replace(job(False), variant=Variant(style=3)))
    own, clip = outcomes[0].clip, rendered.clip
    assert clip is not None and verify.verify(clip)[0] is None
    assert "/style3/walk" in clip.source and clip.source.replace("style3/", "") == own.source
    np.testing.assert_array_equal(clip.depth, own.depth)
    assert np.abs(clip.frames.astype(float) - own.frames).mean() > 10


@pytest.mark.parametrize("style", [None, 3])
def test_a_stretched_map_is_played_in_its_new_shape(style):
    """Depth, which comes from our reading of the map, fits the frames, which come from the game's."""
    try:
        game = jobs.running("MAP08", False, Variant(style=style, shape=4))
        plain = wad.Wad(engine.iwad("MAP08")[0]).map("MAP08")
        assert np.abs(game.map.start - plain.start).max() > 100
        game.restart(0)
        floor, ceiling = game.heights()
        np.testing.assert_array_equal(floor, game.map.floor)
        assert (ceiling != plain.ceiling).mean() > 0.5
        rendered = batch.render_one(dataclasses.replace(job(False), variant=game.variant))
        assert rendered.clip is not None and verify.verify(rendered.clip)[0] is None
        assert f"/{game.variant}/walk" in rendered.clip.source
    finally:
        jobs.close()

"""Which parts of a video come back, and scores over just those."""

import dataclasses

import numpy as np
import pytest
from sphere import SIZE, turning

from mirage_jax.evaluation import metrics, returns
from tests.world import tiny_world


@pytest.fixture(scope="module")
def model():
    return dataclasses.replace(tiny_world.video(), height=SIZE, width=SIZE)


def test_what_was_out_of_sight_for_a_segment_counts_as_returned(model):
    away = np.concatenate([np.linspace(0, 100, 17), np.full(16, 100.0), np.linspace(100, 0, 17)[1:]])
    cells = returns.returned(turning(away), model, since=33)
    assert cells.shape == (16, 4, 4)
    assert cells[-1].mean() > 0.9, "the start is back in view"
    assert not cells[0].any(), "the turn back has just begun"


def test_what_stayed_in_sight_does_not(model):
    still = returns.returned(turning(np.zeros(49)), model, since=33)
    assert not still.any()


def test_what_was_never_seen_does_not(model):
    onwards = returns.returned(turning(np.linspace(0, 144, 49)), model, since=33)
    assert not onwards.any()


def test_what_was_made_up_on_the_way_does_not(model):
    """First seen in generated frames, then out of sight: only what the given frames showed has a truth."""
    away = [np.linspace(0, 100, 17), np.full(16, 100.0), np.linspace(100, 0, 16), np.full(16, 0.0)]
    clip = turning(np.concatenate([*away, np.linspace(0, 100, 16)]))
    assert returns.returned(clip, model, since=65)[-1].mean() > 0.9
    assert not returns.returned(clip, model, since=1)[-1].any(), "100 degrees to the side, first seen in frame 16"
    assert returns.returned(clip, model, since=1)[47].mean() > 0.9, "the first view, back after two segments"


def test_moving_actors_do_not(model):
    away = np.concatenate([np.linspace(0, 100, 17), np.full(16, 100.0), np.linspace(100, 0, 17)[1:]])
    clip = dataclasses.replace(turning(away), dynamic=np.ones((49, SIZE, SIZE), bool))
    assert not returns.returned(clip, model, since=33).any()


def test_psnr_over_cells_ignores_the_rest():
    a = np.zeros((2, 16, 16, 3), np.uint8)
    b = a.copy()
    b[0, :8, :8] = 10
    b[0, 8:, 8:] = 200
    cells = np.zeros((2, 2, 2), bool)
    cells[0, 0, 0] = True
    value = metrics.masked_psnr(a, b, cells)
    np.testing.assert_allclose(value[0], 20 * np.log10(255 / 10), rtol=1e-6)
    assert np.isnan(value[1])


def test_frames_that_come_back_are_scored_apart(model):
    clip = dataclasses.replace(turning(np.zeros(5)), frames=np.zeros((5, SIZE, SIZE, 3), np.uint8))
    made = {"latent": clip.frames[1:].copy(), "flat": clip.frames[1:].copy()}
    made["flat"][3] = 50
    cells = np.zeros((4, 4, 4), bool)
    cells[3] = True
    new = np.zeros((4, 4, 4), bool)
    new[0] = True
    scores = returns.score(clip, made, cells, new)
    assert scores["latent"]["psnr_revisit"] > scores["flat"]["psnr_revisit"]
    np.testing.assert_allclose(scores["flat"]["psnr_revisit"], 20 * np.log10(255 / 50), rtol=1e-4)
    np.testing.assert_allclose(scores["flat"]["psnr_returned_cells"], 20 * np.log10(255 / 50), rtol=1e-4)
    np.testing.assert_allclose(scores["flat"]["psnr_new"], metrics.PSNR_OF_EQUAL_FRAMES)
    assert returns.score(clip, made, np.zeros((4, 4, 4), bool), new)["flat"]["psnr_revisit"] is None


def test_new_ground_is_what_no_earlier_frame_saw(model):
    onwards = turning(np.linspace(0, 144, 49))
    new = returns.first_seen(onwards, model, since=33)
    assert new[-1].mean() > 0.3 and not new[0].any()
    away = np.concatenate([np.linspace(0, 100, 17), np.full(16, 100.0), np.linspace(100, 0, 17)[1:]])
    assert not returns.first_seen(turning(away), model, since=33)[-1].any(), "the start was seen"
    assert not returns.first_seen(
        dataclasses.replace(onwards, dynamic=np.ones((49, SIZE, SIZE), bool)), model, since=33
    ).any()

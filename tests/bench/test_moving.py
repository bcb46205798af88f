"""Suite `moving`: its tables and picture, from figures that are known."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.bench.memory import moving
from mirage_jax.geometry import Camera


def rows(masks=("true", "heads")):
    """Eight clips that differ by much more than methods do; two of them remember nothing to be off by."""
    made = []
    for mask in masks:
        for number, method in enumerate(moving.METHODS):
            for clip in range(8):
                figures = {"found": 0.1 * clip, "off": clip + 0.5 * number, "ghosts": 2.0 * clip + 0.25 * number}
                figures |= {"off": None} if method == "forgotten" or (method == "entities" and clip > 5) else {}
                motion = moving.MOTION_CLASSES[1 + clip % 2]
                made.append({"clip": f"{clip}", "motion": motion, "masks": mask, "method": method, **figures})
    return made


def test_tables_have_intervals_and_what_differs_clip_by_clip():
    looked_at = [
        {"spec": {"masks": mask, "clip": clip}, "found": [row for row in rows((mask,)) if row["clip"] == f"{clip}"]}
        for mask in ("true", "heads")
        for clip in range(9)  # nothing returns in the last
    ]
    table = moving.markdown({"model": "m", "judged": 6, "rows": looked_at})
    assert table.count("9 clips were looked at") == 2
    assert table.index("Masks: true") < table.index("Masks: heads")
    assert "| entities | all | 8 | 0.35 [" in table and "| forgotten | all | 8 |" in table
    assert table.count("| entities less frozen | +0.00 [+0.00, +0.00] | +0.50 [+0.50, +0.50] | +0.25 [") == 2
    assert "| entities less frozen points | +0.00 [+0.00, +0.00] | +1.00 [+1.00, +1.00] |" in table


def test_what_is_remembered_nowhere_has_no_error():
    only = [row for row in rows() if row["method"] == "forgotten"]
    assert moving._cells(only)[1] == "-"


@pytest.mark.parametrize("masks", [("true",), ("true", "heads")])
def test_the_picture_says_in_how_many_clips_things_are_off_by_how_much(tmp_path, monkeypatch, masks):
    drawn = {}
    monkeypatch.setattr(moving.drawings, "plot_curves", lambda path, curves, **_: drawn.update(curves))
    moving._draw(tmp_path / "moving.png", rows(masks))
    assert len(drawn) == 2 * len(masks)
    curve = drawn["entities, masks: true"]
    assert (np.diff(curve) >= 0).all() and curve[0] == 0
    assert curve[-1] == 3 / 8  # off by 1.5, 2.5 and 3.5; two clips of eight remember nothing


SIZE, SEEN, FRAMES = 16, 8, 40


def test_what_is_frozen_stands_where_it_was_and_what_is_put_on_its_track_is_not_off():
    """A plate goes by at two metres, half a cell a frame, and is not seen any more from the eighth frame on."""
    step = 0.5 * 2.0 / SIZE  # scene units
    moving_cells, tracks = np.zeros((FRAMES, SIZE, SIZE), bool), np.zeros((FRAMES, 3), np.float32)
    for t in range(FRAMES):
        column = (t + 1) // 2
        moving_cells[t, 5:11, 2 + column : 8 + column] = t < SEEN
        tracks[t] = [-0.375 + step * t, 0.0, 2.0]
    depth = jnp.where(moving_cells, 2.0, 5.0)
    tokens = jnp.where(jnp.asarray(moving_cells)[..., None], 1.0, 0.0) * jnp.ones(3)
    k = np.array([[SIZE, 0, SIZE / 2], [0, SIZE, SIZE / 2], [0, 0, 1]], np.float32)
    cameras = Camera(np.tile(k, (FRAMES, 1, 1)), np.tile(np.eye(4, dtype=np.float32), (FRAMES, 1, 1)), SIZE, SIZE)
    at = np.array([SEEN + 2, FRAMES - 1])

    held = moving._held(tokens, depth, moving_cells, cameras, SEEN + 1)

    def off(method):
        return np.asarray(moving._remembered(method, held, cameras, at, tracks, SEEN - 1)[1])

    np.testing.assert_allclose(off("true track"), 0.0, atol=1e-5)
    frozen, entities = off("frozen"), off("entities")
    assert frozen[0] / (at[0] - SEEN + 1) == pytest.approx(frozen[1] / (at[1] - SEEN + 1), rel=1e-3)
    assert entities[0] < frozen[0] / 2

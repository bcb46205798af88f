"""Suite `moving`: its tables and picture, from figures that are known."""

import numpy as np
import pytest

from experiments.bench.memory import moving


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
    table = moving.markdown({"model": "m", "clips": 9, "judged": 6, "rows": rows()})
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
    monkeypatch.setattr(moving.viz, "plot_curves", lambda path, curves, **_: drawn.update(curves))
    moving._draw(tmp_path / "moving.png", rows(masks))
    assert len(drawn) == 2 * len(masks)
    curve = drawn["entities, masks: true"]
    assert (np.diff(curve) >= 0).all() and curve[0] == 0
    assert curve[-1] == 3 / 8  # off by 1.5, 2.5 and 3.5; two clips of eight remember nothing

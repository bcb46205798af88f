"""Which part of the clips a command takes, and videos of other systems: found, scored, or named with what is wrong."""

import dataclasses
import json

import numpy as np
import pytest

from experiments.evaluation import other_videos, video
from experiments.shared import cli
from mirage_jax import viz
from mirage_jax.errors import UserError
from mirage_jax.evaluation.scores import Scores
from mirage_jax.geometry import pose_files
from tests import analytic

NAMES = tuple(f"room/{i}/walk" for i in range(5))


def _clip(number):
    return dataclasses.replace(analytic.scene(number, frames=3, height=32, width=32), source=NAMES[number])


@pytest.mark.parametrize("text", ["2/2", "1", "-1/2", "a/b", "1/0"])
def test_a_wrong_part_is_said(text):
    with pytest.raises(UserError, match="expected i/n"):
        cli.part_of(text)


def test_numbers_of_clips_are_for_all_splits_or_for_each():
    assert cli.most_of(None, 2) == [None, None]
    assert cli.most_of(["7"], 2) == [7, 7]
    assert cli.most_of(["64", "32"], 2) == [64, 32]


@pytest.mark.parametrize("texts", [["0"], ["-1"], ["a"], ["1", "2", "3"], [], ["1", ""], ["1.5"]])
def test_numbers_of_clips_that_are_none_are_refused(texts):
    with pytest.raises(UserError, match=r"--clips .*: expected a number of clips from 1 on, or one for each of the 2"):
        cli.most_of(texts, 2)


def test_cases_hold_what_another_system_needs(tmp_path):
    clip = _clip(1)
    case = other_videos.export_case(tmp_path, clip, 15.0)
    assert case["id"] == "room-1-walk" and case["frames"] == 3 and json.dumps(case)
    cameras = pose_files.load(str(tmp_path / case["id"] / "cameras.json"), height=32, width=32).camera
    np.testing.assert_array_equal(np.asarray(cameras.cam2world), clip.cam2world)
    assert (tmp_path / case["id"] / "first.png").read_bytes()[:4] == b"\x89PNG"


def test_videos_of_other_systems_are_found_and_bad_ones_named(tmp_path):
    sources = NAMES
    frames = [_clip(i).frames for i in range(5)]
    viz.write_video(tmp_path / "ours" / "room-0-walk.mp4", frames[0])
    viz.write_video(tmp_path / "theirs" / "room-0-walk.mp4", np.concatenate([frames[0]] * 2))
    viz.write_video(tmp_path / "theirs" / "room-1-walk.mp4", frames[1][:2])
    viz.write_video(tmp_path / "theirs" / "room-2-walk.mp4", frames[2][:, :, :30])
    (tmp_path / "theirs" / "room-3-walk.mp4").write_bytes(b"no video")
    (tmp_path / "notes").mkdir()
    systems = other_videos.find_systems(tmp_path, sources)
    assert list(systems) == ["ours", "theirs"]
    assert len(other_videos.load("theirs", systems["theirs"], _clip(0))) == 3, "cut to the clip"
    for number, message in (
        (1, "has 2 frames, the clip 3"),
        (2, "30x32 pixels, the clip 32x32"),
        (3, "cannot read"),
    ):
        with pytest.raises(UserError, match=message):
            other_videos.load("theirs", systems["theirs"], _clip(number))
    with pytest.raises(UserError, match=r"no video .*room-4-walk\.mp4"):
        other_videos.load("theirs", systems["theirs"], _clip(4))
    alone = other_videos.find_systems(tmp_path / "ours", sources)
    assert alone == {"ours": tmp_path / "ours"}
    with pytest.raises(UserError, match="no video of any of the 5 clips"):
        other_videos.find_systems(tmp_path / "notes", sources)


def test_the_score_of_a_folder_counts_what_it_refuses(tmp_path, monkeypatch):
    clip = _clip(0)
    monkeypatch.setattr(video, "score", lambda frames, clip: {"reconstruction": Scores({"psnr": 9.0}, {})})
    viz.write_video(tmp_path / "ours" / "room-0-walk.mp4", clip.frames)
    viz.write_video(tmp_path / "theirs" / "room-0-walk.mp4", clip.frames[:1])
    damaged = tmp_path / "damaged" / "room-0-walk.mp4"
    viz.write_video(damaged, clip.frames)
    content = bytearray(damaged.read_bytes())
    begin = content.index(b"mdat")
    for place in range(begin + 800, len(content) - 900, 30):
        content[place] ^= 0x10
    damaged.write_bytes(content)
    refused = []
    rows = other_videos.score(other_videos.find_systems(tmp_path, [clip.source]), clip, refused)
    assert {row["method"] for row in rows} == {"ours"} and len(refused) == 2 and "theirs" in refused[1]
    assert "damaged/room-0-walk.mp4" in refused[0]

"""Results clip by clip: a killed run goes on, parts make a whole, videos of other systems are found or named."""

import dataclasses
import json

import numpy as np
import pytest

from mirage_jax import viz
from mirage_jax.errors import UserError
from mirage_jax.evaluation import other_videos, runner
from mirage_jax.evaluation.protocols import video
from mirage_jax.evaluation.protocols.scores import Scores
from mirage_jax.geometry import pose_files
from mirage_jax.models import config as model_config
from tests import analytic


class _Clips:
    """What `runner.Clips` is, without files."""

    names = tuple(f"room/{i}/walk" for i in range(5))

    def clip(self, number):
        # Of pictures of 32 pixels, the encoder x264 does not always make the same file.
        return dataclasses.replace(analytic.scene(number, frames=3, height=128, width=128), source=self.names[number])


def _score(clip, _device):
    value = float(clip.frames.mean())
    rows = runner.video_rows(
        "latent", 0, {"reconstruction": Scores({"psnr": value}, {"psnr": np.array([np.nan, 1 / 3])})}
    )
    return rows, {"rollout": {"latent": clip.frames}}


def _files(out):
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    assert sorted(runner.run(out, _Clips(), range(5), _score, 15)) == sorted(_Clips.names)
    return out


def test_a_killed_run_goes_on_and_ends_the_same(whole, tmp_path):
    seen = []

    def killed(clip, device):
        seen.append(clip.source)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return _score(clip, device)

    with pytest.raises(KeyboardInterrupt):
        list(runner.run(tmp_path, _Clips(), range(5), killed, 15))
    assert len(list((tmp_path / "clips").iterdir())) == 2, "what was finished is there, the third is not"
    again = []
    list(runner.run(tmp_path, _Clips(), range(5), lambda c, d: again.append(c.source) or _score(c, d), 15))
    assert sorted(again) == sorted(set(_Clips.names) - set(seen[:2])), "and is not done again"
    assert _files(tmp_path) == _files(whole)


def test_parts_make_a_whole(whole, tmp_path):
    for text in ("1/2", "0/2"):
        first, step = runner.part_of(text)
        list(runner.run(tmp_path, _Clips(), range(first, 5, step), _score, 15))
    assert _files(tmp_path) == _files(whole)


@pytest.mark.parametrize("text", ["2/2", "1", "-1/2", "a/b", "1/0"])
def test_a_wrong_part_is_said(text):
    with pytest.raises(UserError, match="expected i/n"):
        runner.part_of(text)


def test_results_are_plain_and_in_order(whole):
    found = runner.results(whole, reversed(_Clips.names))
    assert [one["clip"] for one in found] == list(reversed(_Clips.names))
    row = found[0]["rows"][0]
    assert row["curves"] == {"psnr": [None, 0.33333]} and found[0]["kind"] == "walk"


def test_a_folder_of_another_plan_is_refused(tmp_path):
    runner.start(tmp_path, {"seeds": 1, "methods": ("latent",)})
    runner.start(tmp_path, {"seeds": 1, "methods": ["latent"]})
    with pytest.raises(UserError, match="seeds was 1, now 3"):
        runner.start(tmp_path, {"seeds": 3, "methods": ["latent"]})


def test_frames_beyond_whole_segments_are_left_out():
    model = dataclasses.replace(model_config.default(), height=32, width=32)
    clip = analytic.scene(0, frames=21, height=32, width=32)
    assert len(runner.whole_segments(clip, model)) == 17
    with pytest.raises(UserError, match="a segment of the model takes 17"):
        runner.whole_segments(clip[:9], model)
    with pytest.raises(UserError, match="the model works at 128x128"):
        runner.whole_segments(clip, model_config.default())


def test_context_has_equal_tokens():
    model = model_config.default()
    window = model.segment.preceding + model.segment.reference
    longer = dataclasses.replace(model, segment=dataclasses.replace(model.segment, preceding=window))
    runner.check_comparable("context", longer, model)
    with pytest.raises(UserError, match=f"equal tokens are {window}"):
        runner.check_comparable("context", model, model)
    with pytest.raises(UserError, match="height 64"):
        runner.check_comparable("rgb", dataclasses.replace(model, height=64), model)


def test_cases_hold_what_another_system_needs(tmp_path):
    clip = _Clips().clip(1)
    case = other_videos.export_case(tmp_path, clip, 15.0)
    assert case["id"] == "room-1-walk" and case["frames"] == 3 and json.dumps(case)
    cameras = pose_files.load(str(tmp_path / case["id"] / "cameras.json"), height=128, width=128).camera
    np.testing.assert_array_equal(np.asarray(cameras.cam2world), clip.cam2world)
    assert (tmp_path / case["id"] / "first.png").read_bytes()[:4] == b"\x89PNG"


def test_videos_of_other_systems_are_found_and_bad_ones_named(tmp_path):
    clips, sources = _Clips(), _Clips.names
    frames = [clips.clip(i).frames for i in range(5)]
    viz.write_video(tmp_path / "ours" / "room-0-walk.mp4", frames[0])
    viz.write_video(tmp_path / "theirs" / "room-0-walk.mp4", np.concatenate([frames[0]] * 2))
    viz.write_video(tmp_path / "theirs" / "room-1-walk.mp4", frames[1][:2])
    viz.write_video(tmp_path / "theirs" / "room-2-walk.mp4", frames[2][:, :, :30])
    (tmp_path / "theirs" / "room-3-walk.mp4").write_bytes(b"no video")
    (tmp_path / "notes").mkdir()
    systems = other_videos.find_systems(tmp_path, sources)
    assert list(systems) == ["ours", "theirs"]
    assert len(other_videos.load("theirs", systems["theirs"], clips.clip(0))) == 3, "cut to the clip"
    for number, message in (
        (1, "has 2 frames, the clip 3"),
        (2, "30x128 pixels, the clip 128x128"),
        (3, "cannot read"),
    ):
        with pytest.raises(UserError, match=message):
            other_videos.load("theirs", systems["theirs"], clips.clip(number))
    with pytest.raises(UserError, match=r"no video .*room-4-walk\.mp4"):
        other_videos.load("theirs", systems["theirs"], clips.clip(4))
    alone = other_videos.find_systems(tmp_path / "ours", sources)
    assert alone == {"ours": tmp_path / "ours"}
    with pytest.raises(UserError, match="no video of any of the 5 clips"):
        other_videos.find_systems(tmp_path / "notes", sources)


def test_the_score_of_a_folder_counts_what_it_refuses(tmp_path, monkeypatch):
    clip = _Clips().clip(0)
    monkeypatch.setattr(video, "score", lambda frames, clip: {"reconstruction": Scores({"psnr": 9.0}, {})})
    viz.write_video(tmp_path / "ours" / "room-0-walk.mp4", clip.frames)
    viz.write_video(tmp_path / "theirs" / "room-0-walk.mp4", clip.frames[:1])
    refused = []
    rows = other_videos.score(other_videos.find_systems(tmp_path, [clip.source]), clip, refused)
    assert {row["method"] for row in rows} == {"ours"} and len(refused) == 1 and "theirs" in refused[0]


class _Numbers:
    """A split of ten clips, each its own number."""

    def __init__(self, *_):
        pass

    def __len__(self):
        return 10

    def clip(self, index):
        return index


@pytest.mark.parametrize(
    ("most", "wanted"), [(4, [0, 2, 5, 7]), (10, [*range(10)]), (99, [*range(10)]), (None, [*range(10)])]
)
def test_some_of_a_split_are_spread_over_it(monkeypatch, most, wanted):
    monkeypatch.setattr(runner.data, "load_source", _Numbers)
    clips = runner.Clips("folder", ["one", "two"], [most, 1])
    assert [clips.clip(number) for number in range(len(clips))] == [*wanted, 0]


def test_numbers_of_clips_are_for_all_splits_or_for_each():
    assert runner.most_of(None, 2) == [None, None]
    assert runner.most_of(["7"], 2) == [7, 7]
    assert runner.most_of(["64", "32"], 2) == [64, 32]


@pytest.mark.parametrize("texts", [["0"], ["-1"], ["a"], ["1", "2", "3"], [], ["1", ""], ["1.5"]])
def test_numbers_of_clips_that_are_none_are_refused(texts):
    with pytest.raises(UserError, match=r"--clips .*: expected a number of clips from 1 on, or one for each of the 2"):
        runner.most_of(texts, 2)

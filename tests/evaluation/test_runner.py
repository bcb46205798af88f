"""Results clip by clip: a killed run goes on, parts make a whole."""

import dataclasses

import numpy as np
import pytest

from experiments.evaluation import runner
from mirage_jax.errors import UserError
from mirage_jax.evaluation.scores import Scores
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
    for first in (1, 0):
        list(runner.run(tmp_path, _Clips(), range(first, 5, 2), _score, 15))
    assert _files(tmp_path) == _files(whole)


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
    clip = analytic.scene(0, frames=13, height=32, width=32)
    assert len(runner.whole_segments(clip, model)) == 9
    with pytest.raises(UserError, match="a segment of the model takes 9"):
        runner.whole_segments(clip[:7], model)
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

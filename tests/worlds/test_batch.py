"""Which tries a job has, and what becomes of those that fail, with a renderer made of arrays."""

import collections
import dataclasses
import json

import numpy as np
import pytest

from experiments.worlds import batch
from experiments.worlds.part import build
from mirage_jax.errors import UserError
from tests import analytic


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job(batch.Job):
    """Renders an analytic scene at its last venue, and only from its last try on."""

    TRIES = 3
    VENUES = 4
    fails: int  # tries that give nothing

    def draw(self):
        return np.random.default_rng(self.seed), ("cave", "hall")

    def render(self, venue, seed):
        tried.append((venue, seed))
        if len(tried) <= self.fails:
            raise batch.RejectedError("too dark" if venue == "cave" else "too bright")
        clip = analytic.scene(0, frames=self.frames, height=self.size, width=self.size)
        return dataclasses.replace(clip, source=f"{venue}/{self.index}"), {"depth": 0.001}


tried = []


@pytest.fixture(autouse=True)
def _afresh():
    tried.clear()


def job(**changes):
    return Job(**{"index": 0, "seed": 1, "split": "train", "frames": 9, "size": 16, "fails": 0} | changes)


def test_the_first_venue_has_its_tries_then_the_next():
    rendered = batch.render_one(job(fails=4))
    seeds = np.random.default_rng(1).integers(1 << 31, size=5)
    assert tried == list(zip(["cave"] * 3 + ["hall"] * 2, seeds.tolist(), strict=True))
    assert rendered.clip is not None and rendered.clip.source == "hall/0" and rendered.residuals == {"depth": 0.001}
    assert rendered.rejected == {"too dark": 3, "too bright": 1}


def test_a_job_without_a_clip_has_gone_round_its_venues():
    rendered = batch.render_one(job(fails=99))
    assert [venue for venue, _ in tried] == ["cave"] * 3 + ["hall"] * 3 + ["cave"] * 3 + ["hall"] * 3
    assert rendered.clip is None and rendered.rejected == {"too dark": 6, "too bright": 6}


def world(fails):
    """Of jobs with so many tries each that give nothing."""
    return batch.World(
        name="analytic",
        jobs=lambda split, clips, **sizes: [job(index=i, split=split, fails=fails(i), **sizes) for i in range(clips)],
        settings={},
        counts=lambda good: {"by_split": dict(collections.Counter(outcome.job.split for outcome in good))},
        licence="none",
        description="rooms",
    )


def _each_afresh(monkeypatch):
    one = batch.render_one
    monkeypatch.setattr(batch, "render_one", lambda job: (tried.clear(), one(job))[1])


def test_a_report_counts_what_failed(rendering_here, monkeypatch, tmp_path):
    _each_afresh(monkeypatch)
    with rendering_here():
        part = build(world(lambda i: {0: 99, 1: 2}.get(i, 0)), tmp_path, "train", clips=10, seed=3, frames=9, size=16)
    report = json.loads((part / "report.json").read_text())
    assert report["clips"] == {"written": 9, "failed": 1, "tries": 9 + 12 + 2, "by_split": {"train": 9}}
    assert report["rejected"] == {"too dark": 8, "too bright": 6} and report["rejected_share"] == round(14 / 23, 4)
    assert report["residual_percentiles"] == {"depth": {"50": 0.001, "90": 0.001, "100": 0.001}}
    assert report["config"]["seed"] == 3 and report["licence"] == "none"


def test_a_part_that_loses_too_many_clips_is_not_written(rendering_here, monkeypatch, tmp_path):
    _each_afresh(monkeypatch)
    reasons = "12 x too dark, 12 x too bright"
    with rendering_here(), pytest.raises(UserError, match=f"^2 of 10 clips failed every try: {reasons}$"):
        build(world(lambda i: 99 if i < 2 else 0), tmp_path / "out", "train", clips=10, seed=0, frames=9, size=16)
    assert not list((tmp_path / "out").glob("**/*"))

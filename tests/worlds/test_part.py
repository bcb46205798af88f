"""Parts of data sets: rendered on other processes, read back, and what a killed build leaves."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from experiments.worlds.doom import engine, jobs, splits
from experiments.worlds.doom.jobs import WORLD
from experiments.worlds.part import build
from mirage_jax import data
from mirage_jax.data.clip import check
from mirage_jax.errors import UserError


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    out = tmp_path_factory.mktemp("doom")
    seen = []
    part = build(WORLD, out, "validation", clips=3, seed=7, frames=9, size=32, workers=2, progress=seen.append)
    return out, part, seen


def test_clips_come_back_as_rendered(built):
    out, part, seen = built
    assert part == out / "validation" / "part-0007" and not list(part.parent.glob(".*"))
    source = data.load_source(out, "validation")
    assert len(source) == 3
    rendered = {outcome.clip.source: outcome.clip for outcome in seen}
    for index in range(3):
        clip = source.clip(index)
        check(clip)
        for name, value in rendered[clip.source].arrays().items():
            np.testing.assert_array_equal(value, getattr(clip, name), err_msg=name)
        assert clip.caption == rendered[clip.source].caption


def test_report_counts_everything(built):
    report = json.loads((built[1] / "report.json").read_text())
    clips = report["clips"]
    assert clips["written"] == 3 and clips["failed"] == 0
    assert clips["tries"] == 3 + sum(report["rejected"].values())
    assert sum(clips["by_kind"].values()) == sum(clips["by_map"].values()) == 3
    assert set(clips["by_map"]) <= {"MAP19", "MAP20"}
    assert report["config"]["seed"] == 7 and "vizdoom" in report["versions"] and "BSD" in report["licence"]
    assert report["residual_percentiles"]["depth"]["100"] <= report["bounds"]["depth"]


def test_parts_are_added_never_replaced(built):
    with pytest.raises(UserError, match="exists already"):
        build(WORLD, built[0], "validation", clips=1, seed=7, frames=9, size=32)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"frames": 6}, "4k \\+ 1"), ({"clips": 0}, "--clips 0"), ({"split": "dev"}, "--split is 'dev'")],
)
def test_bad_requests_write_nothing(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        build(WORLD, tmp_path / "d", **{"split": "train", "clips": 1, "seed": 0, **change})
    assert not (tmp_path / "d").exists()


def test_jobs_are_spread_evenly():
    listed = jobs.jobs("train", 120, seed=1, frames=9, size=32)
    assert sorted(job.index for job in listed) == list(range(120))
    assert all(sum(job.kind == kind for job in listed) == 24 for kind in {job.kind for job in listed})
    assert sum(job.moving for job in listed) == 30
    assert listed == jobs.jobs("train", 120, seed=1, frames=9, size=32)
    assert listed != jobs.jobs("train", 120, seed=2, frames=9, size=32)


def test_kinds_of_path_can_be_chosen():
    listed = jobs.jobs("train", 10, seed=1, frames=9, size=32, kinds=("loop", "turn"))
    assert sorted(job.kind for job in listed) == ["loop"] * 5 + ["turn"] * 5
    with pytest.raises(UserError, match="--kinds is loop,jump, expected some of walk"):
        jobs.jobs("train", 10, seed=1, frames=9, size=32, kinds=("loop", "jump"))


def test_maps_of_another_game_are_drawn_from_that_game_alone(monkeypatch):
    monkeypatch.setattr(engine, "_FREEDM", engine.iwad("MAP08")[0])  # which need not be installed
    listed = jobs.jobs("train", 52, seed=1, frames=9, size=32, game="freedm")
    assert {job.map_name for job in listed} == set(splits.FREEDM)


def test_a_game_that_is_not_installed_is_said_at_once(monkeypatch, tmp_path):
    monkeypatch.setattr(engine, "_FREEDM", tmp_path / "freedm.wad")
    with pytest.raises(UserError, match=r"freedm\.wad.*apt-get install freedm"):
        build(WORLD, tmp_path / "out", "train", clips=1, seed=0, frames=9, game="freedm")
    assert not (tmp_path / "out").exists()


def games(folder):
    """Command lines of running games whose settings are below a folder."""
    found = []
    for process in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(process.read_bytes().decode(errors="replace"))
        except OSError:  # it has ended
            continue
    return [line for line in found if str(folder) in line and "-iwad" in line]


def wait_until(condition):
    deadline = time.monotonic() + 120
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert condition()


def test_a_killed_build_leaves_no_game_and_can_be_repeated(rendering_here, tmp_path):
    code = (
        "from experiments.worlds.part import build\n"
        "from experiments.worlds.doom.jobs import WORLD\n"
        "if __name__ == '__main__':\n"
        f"    build(WORLD, {str(tmp_path)!r}, 'train', clips=500, seed=0, frames=9, size=32, workers=1)\n"
    )
    script = tmp_path / "build.py"
    script.write_text(code)
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, script], env=environment, stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: games(tmp_path))
        process.send_signal(signal.SIGKILL)
    wait_until(lambda: not games(tmp_path))
    assert [path.name for path in (tmp_path / "train").iterdir()] == [".part-0000.unfinished"]
    with rendering_here():
        build(WORLD, tmp_path, "train", clips=1, seed=0, frames=9, size=32)
    assert [path.name for path in (tmp_path / "train").iterdir()] == ["part-0000"]

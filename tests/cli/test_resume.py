"""Long videos: host memory does not grow with them, path lengths share a program, and what is killed goes on."""

import dataclasses
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import PIL.Image
import pytest
from commands import run

from mirage_jax import viz, weights

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "world"))
import tiny_world

ROOT = pathlib.Path(__file__).parents[2]
SIZE, SEGMENTS, EVERY = 64, 500, 10
WALK = "yaw 90; forward 0.5; back; yaw -60"
REFUSED = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A picture and a model whose pictures are large for its few weights."""
    path = tmp_path_factory.mktemp("long")
    PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)).save(path / "room.png")
    tiny = tiny_world.quick()
    model = dataclasses.replace(tiny, height=SIZE, width=SIZE)
    weights.save(path / "model", model, tiny_world.random_parameters(model))
    return path


def arguments(folder, out, segments, *more):
    frames = 1 + segments * tiny_world.quick().segment_frames
    given = {"image": folder / "room.png", "checkpoint": folder / "model", "trajectory": WALK, "out": folder / out}
    return [f"--{name}={value}" for name, value in (given | {"frames": frames, "steps": 1}).items()] + list(more)


class Process:
    """`generate` as a program of its own, watched through what it leaves in its folder."""

    def __init__(self, folder, out, segments, *more):
        self.unfinished = folder / out / "unfinished"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "experiments.generate", *arguments(folder, out, segments, *more)],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait_for_part(self, count):
        while not (self.unfinished / f"part-{count - 1:05d}.json").exists():
            assert self.process.poll() is None, self.process.stdout.read()
            time.sleep(0.002)

    def memory(self):
        """MiB it has in memory."""
        pages = int(pathlib.Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def finish(self):
        output = self.process.communicate()[0]
        assert self.process.returncode == 0, output
        return output


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_500_segments_take_no_more_memory_than_100_and_are_the_same_after_kill_9(folder):
    bounded = "--capacity=2048"
    whole = Process(folder, "whole", SEGMENTS, bounded)
    whole.wait_for_part(10)
    early = whole.memory()
    whole.wait_for_part(48)
    late = whole.memory()
    whole.finish()
    kept = (480 - 100) * tiny_world.quick().segment_frames * SIZE * SIZE * 3 / 2**20  # were they kept
    assert kept > 15 and late - early < kept / 3, (early, late, kept)

    rng, killed = random.Random(os.getpid()), "killed"
    part = rng.randrange(2, 45)
    first = Process(folder, killed, SEGMENTS, bounded)
    first.wait_for_part(part)
    time.sleep(rng.random() * 0.2)
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    assert not (folder / killed / "video.mp4").exists()
    output = Process(folder, killed, SEGMENTS, bounded, "--resume").finish()
    report = json.loads((folder / killed / "report.json").read_text())
    assert part - 1 <= report["resumed_after_segments"] / EVERY <= part + 5, (part, report["resumed_after_segments"])
    assert f"going on after {report['resumed_after_segments']} of {SEGMENTS} segments" in output
    expected = json.loads((folder / "whole" / "report.json").read_text())
    assert expected["resumed_after_segments"] == 0 and len(report["segments"]) == SEGMENTS
    assert report["segments"] == expected["segments"] and report["memory"] == expected["memory"]
    frames = viz.read_video(folder / "whole" / "video.mp4")
    assert len(frames) == 1 + SEGMENTS * tiny_world.quick().segment_frames
    np.testing.assert_array_equal(viz.read_video(folder / killed / "video.mp4"), frames)
    for name in ("contact_sheet.png", "memory.ply", "cameras.json"):
        assert (folder / killed / name).read_bytes() == (folder / "whole" / name).read_bytes()
    assert not (folder / killed / "unfinished").exists()


def test_paths_of_other_lengths_share_the_programs_and_no_segment_compiles_its_own(folder):
    one, longer, shorter = run("generate", [arguments(folder, f"length{n}", n) for n in (9, 13, 10)])
    for result in (one, longer, shorter):
        assert result.code == 0, result.err
    assert one.compiled.count("_segment") == one.compiled.count("_observe") == 1
    assert longer.compiled == shorter.compiled == []


@pytest.fixture
def stopped(folder, tmp_path):
    """A folder in which a run of four segments was killed after the second."""
    process = Process(folder, tmp_path, 4, "--save_every=1", "--seed=3")
    while not (tmp_path / "unfinished" / "world.safetensors").exists():
        assert process.process.poll() is None, process.process.stdout.read()
        time.sleep(0.001)
    process.process.send_signal(signal.SIGKILL)
    process.process.wait()
    assert not (tmp_path / "video.mp4").exists()
    return tmp_path


def test_what_was_stopped_is_neither_lost_nor_mixed_with_another_run(folder, stopped):
    def call(*more, segments=4):
        return arguments(folder, stopped, segments, "--save_every=1", *more)

    results = run(
        "generate",
        [
            call("--seed=3"),
            call("--resume", "--seed=4"),
            call("--resume", "--seed=3", segments=5),
            call("--resume", "--seed=3", "--dry_run"),
            call("--resume", "--seed=3"),
            call("--resume", "--seed=3"),
        ],
    )
    sentences = (
        "holds a video that was not finished: give --resume to go on with it",
        "--resume: --seed is 4, in the run that was stopped it was 3",
        "--resume: --frames is 21, in the run that was stopped it was 17",
        "give one of them",
    )
    for result, sentence in zip(results[:4], sentences, strict=True):
        assert result.code == REFUSED and sentence in result.err, result.err
    assert results[4].code == 0, results[4].err
    assert len(viz.read_video(stopped / "video.mp4")) == 17
    assert results[5].code == REFUSED and "holds a finished video, and nothing unfinished" in results[5].err
    assert (stopped / "video.mp4").exists()


def test_a_save_that_is_not_whole_is_named(folder, stopped):
    (stopped / "unfinished" / "part-00000.mp4").unlink()
    (result,) = run("generate", [arguments(folder, stopped, 4, "--save_every=1", "--seed=3", "--resume")])
    assert result.code == REFUSED and "part-00000.mp4 is missing" in result.err


def test_with_nothing_saved_resume_begins_anew_and_a_loaded_world_goes_on_by_its_recipe(folder, tmp_path):
    world = tmp_path / "world.safetensors"
    common = ["--trajectory=yaw 20", f"--checkpoint={folder}/model"]
    first, other, again = run(
        "generate",
        [
            arguments(folder, tmp_path / "a", 2, "--resume", "--recipe=release", "--steps=3", f"--save_world={world}"),
            [*common, f"--out={tmp_path}/b", f"--load_world={world}", "--recipe=default", "--frames=9"],
            [*common, f"--out={tmp_path}/b", f"--load_world={world}", "--frames=9"],
        ],
    )
    assert first.code == 0, first.err
    assert json.loads((tmp_path / "a" / "report.json").read_text())["resumed_after_segments"] == 0
    assert other.code == REFUSED and "made by a recipe with overlap 'reencode', recipe 'default' has" in other.err
    assert again.code == 0, again.err

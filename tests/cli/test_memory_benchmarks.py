"""`wrbench` and `memobench` as a person meets them: tried without a model, made, killed, resumed, checked, refused."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import PIL.Image
import pytest
from commands import run

from experiments.memobench import samples as memobench
from experiments.wrbench import samples as wrbench
from mirage_jax import viz, weights

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "world"))
import tiny_world

ROOT = pathlib.Path(__file__).parent.parent.parent
REFUSED = 2
FRAMES = 9
LOOK_AWAY, STILL = "bedroom_cat_bed_jump__T0__none__yaw_LR_60", "bedroom_cat_bed_jump__T0__none__static"
SYNTHETIC, REAL = "Synthetic/Barnyard/Barnyard_005", "Real/001"
POSES = "data/Synthetic_processed/Barnyard/Barnyard_005/5/poses.npy"
VARIANTS = "releases/paper_main_20260608/variants.local_ti2v_tv2v.jsonl"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Data sets, whole and not, and a tiny model that reads no text."""
    path = tmp_path_factory.mktemp("benchmarks")
    wrbench.write_sample_dataset(path / "wrbench")
    memobench.write_sample_dataset(path / "memobench")
    shutil.copytree(path / "memobench", path / "bare")
    np.save(path / "bare" / POSES, np.zeros((3, 4, 4)))
    (path / "bare" / "data" / "Real_Raw" / "001" / "FRAMES" / "frame_0001.jpg").unlink()
    shutil.copytree(path / "wrbench", path / "odd")
    with (path / "odd" / VARIANTS).open("a") as file:
        file.write('{"variant_id": 3}\n')
    model = tiny_world.quick()
    weights.save(path / "model", model, tiny_world.random_parameters(model))
    return path


def arguments(folder, benchmark, out, *more):
    common = (f"--frames={FRAMES}", "--steps=1", f"--checkpoint={folder}/model")
    return [f"--dataset={folder}/{benchmark}", f"--out={folder}/{benchmark}_{out}", *common, *more]


def dry(folder, benchmark, out):
    return [argument for argument in arguments(folder, benchmark, out, "--dry_run") if "--dataset" not in argument]


CASES = {
    "wrbench": {
        "no data set": (["--dataset={}/nowhere"], "expected a checkout of WRBench"),
        "unknown camera": (["--cameras=yaw_LR_90"], "unknown 'yaw_LR_90', expected some of static, yaw_LR_30"),
        "no camera": (["--cameras="], "names none"),
        "few frames": (["--frames=3"], "expected at least 4"),
        "no text": (["--tokenizer={}/x"], "was trained without text; leave the flag out"),
        "other results": (["--out={}/wrbench_made", "--seed=1"], "holds results of another evaluation: seed was 0"),
        "dry results": (["--out={}/wrbench_dry"], "holds results of another evaluation: dry_run was True"),
    },
    "memobench": {
        "no data set": (["--dataset={}/nowhere"], "expected a checkout of MemoBench"),
        "unknown split": (["--split=Real"], "unknown 'Real', expected some of synthetic, real"),
        "few frames": (["--frames=5"], "expected at least 6"),
        "no scale": (["--path_scale=nan"], "expected metres a unit"),
        "other scale": (
            ["--out={}/memobench_made", "--path_scale=1"],
            "another evaluation: path_scale was None, now 1",
        ),
    },
}


@pytest.fixture(scope="module")
def results(folder):
    """Calls of both commands by name, each command's in one process."""
    found = {}
    for benchmark in CASES:
        calls = {
            "none": [f"--out={folder}/none"],
            "dry": dry(folder, benchmark, "dry"),
            "dry again": dry(folder, benchmark, "dry"),
            "made": arguments(folder, benchmark, "made", *(["--cameras=static,yaw_LR_60"] * (benchmark == "wrbench"))),
            "check": arguments(folder, benchmark, "made", "--check"),
        }
        if benchmark == "wrbench":
            calls["odd"] = [*arguments(folder, "odd", "out", "--cameras=static"), "--dry_run"]
            calls["two"] = arguments(folder, benchmark, "nothing", "--check", "--samples=2")
        else:
            calls["bare"] = arguments(folder, "bare", "out")
            calls["check bare"] = arguments(folder, "bare", "out", "--check")
        for name, (given, _) in CASES[benchmark].items():
            given = [argument.replace("{}", str(folder)) for argument in given]
            calls[name] = [*arguments(folder, benchmark, "refused"), *given]
        found |= {
            (benchmark, name): result for name, result in zip(calls, run(benchmark, list(calls.values())), strict=True)
        }
    return found


@pytest.mark.parametrize("benchmark, case", [(benchmark, case) for benchmark in CASES for case in CASES[benchmark]])
def test_wrong_input_is_one_sentence(results, benchmark, case):
    result = results[benchmark, case]
    assert result.code == REFUSED, result.err
    assert result.err.splitlines()[-1].startswith("error: ") and "Traceback" not in result.err
    assert CASES[benchmark][case][1] in result.err


@pytest.mark.parametrize("benchmark", CASES)
def test_without_a_data_set_there_is_a_dry_run_only(results, benchmark):
    assert results[benchmark, "none"].code == REFUSED and "there is only --dry_run" in results[benchmark, "none"].err
    for name in ("dry", "dry again"):
        assert results[benchmark, name].code == 0, results[benchmark, name].err
        assert not [program for program in results[benchmark, name].compiled if "segment" in program]


def test_a_dry_run_has_the_layout_and_holds_the_first_picture_still(folder, results):
    listed = json.loads((folder / "wrbench_dry" / "videos.json").read_text())
    assert len(listed) == 10 and len({row["video_id"] for row in listed}) == 10
    for row in listed:
        frames = viz.read_video(row["path"])
        assert len(frames) == FRAMES and np.abs(frames.astype(int) - frames[0]).max() < 20  # of the coding
        assert np.load(row["target_pose_path"]).shape == (FRAMES, 4, 4)
    for clip in (SYNTHETIC, REAL):
        files = sorted((folder / "memobench_dry" / clip / "frames").iterdir())
        frames = np.stack([np.asarray(PIL.Image.open(file)) for file in files])
        assert len(frames) == FRAMES
        np.testing.assert_array_equal(frames, np.broadcast_to(frames[0], frames.shape))


def test_videos_are_made_and_follow_their_cameras(folder, results):
    assert results["wrbench", "made"].code == 0, results["wrbench", "made"].err
    assert "4 of 4 samples" in results["wrbench", "made"].out and "reads no text" in results["wrbench", "made"].out
    videos = folder / "wrbench_made" / "mirage_jax" / "videos"
    away, still = (viz.read_video(videos / f"{name}.mp4").astype(int) for name in (LOOK_AWAY, STILL))
    assert away.shape == still.shape == (FRAMES, tiny_world.SIZE, tiny_world.SIZE, 3)
    assert np.abs(away[1:] - still[1:]).max() > 20
    assert results["memobench", "made"].code == 0, results["memobench", "made"].err
    assert "2 of 2 samples" in results["memobench", "made"].out
    for clip in (SYNTHETIC, REAL):
        files = sorted((folder / "memobench_made" / clip / "frames").iterdir())
        frames = np.stack([np.asarray(PIL.Image.open(file)) for file in files])
        assert frames.shape == (FRAMES, tiny_world.SIZE, tiny_world.SIZE, 3) and np.any(frames[1:] != frames[0])


def test_check_counts_what_is_finished(results):
    assert results["memobench", "check"].code == 0 and "2 finished, 0 left" in results["memobench", "check"].out
    assert results["wrbench", "check"].code == 0 and "4 finished, 6 left" in results["wrbench", "check"].out
    assert "2 samples: 0 finished, 2 left" in results["wrbench", "two"].out


def test_a_sample_that_cannot_be_made_is_named_and_the_others_go_on(folder, results):
    assert results["wrbench", "odd"].code == REFUSED
    assert "line 4, camera static: expected a text 'variant_id', found 3" in results["wrbench", "odd"].err
    assert "error: 1 of 3 samples could not be made" in results["wrbench", "odd"].err
    assert len(json.loads((folder / "odd_out" / "videos.json").read_text())) == 2
    bare = results["memobench", "bare"]
    assert bare.code == REFUSED and "error: 2 of 2 samples could not be made" in bare.err
    assert f"not made: {SYNTHETIC}: " in bare.err and "not the poses of a camera" in bare.err
    assert f"not made: {REAL}: no file" in bare.err
    assert results["memobench", "check bare"].code == REFUSED
    assert f"{REAL}: no file" in results["memobench", "check bare"].err


def test_a_killed_run_leaves_whole_results_and_goes_on(folder):
    """Of 40 clips, killed when the first is there."""
    dataset, out = folder / "many", folder / "many_out"
    memobench.write_sample_dataset(dataset)
    file = dataset / "data" / "sam3_metadata" / "real_metadata.csv"
    head, line = file.read_text().splitlines()
    file.write_text("\n".join([head, *(line.replace('"1"', f'"{number}"') for number in range(1, 41))]))
    for number in range(2, 41):
        clip = dataset / "data" / "Real_Raw" / f"{number:03d}" / "raw" / f"{number:03d}_mapanything.npz"
        clip.parent.mkdir(parents=True)
        shutil.copy(dataset / "data" / "Real_Raw" / "001" / "raw" / "001_mapanything.npz", clip)
    given = [f"--dataset={dataset}", f"--out={out}", "--split=real", "--dry_run", "--frames=40"]
    command = [sys.executable, "-m", "experiments.memobench", *given, f"--checkpoint={folder}/model"]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE)
    while process.poll() is None and not list(out.glob("Real/*/frames/00001.png")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    error = process.communicate()[1]
    assert (out / "Real").is_dir(), error
    made = sorted(path.name for path in (out / "Real").iterdir())
    assert 0 < len(made) < 40, "the run was over before it was killed"
    assert all(len(list((out / "Real" / name / "frames").iterdir())) == 40 for name in made)
    times = {name: (out / "Real" / name).stat().st_mtime_ns for name in made}
    (result,) = run("memobench", [[*given, f"--checkpoint={folder}/model"]])
    assert result.code == 0 and "40 of 40 samples" in result.out, result.err
    assert len(list(out.glob("Real/*/frames/*.png"))) == 40 * 40 and not (out / ".unfinished").exists()
    assert {name: (out / "Real" / name).stat().st_mtime_ns for name in made} == times  # not made again

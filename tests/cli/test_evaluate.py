"""`build_dataset` and `evaluate` as a person uses them: render a held-out clip, score the shipped model on it."""

import csv
import json

import pytest
from commands import run

from experiments.evaluation import runner
from mirage_jax import viz
from mirage_jax.data import load_source


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A clip that looks away and comes back, in `doom`, a short one in `short`, and videos of the short one."""
    path = tmp_path_factory.mktemp("evaluate")
    flags = ["--dataset=doom", "--split=validation", "--clips=1", "--seed=5", "--workers=1"]
    built = run(
        "build_dataset",
        [
            [*flags, f"--out={path}/doom", "--kinds=look_away"],
            [*flags, f"--out={path}/short", "--kinds=walk", "--frames=9"],
        ],
    )
    assert [result.code for result in built] == [0, 0], built[0].err + built[1].err
    clip = load_source(str(path / "short"), "validation").clip(0)
    name = f"{runner.clip_id(clip.source)}.mp4"
    viz.write_video(path / "videos" / "exact" / name, clip.frames)
    viz.write_video(path / "videos" / "short" / name, clip.frames[:7])
    viz.write_video(path / "bad" / name, clip.frames[:7])
    return path


@pytest.fixture(scope="module")
def results(folder):
    """Every call, all from one process, by name."""
    clips, short = ([f"--data={folder}/{name}", "--split=validation"] for name in ("doom", "short"))
    videos = [*short, f"--videos={folder}/videos", f"--out={folder}/scores"]
    chosen = ["--protocol=returns", "--methods=latent,readout,flat", "--steps=1", "--segment=16"]
    calls = {
        "wrong": [*clips, "--protocol=returns", "--methods=latent,cubist", f"--out={folder}/a"],
        "unknown": ["--data=nowhere", "--protocol=vae", f"--out={folder}/b"],
        "returns": [*clips, *chosen, f"--out={folder}/returns"],
        "export": [*short, f"--export_cases={folder}/cases"],
        "scored": videos,
        "again": videos,
        "none": [*short, f"--videos={folder}/bad", f"--out={folder}/none"],
        "alone": [*short, "--protocol=vae"],
        "mixed": [*videos, "--protocol=vae"],
        "plain": [*short, "--part=0/2", f"--out={folder}/part"],
        "context": [*short, "--methods=context", f"--out={folder}/context"],
    }
    return dict(zip(calls, run("evaluate", list(calls.values())), strict=True))


def test_methods_are_scored_on_what_comes_back(folder, results):
    assert results["wrong"].code == results["unknown"].code == 2
    assert "--methods: unknown ['cubist'], expected some of latent" in results["wrong"].err
    assert "nowhere" in results["unknown"].err and results["unknown"].err.count("\n") == 1

    assert results["returns"].code == 0, results["returns"].err
    with (folder / "returns" / "returns.csv").open() as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"latent", "readout", "flat"}
    for row in rows.values():
        assert 5 < float(row["psnr_revisit"]) < 60 and 0 < float(row["lpips_revisit"]) < 1.5
    # The shipped model remembers: on one clip this is an example, the evaluation of the model card is the measurement.
    assert float(rows["latent"]["psnr_returned_cells"]) > float(rows["flat"]["psnr_returned_cells"]) + 1
    assert json.loads((folder / "returns" / "versions.json").read_text())["packages"]["jax"]
    assert (folder / "returns" / "clips" / "000.png").stat().st_size > 1000


def test_cases_go_out_and_videos_come_in(folder, results):
    """Another system's loop: export, make videos (here the truth, and a broken one), score."""
    assert results["export"].code == 0, results["export"].err
    (case,) = json.loads((folder / "cases" / "cases.json").read_text())["cases"]
    name = case["id"]
    assert (folder / "videos" / "exact" / f"{name}.mp4").is_file()
    assert (folder / "cases" / name / "cameras.json").is_file()

    scored, again = results["scored"], results["again"]
    assert scored.code == 0, scored.err
    assert scored.err.count(f"short/{name}.mp4 has 7 frames, the clip 9") == 1 and "not scored: 1 videos" in scored.err
    summary = json.loads((folder / "scores" / "summary.json").read_text())
    assert set(summary["reconstruction"]) == {"exact"} and summary["reconstruction"]["exact"]["psnr"]["mean"] > 30
    assert again.code == 0 and "not scored: 1 videos" in again.err, "looked for again, as it may be there by now"
    assert again.out == scored.out and "reconstruction" in scored.out, "and the same is found"


def test_flags_that_do_not_go_together_are_one_sentence(results):
    for name, sentence in {
        "none": "none of the videos could be scored",
        "alone": "--out",
        "mixed": "not by vae alone",
        "plain": "--part goes with --protocol all only",
        "context": "--checkpoints context=FOLDER",
    }.items():
        assert results[name].code == 2 and sentence in results[name].err, name

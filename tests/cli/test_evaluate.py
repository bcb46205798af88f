"""`build_dataset` and `evaluate` as a person uses them: render a held-out clip, score the shipped model on it."""

import csv
import json

import pytest
from commands import run

from mirage_jax import viz
from mirage_jax.data import load_source
from mirage_jax.evaluation import runner


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """One clip that looks away and comes back."""
    folder = tmp_path_factory.mktemp("doom")
    flags = ["--split=validation", "--clips=1", "--seed=5", "--kinds=look_away", "--workers=1"]
    (result,) = run("build_dataset", [["--dataset=doom", f"--out={folder}", *flags]])
    assert result.code == 0, result.err
    return folder


def test_methods_are_scored_on_what_comes_back(clips, tmp_path):
    common = [f"--data={clips}", "--split=validation"]
    chosen = ["--methods=latent,readout,flat", "--steps=1"]
    wrong, unknown, returns = run(
        "evaluate",
        [
            [*common, "--protocol=returns", "--methods=latent,cubist", f"--out={tmp_path}/a"],
            ["--data=nowhere", "--protocol=vae", f"--out={tmp_path}/b"],
            [*common, "--protocol=returns", *chosen, f"--out={tmp_path}/returns"],
        ],
    )
    assert wrong.code == unknown.code == 2
    assert "--methods: unknown ['cubist'], expected some of latent" in wrong.err
    assert "nowhere" in unknown.err and unknown.err.count("\n") == 1

    assert returns.code == 0, returns.err
    with (tmp_path / "returns" / "returns.csv").open() as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"latent", "readout", "flat"}
    for row in rows.values():
        assert 5 < float(row["psnr_revisit"]) < 60 and 0 < float(row["lpips_revisit"]) < 1.5
    # The shipped model remembers: on one clip this is an example, the evaluation of the model card is the measurement.
    assert float(rows["latent"]["psnr_returned_cells"]) > float(rows["flat"]["psnr_returned_cells"]) + 1
    assert json.loads((tmp_path / "returns" / "versions.json").read_text())["packages"]["jax"]
    assert (tmp_path / "returns" / "clips" / "000.png").stat().st_size > 1000


def test_cases_go_out_and_videos_come_in(clips, tmp_path):
    """Another system's loop: export, make videos (here the truth, and a broken one), score."""
    common = [f"--data={clips}", "--split=validation"]
    source = load_source(str(clips), "validation")
    name = runner.clip_id(source.clip(0).source)
    viz.write_video(tmp_path / "videos" / "exact" / f"{name}.mp4", source.clip(0).frames)
    viz.write_video(tmp_path / "videos" / "short" / f"{name}.mp4", source.clip(0).frames[:7])
    viz.write_video(tmp_path / "bad" / f"{name}.mp4", source.clip(0).frames[:7])
    videos = [*common, f"--videos={tmp_path}/videos", f"--out={tmp_path}/scores"]
    export, scored, again, none, alone, mixed, plain, context = run(
        "evaluate",
        [
            [*common, f"--export_cases={tmp_path}/cases"],
            videos,
            videos,
            [*common, f"--videos={tmp_path}/bad", f"--out={tmp_path}/none"],
            [*common, "--protocol=vae"],
            [*videos, "--protocol=vae"],
            [*common, "--part=0/2", f"--out={tmp_path}/part"],
            [*common, "--methods=context", f"--out={tmp_path}/context"],
        ],
    )
    assert export.code == 0, export.err
    (case,) = json.loads((tmp_path / "cases" / "cases.json").read_text())["cases"]
    assert case["id"] == name and (tmp_path / "cases" / name / "cameras.json").is_file()

    assert scored.code == 0, scored.err
    assert scored.err.count(f"short/{name}.mp4 has 7 frames, the clip 65") == 1 and "not scored: 1 videos" in scored.err
    summary = json.loads((tmp_path / "scores" / "summary.json").read_text())
    assert set(summary["reconstruction"]) == {"exact"} and summary["reconstruction"]["exact"]["psnr"]["mean"] > 30
    assert "not scored: 1 videos" in again.err, "looked for again, as it may be there by now"
    assert again.code == 0 and json.loads((tmp_path / "scores" / "summary.json").read_text()) == summary

    assert none.code == 2 and "none of the videos could be scored" in none.err
    assert alone.code == 2 and "--out" in alone.err
    assert mixed.code == 2 and "not by vae alone" in mixed.err
    assert plain.code == 2 and "--part goes with --protocol all only" in plain.err
    assert context.code == 2 and "--checkpoints context=FOLDER" in context.err

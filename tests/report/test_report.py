"""From results to numbers and pages: intervals, ratios, the worst clips, a page that needs no other file."""

import csv
import io
import json
import re

import numpy as np
import pytest

from experiments import report
from experiments.evaluation import statistics
from experiments.evaluation import summary as tables
from mirage_jax import viz
from mirage_jax.errors import UserError

CLIPS, SEEDS = 12, 3


def _results():
    """Two methods on twelve clips and three seeds; latent is 2 dB better on every clip and seed."""
    random = np.random.default_rng(0)
    results = []
    for number in range(CLIPS):
        rows = []
        for seed in range(SEEDS):
            base = 20 + random.normal()
            for method, plus in (("latent", 2.0), ("none", 0.0)):
                values = {"psnr": base + plus, "ssim": random.uniform(), "lpips": random.uniform()}
                rows.append({"protocol": "reconstruction", "method": method, "seed": seed, "values": values})
                gain = {"psnr_gain": random.uniform(0, 5), "psnr_range": random.uniform(5, 9)}
                rows.append({"protocol": "revisit", "method": method, "seed": seed, "values": gain})
                parts = {"background_psnr": base, **({"object_psnr": base - 5} if number % 2 else {})}
                rows.append({"protocol": "objects", "method": method, "seed": seed, "values": parts})
        for row in rows:
            row["curves"] = {"psnr": [None, 20.0, 21.0]} if row["protocol"] == "reconstruction" else {}
        kind, motion = ("loop", "1-5") if number % 2 else ("orbit", "none")
        results.append({"clip": f"room/{number}/{kind}", "kind": kind, "motion": motion, "rows": rows})
    return results


@pytest.fixture(scope="module")
def results():
    return _results()


@pytest.fixture(scope="module")
def rows(results):
    return tables.rows_of(results)


def test_intervals_are_those_of_the_bootstrap_over_clips(results, rows):
    entry = tables.summarise(rows)["reconstruction"]["latent"]["psnr"]
    values = np.array(
        [
            [r["values"]["psnr"] for r in one["rows"] if (r["protocol"], r["method"]) == ("reconstruction", "latent")]
            for one in results
        ]
    )
    assert values.shape == (CLIPS, SEEDS)
    expected = statistics.bootstrap_mean(values)
    assert (entry["mean"], entry["low"], entry["high"]) == pytest.approx((expected.mean, expected.low, expected.high))
    assert entry["clips"] == CLIPS and entry["seeds"] == SEEDS


def test_differences_are_paired_by_clip(rows):
    paired = tables.summarise(rows)["reconstruction"]["none"]["psnr"]["latent_minus_this"]
    assert paired["mean"] == pytest.approx(2.0) and paired["high"] - paired["low"] < 1e-9


def test_nmr_is_the_ratio_of_means_by_kind_of_path(rows):
    entry = tables.summarise(rows)["revisit"]["latent"]["nmr_psnr"]
    mine = [row for row in rows if row["protocol"] == "revisit" and row["method"] == "latent"]
    gains, ranges = (tables.by_clip(mine, name) for name in ("psnr_gain", "psnr_range"))
    kinds = [[clip for clip in gains if clip.endswith(kind)] for kind in ("loop", "orbit")]
    ratios = [np.mean([gains[c] for c in clips]) / np.mean([ranges[c] for c in clips]) for clips in kinds]
    assert entry["mean"] == pytest.approx(np.mean(ratios))
    assert entry["low"] < entry["mean"] < entry["high"]


def test_masks_are_summed_over_clips():
    rows = [
        {"clip": str(i), "kind": "a", "motion": "none", "protocol": "heads", "method": "heads", "seed": 0}
        | {"sky_intersection": above, "sky_union": below}
        for i, (above, below) in enumerate([(1, 2), (90, 100), (0, 0)])
    ]
    entry = tables.summarise(rows)["heads"]["heads"]
    assert entry["sky_iou"]["mean"] == pytest.approx(91 / 102) and "sky_intersection" not in entry


def test_objects_are_also_shown_by_class_of_motion(rows):
    summary = tables.summarise(rows)
    assert [name for name in summary if name.startswith("objects")] == ["objects", "objects[none]", "objects[1-5]"]
    assert summary["objects[1-5]"]["latent"]["object_psnr"]["clips"] == CLIPS // 2
    assert "object_psnr" not in summary["objects[none]"]["latent"]


def test_the_worst_clip_is_first_whichever_way_is_better(rows):
    for metric, pick in (("psnr", min), ("lpips", max)):
        mine = [row for row in rows if row["protocol"] == "reconstruction" and row["method"] == "none"]
        values = tables.by_clip(mine, metric)
        worst = tables.worst(rows, "reconstruction", "none", metric, 3)
        assert worst[0] == pick(values, key=values.get) and len(worst) == 3
    assert not tables.is_error("lpips_gain") and tables.is_error("lpips_c")


def test_the_report_stands_alone(results, rows, tmp_path):
    out = tmp_path / "out"
    frames = np.random.default_rng(0).integers(0, 255, (5, 32, 32, 3), np.uint8)
    for method in ("truth", "latent"):
        for clip in ("room-0-orbit", "room-3-loop", "room-5-loop"):
            viz.write_video(out / "videos" / "rollout" / method / f"{clip}.mp4", frames)
    one = {"seconds_per_frame": 1e-3, "low": 9e-4, "high": 2e-3, "points": 10, "bytes": 4096}
    efficiency = {"frames": 16, "repeats": 7, "methods": {"latent": [one, one], "rgb": [one, one]}}
    page = tmp_path / "docs" / "evidence.md"
    stale = page.parent / "evidence" / "failures-reconstruction-00-room-9-loop.png"
    stale.parent.mkdir(parents=True)
    kept = stale.with_name("tokens.md")
    for file in (stale, kept):
        file.write_text("old")
    about, commands = ["12 clips."], ["python -m experiments.evaluate"]
    summary = report.write(
        out, results, about=about, commands=commands, efficiency=efficiency, segment=16, repository_page=page
    )

    stored = json.loads((out / "summary.json").read_text())
    assert stored == json.loads((page.parent / "evidence" / "summary.json").read_text()) == summary
    with (out / "clips.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(rows)
    text = (out / "report.html").read_text()
    assert "PSNR" in text and commands[0] in text and "RealEstate10K" in text
    assert re.findall(r'src="(?!data:image/)', text) == [] and "http" not in text and "<script" not in text
    assert text.count("data:image/") >= 4
    assert (out / "side_by_side" / "room-0-orbit.mp4").is_file()
    assert list((out / "failures" / "reconstruction").glob("*room-0-orbit.png"))
    assert kept.exists() and not stale.exists()
    wrong = {film.name.split("-", 1)[0]: film.name.split("-", 1)[1] for film in (out / "wrong").iterdir()}
    assert set(wrong) == {"object_psnr", "background_psnr"}  # one clip each, of those where something moves
    assert set(wrong.values()) == {"room-3-loop.mp4", "room-5-loop.mp4"}
    mine = [row for row in rows if row["protocol"] == "objects" and row["method"] == "latent"]
    look = tables.by_clip(mine, "object_psnr")
    assert wrong["object_psnr"] == f"room-{min((3, 5), key=lambda n: look[f'room/{n}/loop'])}-loop.mp4"
    assert (page.parent / "evidence" / f"wrong-object_psnr-{wrong['object_psnr']}").is_file()
    for file in (out / "report.md", page):
        linked = re.findall(r"\]\(([^)]+)\)", file.read_text())
        assert linked and all((file.parent / name).is_file() for name in linked), file
    entry = summary["reconstruction"]["latent"]["psnr"]
    assert f"{entry['mean']:.3f} [{entry['low']:.3f}, {entry['high']:.3f}] ({CLIPS} x {SEEDS})" in page.read_text()

    # The same page without what goes wrong: no films, no worst clips, and none of those that were there before.
    title = "## What goes wrong with moving objects"
    assert title in page.read_text()
    report.write(
        out, results, about=about, commands=commands, efficiency=efficiency, repository_page=page, page_failures=False
    )
    assert title not in page.read_text() and title in (out / "report.md").read_text()
    beside = {file.name for file in (page.parent / "evidence").iterdir()}
    assert kept.name in beside and not any(name.startswith(("failures-", "wrong-")) for name in beside)
    assert all((page.parent / name).is_file() for name in re.findall(r"\]\(([^)]+)\)", page.read_text()))


def test_ablations_have_tables_of_their_own_and_leave_the_others_as_they_are(results, tmp_path):
    with_one = []
    for result in results:
        ours = [row for row in result["rows"] if row["method"] == "latent" and row["protocol"] == "reconstruction"]
        worse = [
            {
                **row,
                "method": "nearest",
                "values": {k: v - 1 for k, v in row["values"].items()},
                "curves": {"psnr": [1.0]},
            }
            for row in ours
        ]
        with_one.append({**result, "rows": [*result["rows"], *worse]})
    report.write(tmp_path / "without", results, about=[], commands=[])
    summary = report.write(
        tmp_path / "with", with_one, about=[], commands=[], ablations={"nearest": "One cell a point."}
    )
    before, after = ((tmp_path / name / "report.md").read_text() for name in ("without", "with"))
    own = after[after.index("## Ablations") : after.index("## Published figures beside ours")]
    assert after.replace(own, "") == before
    assert "One cell a point." in own and own.count("### ") == 1 and "Reconstruction: ablations" in own
    paired = summary["reconstruction"]["nearest"]["psnr"]["latent_minus_this"]
    assert paired["mean"] == pytest.approx(1.0) and "| nearest | 1.000 [1.000, 1.000] (12) " in own


def test_nothing_to_report_is_said(tmp_path):
    with pytest.raises(UserError, match="no clip has been scored"):
        report.write(tmp_path, [], about=[], commands=[])


def test_rows_without_a_metric_leave_its_column_empty(rows):
    table = list(csv.DictReader(io.StringIO(tables.to_csv(rows))))
    assert {row["psnr_gain"] == "" for row in table if row["protocol"] == "reconstruction"} == {True}

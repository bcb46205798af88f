"""`build_dataset` on a person's own scenes, and then on its result: posed clips, coded clips."""

import json
import pathlib
import sys

import numpy as np
from commands import run

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "worlds"))
from test_posed_folder import noise, realestate

from mirage_jax.data import latents


def test_from_scenes_to_latents(tmp_path):
    scenes, posed = tmp_path / "scenes", tmp_path / "posed"
    scenes.mkdir()
    realestate(scenes, "good", noise(0, 9))
    realestate(scenes, "short", noise(0, 3))
    common = ["--dataset=posed", "--split=train", "--validation_share=0", "--frames=9", "--size=32"]
    nowhere, unknown, refused, built, coded = run(
        "build_dataset",
        [
            [*common, f"--out={tmp_path / 'a'}"],
            [*common, f"--out={tmp_path / 'a'}", f"--source={scenes}", "--bounds=colour=0.1"],
            [*common, f"--out={tmp_path / 'a'}", f"--source={scenes}", "--bad_scenes=0"],
            [*common, f"--out={posed}", f"--source={scenes}", "--bounds=depth=0.1,photometric=0.5"],
            ["--dataset=latents", f"--source={posed}", f"--out={tmp_path / 'latents'}", "--split=train"],
        ],
    )
    assert (nowhere.code, unknown.code, refused.code) == (2, 2, 2)
    assert "--source" in nowhere.err and nowhere.err.count("\n") == 1
    assert "--bounds: found 'colour=0.1', expected NAME=NUMBER with a name of photometric, depth" in unknown.err
    assert "error: 1 bad scenes, more than --bad_scenes=0: short (it has 3 frames" in refused.err
    assert not (tmp_path / "a").exists()

    assert built.code == 0, built.err
    assert built.out.endswith(f"\nwrote {posed / 'train' / 'part-0000'}\n") and "scenes" in built.err
    report = json.loads((posed / "train" / "part-0000" / "report.json").read_text())
    assert report["clips"]["written"] == 1 and list(report["scenes"]["bad"]) == ["short"]
    assert report["bounds"] == {"photometric": 0.5, "depth": 0.1, "contradiction": 0.3, "overlap": 0.2}

    assert coded.code == 0, coded.err
    (sample,) = latents.load_source(tmp_path / "latents", "train")
    assert sample["latents"].shape[0] == 9 and np.isfinite(sample["latents"]).all()
    assert not sample["depth"].any() and sample["source"].decode() == "posed/good/frame000000"

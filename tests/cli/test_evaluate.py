"""`build_dataset` and `evaluate` as a person uses them: render a held-out clip, score the shipped model on it."""

import csv
import json

import pytest
from commands import run


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

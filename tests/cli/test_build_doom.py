"""`build_dataset` on maps that are changed first: both changes, each alone, neither."""

import json

import pytest
from commands import run

from mirage_jax.data import load_source

CHANGES = {"restyled": "style6", "stretched": "shape6"}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Folder of a data set of one clip, by the flags of the changes that its map has."""
    out = tmp_path_factory.mktemp("doom")
    chosen = [(), ("restyled",), ("stretched",), ("restyled", "stretched")]
    folders = {names: out / "_".join(("map", *names)) for names in chosen}
    common = ["--dataset=doom", "--seed=6", "--clips=1", "--frames=9", "--size=32", "--kinds=turn", "--workers=1"]
    results = run(
        "build_dataset", [[*common, f"--out={folders[names]}", *(f"--{name}" for name in names)] for names in chosen]
    )
    assert [result.code for result in results] == [0] * 4, results[-1].err
    return folders


def test_a_clip_and_its_report_say_how_the_map_was_changed(parts):
    for names, folder in parts.items():
        source = load_source(folder, "train").clip(0).source
        assert [part for part in source.split("/") if part in CHANGES.values()] == [CHANGES[name] for name in names]
        report = json.loads((folder / "train" / "part-0006" / "report.json").read_text())
        assert {name: report["config"][name] for name in CHANGES} == {name: name in names for name in CHANGES}

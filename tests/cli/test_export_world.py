"""`export_world` as a person meets it: a run is exported without a model, wrong input is one sentence."""

import numpy as np
import pytest
from commands import run

from mirage_jax import viz
from mirage_jax.geometry import Camera, pose_files
from tests import analytic


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What generate leaves, or the part of it that counts here."""
    path = tmp_path_factory.mktemp("runs")
    clip = analytic.scene(0, frames=5, height=32, width=32)
    for name, cameras in (("run", 5), ("short", 4)):
        viz.write_video(path / name / "video.mp4", clip.frames, fps=12)
        pose_files.write_json(path / name / "cameras.json", Camera(clip.intrinsics, clip.cam2world, 32, 32)[:cameras])
        viz.write_ply(path / name / "memory.ply", np.eye(3), np.eye(3, dtype=np.uint8))
    (path / "empty").mkdir()
    (path / "w.safetensors").write_bytes(b"no world")
    viz.write_ply(path / "cut" / "memory.ply", np.eye(3), np.eye(3, dtype=np.uint8))
    for name in ("video.mp4", "cameras.json"):
        (path / "cut" / name).write_bytes((path / "run" / name).read_bytes())
    (path / "cut" / "memory.ply").write_bytes((path / "run" / "memory.ply").read_bytes()[:-5])
    return path


CASES = {
    "nothing": ([], "give either --run"),
    "both": (["--run={}/run", "--world={}/w.safetensors"], "give either --run"),
    "no run": (["--run={}/empty"], "there is no video.mp4"),
    "too few cameras": (["--run={}/short"], "5 frames and 4 cameras"),
    "cut points": (["--run={}/cut"], "not a PLY file"),
    "no world": (["--world={}/w.safetensors"], "--world:"),
    "a model for nothing": (["--run={}/run", "--checkpoint=x"], "no model is needed"),
    "unknown format": (["--run={}/run", "--formats=obj"], "'obj' is none of video"),
}


def test_runs_are_exported_and_wrong_input_is_a_sentence(folder, tmp_path):
    out = [f"--out={tmp_path}/bad"]
    calls = [[*out, *(word.format(folder) for word in words)] for words, _ in CASES.values()]
    *refused, done = run("export_world", [*calls, [f"--out={tmp_path}/good", f"--run={folder}/run"]])
    for result, (name, (_, said)) in zip(refused, CASES.items(), strict=True):
        assert (result.code, "Traceback" in result.err) == (2, False), name
        assert said in result.err, name
    assert done.code == 0, done.err
    found = {path.name for path in (tmp_path / "good").iterdir()}
    assert {"video.mp4", "path", "memory.ply", "colmap", "nerfstudio", "config.json", "versions.json"} == found
    assert viz.frame_rate(tmp_path / "good" / "video.mp4") == 12
    points, colours = viz.read_ply(tmp_path / "good" / "memory.ply")
    np.testing.assert_array_equal(points, np.eye(3))
    np.testing.assert_array_equal(colours, np.eye(3))

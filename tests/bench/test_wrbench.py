"""WRBench's conventions against independent readings: where its cameras look, what its scorer asks of every file."""

import json
import math
import pathlib
import types

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
from scipy.spatial import transform

from experiments.bench.adapters import sample as base
from experiments.wrbench import samples
from mirage_jax import viz
from mirage_jax.errors import UserError
from mirage_jax.geometry import crop

SIZE = 32
MODEL = types.SimpleNamespace(height=SIZE, width=SIZE)
SCRIPTS = {
    "static": [],
    "yaw_LR_30": [("left", 30), ("right", 30)],
    "yaw_RL_30": [("right", 30), ("left", 30)],
    "yaw_LR_60": [("left", 60), ("right", 60)],
    "yaw_RL_60": [("right", 60), ("left", 60)],
}
LIST = "releases/paper_main_20260608/variants.local_ti2v_tv2v.jsonl"


def walked(camera, frames):
    """The benchmark's procedure: segments of actions, each frame a part of the turn after those before."""
    lengths = (frames // 2, frames - frames // 2)
    now, found = transform.Rotation.identity(), []
    for (direction, degrees), length in zip(SCRIPTS[camera] or [("left", 0)] * 2, lengths, strict=True):
        signed = -degrees if direction == "left" else degrees
        for frame in range(length):
            part = 1.0 if length == 1 else frame / (length - 1)
            found.append(now * transform.Rotation.from_euler("y", signed * part, degrees=True))
        now = now * transform.Rotation.from_euler("y", signed, degrees=True)
    return np.stack([rotation.as_matrix() for rotation in found])


@pytest.fixture
def dataset(tmp_path):
    samples.write_sample_dataset(tmp_path / "natural25")
    return tmp_path / "natural25"


def only(dataset, camera, frames=9):
    """The first event of the list, seen by one camera."""
    return samples.read(dataset, [camera], frames)[0]


def saved(sample, out):
    views = sample.views(MODEL)
    sample.save(out, views, np.broadcast_to(views.image, (sample.frames, *views.image.shape)), 8.0)
    return out / "mirage_jax" / "videos" / f"{sample.label}.mp4"


@pytest.mark.parametrize("frames", [4, 9, 81])
@pytest.mark.parametrize("camera", samples.CAMERAS)
def test_cameras_are_those_of_the_builder(camera, frames):
    poses = samples.cam2world(camera, frames)
    assert poses.shape == (frames, 4, 4) and poses.dtype == np.float32
    np.testing.assert_allclose(poses[:, :3, :3], walked(camera, frames), atol=1e-6)
    np.testing.assert_array_equal(poses[:, :3, 3], 0)
    np.testing.assert_allclose(poses[[0, -1]], np.tile(np.eye(4), (2, 1, 1)), atol=1e-6)


@pytest.mark.parametrize("camera, side", [("yaw_LR_60", -1), ("yaw_RL_60", 1)])
def test_the_first_letter_says_where_a_camera_looks_first(camera, side):
    """In OpenCV axes, right is +x."""
    middle = samples.cam2world(camera, 81)[40]
    np.testing.assert_allclose(middle[:3, 2], (side * math.sin(math.pi / 3), 0, 0.5), atol=1e-6)


def test_a_video_starts_from_the_first_frame_through_the_benchmarks_lens(dataset):
    views = only(dataset, "yaw_LR_30").views(MODEL)
    picture = PIL.Image.open(dataset / "first_frames" / "bedroom_cat_bed_jump.png")
    cut = PIL.ImageOps.fit(picture, (SIZE, SIZE), PIL.Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(views.image, np.asarray(cut))
    assert views.size == (SIZE, SIZE) and len(views.path) == 9
    for lens in np.asarray(views.path.intrinsics):
        assert crop.view_angles(lens, SIZE, SIZE) == pytest.approx((60, 60), abs=1e-4)
    wide = samples.lens(480, 832)
    assert crop.view_angles(wide, 480, 832)[0] == pytest.approx(60, abs=1e-4) and wide[0, 0] == wide[1, 1]


def test_every_event_without_camera_words_is_made_with_every_camera(dataset):
    found = samples.read(dataset, list(samples.CAMERAS), 9)
    events = ("bedroom_cat_bed_jump__T0__none", "bedroom_cat_bed_jump__T2_div_b__none")
    assert [sample.label for sample in found] == [f"{event}__{camera}" for event in events for camera in SCRIPTS]
    assert found[-1].prompts == ["In a bedroom. The cat jumps onto the bed."]
    assert not any(sample.missing() for sample in found)


@pytest.mark.parametrize("inside", ["src/wrbench/data/natural25", "data/natural25"])
def test_the_data_set_is_found_in_a_checkout_and_in_a_package(dataset, inside):
    (dataset.parent / "root" / inside).parent.mkdir(parents=True)
    dataset.rename(dataset.parent / "root" / inside)
    assert len(samples.read(dataset.parent / "root", ["static"], 9)) == 2


FAULTS = {
    "cannot be read as JSON": "{",
    "expected an object": [],
    "expected a text 'ti2v_prompt', found None": {"ti2v_prompt": None},
    "its 'world_state_prompt' is empty": {"world_state_prompt": " "},
    "'../cat' cannot be the name": {"family_id": "../cat"},
    "take the place of entry 1's": {},
}


@pytest.mark.parametrize("sentence", FAULTS)
def test_a_line_that_cannot_be_used_says_why_and_the_others_stay(dataset, sentence):
    first = (dataset / LIST).read_text().splitlines()[0]
    fault = FAULTS[sentence]
    line = json.dumps(json.loads(first) | fault) if isinstance(fault, dict) else fault
    (dataset / LIST).write_text(f"{first}\n{line if isinstance(line, str) else json.dumps(line)}\n")
    good, bad = samples.read(dataset, ["static"], 9)
    assert good.fault is None and sentence in bad.fault
    assert bad.label == "variants.local_ti2v_tv2v.jsonl, line 2, camera static"


def test_a_list_that_cannot_be_used_is_refused(dataset):
    (dataset / LIST).write_text((dataset / LIST).read_text().splitlines()[2])
    with pytest.raises(UserError, match="no event with oov_gap 'none' among 1 lines"):
        samples.read(dataset, ["static"], 9)
    (dataset / LIST).unlink()
    with pytest.raises(UserError, match=r"no file .*jsonl; expected a checkout of WRBench"):
        samples.read(dataset, ["static"], 9)


def notes_of_the_scorer(control):
    """What `validate_camera_control_target` finds wrong, under the gate of its main table."""
    families = {"yaw_LR": "rotation", "yaw_RL": "rotation", "static": "static"}
    told = ("num_frames", "fps", "image_size", "fov", "trajectory_sampling_rule")
    files = ("target_pose_path", "camera_trajectory_path")
    notes = [name for name in told if control.get(name) in (None, "")]
    notes += [name for name in files if not pathlib.Path(control[name]).is_file()]
    wanted = {
        "target_coordinate_convention": "opencv_c2w",
        "target_role": "benchmark_intended_control",
        "evidence_level": "benchmark_intent",
        "adapter_provenance": "deterministic_adapter",
        "control_family": families[control["control_direction"]],
    }
    notes += [name for name, value in wanted.items() if control[name] != value]
    if control["control_family"] == "rotation":
        notes += ["profile"] * (control["control_profile"] != "canonical_60deg")
        notes += ["yaw"] * (abs(control["yaw_peak_deg"] - 60) > 1e-6)
    else:
        notes += ["profile"] * (control["control_profile"] != "canonical_static")
    return notes


@pytest.mark.parametrize("camera", samples.CAMERAS)
def test_the_scorer_accepts_what_lies_beside_a_video(dataset, tmp_path, camera):
    sample = only(dataset, camera)
    video = saved(sample, tmp_path)
    assert len(viz.read_video(video)) == 9
    control = json.loads(video.with_name(f"{video.name}.camera.json").read_text())
    assert notes_of_the_scorer(control) == (["profile", "yaw"] if camera.endswith("30") else [])
    poses = np.load(control["target_pose_path"], allow_pickle=False)
    np.testing.assert_array_equal(poses, samples.cam2world(camera, 9))
    trajectory = json.loads(video.with_name(f"{video.name}.camera_trajectory.json").read_text())
    np.testing.assert_array_equal(np.float32(trajectory["c2w"]), poses)
    assert np.shape(trajectory["intrinsics"]) == (9, 3, 3) and trajectory["frame_count"] == 9
    assert (control["image_size"], control["fov"], control["fps"]) == ([SIZE] * 2, 60, 8)


def test_the_list_of_videos_holds_what_is_finished_and_where_it_is(dataset, tmp_path):
    first, second = samples.read(dataset, ["yaw_LR_60"], 9)
    video = saved(second, tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "moved")
    file, count = samples.write_list(tmp_path / "moved", [first, second])
    (row,) = json.loads(file.read_text())
    assert count == 1 and row["video_id"] == second.label
    assert row["path"] == str(tmp_path / "moved" / video.relative_to(tmp_path / "out"))
    assert row["target_pose_path"] == f"{row['path']}.target_c2w.npy"
    assert (row["world_state_prompt"], row["camera_type"]) == ("The cat jumps onto the bed.", "yaw_LR")
    assert (row["stress_yaw_deg"], row["reasoning_tier"], row["divergence_id"]) == (60, "T2", "div_b")


def test_a_result_is_whole_or_said_not_to_be(dataset, tmp_path, monkeypatch):
    sample = only(dataset, "static")
    assert sample.lacks(tmp_path) == base.NOT_MADE
    with monkeypatch.context() as patch, pytest.raises(OSError, match="full"):
        patch.setattr(viz, "write_video", lambda *_, **__: (_ for _ in ()).throw(OSError("full")))
        saved(sample, tmp_path)
    assert sample.lacks(tmp_path) == f"no {sample.label}.mp4"
    video = saved(sample, tmp_path)
    assert sample.lacks(tmp_path) is None and sample.damaged(tmp_path) == []
    assert only(dataset, "static", 8).lacks(tmp_path) == "9 frames, expected 8"
    video.write_bytes(video.read_bytes()[:500])
    poses = video.with_name(f"{video.name}.target_c2w.npy")
    poses.write_bytes(b"")
    assert sample.damaged(tmp_path) == [video.name, poses.name]
    with monkeypatch.context() as patch, pytest.raises(OSError, match="full"):  # the old video is of another path
        patch.setattr(samples.io, "write_json", lambda *_: (_ for _ in ()).throw(OSError("full")))
        saved(sample, tmp_path)
    assert sample.lacks(tmp_path) == f"no {video.name}"

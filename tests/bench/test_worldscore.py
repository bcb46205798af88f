"""WorldScore's conventions against independent readings: where moves lead, both projections, the scorer's own."""

import json

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import transform

from experiments.bench.adapters import sample as base
from experiments.worldscore import paths, samples
from mirage_jax import geometry
from mirage_jax.errors import UserError

PATH = ["pan_left", "move_right", "orbit_right", "pull_out", "pan_right", "push_in"]
MOVES = st.lists(st.sampled_from(sorted(paths.MOVES)), min_size=1, max_size=3)
SIN, COS = 0.5, 3**0.5 / 2

# Position, and what the camera looks along, in OpenCV axes of the first view: x right, y down, z forward.
ENDS = {
    "push_in": ((0, 0, 1), (0, 0, 1)),
    "pull_out": ((0, 0, -1), (0, 0, 1)),
    "move_left": ((-0.5, 0, 0), (0, 0, 1)),
    "move_right": ((0.5, 0, 0), (0, 0, 1)),
    "pan_left": ((0, 0, 0), (-SIN, 0, COS)),
    "pan_right": ((0, 0, 0), (SIN, 0, COS)),
    "orbit_left": ((-SIN, 0, 1 - COS), (SIN, 0, COS)),
    "orbit_right": ((SIN, 0, 1 - COS), (-SIN, 0, COS)),
    "fixed": ((0, 0, 0), (0, 0, 1)),
}


def stored(moves, frames=9, speed=1.0):
    return np.array(paths.camera_data(moves, frames, speed)["cameras_interp"])


def ours(moves, frames=9, speed=1.0):
    return np.asarray(paths.cameras(moves, frames, (512, 512), (512, 512), speed).cam2world, np.float64)


def test_every_move_has_an_end():
    assert set(ENDS) == set(paths.MOVES)


@pytest.mark.parametrize("move", ENDS)
@pytest.mark.parametrize("speed", [1.0, 3.0])
def test_a_move_leads_where_its_name_says(move, speed):
    position, forward = ENDS[move]
    end = ours([move], speed=speed)[-1]
    np.testing.assert_allclose(end[:3, 3], speed * np.array(position), atol=1e-6)
    np.testing.assert_allclose(end[:3, 2], forward, atol=1e-6)
    np.testing.assert_allclose(end[:3, 1], (0, 1, 0), atol=1e-6)


@pytest.mark.parametrize("pair", [("push_in", "pull_out"), ("move_left", "move_right"), ("pan_right", "pan_left")])
@pytest.mark.parametrize("before", [[], ["orbit_left"]])
def test_a_move_and_its_opposite_return(pair, before):
    poses = ours([*before, *pair])
    np.testing.assert_allclose(poses[-1], poses[8 * len(before)], atol=1e-6)
    assert np.abs(poses[8 * (len(before) + 1)] - poses[-1]).max() > 0.3


def test_an_orbit_looks_at_one_point_all_the_way_round():
    poses = ours(["orbit_left"] * 12)[::8]
    np.testing.assert_allclose(poses[-1], np.eye(4), atol=1e-5)
    np.testing.assert_allclose(poses[:, :3, 3] + poses[:, :3, 2], np.tile((0, 0, 1), (13, 1)), atol=1e-5)


@given(MOVES)
def test_keyframes_are_those_of_the_generator(moves):
    """Its procedure: before each move all cameras are put so that the current one is at the origin."""
    cameras = [np.eye(4)]
    for move in moves:
        cameras = [camera @ np.linalg.inv(cameras[-1]) for camera in cameras]
        position, forward = ENDS[move]
        pose = np.eye(4)  # camera to world, x left and y up
        pose[:3, 0] = forward[2], 0, forward[0]
        pose[:3, 2] = -forward[0], 0, forward[2]
        pose[:3, 3] = -position[0], 0, position[2]
        cameras.append(np.linalg.inv(pose))
    cameras = [camera @ np.linalg.inv(cameras[0]) for camera in cameras]
    np.testing.assert_allclose(paths.keyframes(moves), cameras, atol=1e-9)


@given(MOVES, st.sampled_from([2, 5]))
def test_between_keyframes_rotation_is_slerped_and_translation_linear(moves, frames):
    found, keys = paths.world2cam(moves, frames), paths.keyframes(moves)
    assert len(found) == paths.total_frames(moves, frames)
    steps = np.linspace(0, 1, frames)
    for scene, start in enumerate(paths.anchors(moves, frames)[:-1]):
        turns = transform.Rotation.from_matrix(keys[scene : scene + 2, :3, :3])
        part = found[start : start + frames]
        np.testing.assert_allclose(part[:, :3, :3], transform.Slerp([0, 1], turns)(steps).as_matrix(), atol=2e-6)
        ends = keys[scene : scene + 2, :3, 3]
        np.testing.assert_allclose(part[:, :3, 3], ends[0] + steps[:, None] * (ends[1] - ends[0]), atol=2e-6)


def test_points_are_seen_at_the_same_pixels_in_both_conventions():
    height, width, frames = 96, 160, 5
    cam2world = stored(PATH, frames)
    points = np.random.default_rng(0).uniform((-3, -2, 4), (3, 2, 12), (50, 3))  # of PyTorch3D's world
    homogeneous = np.concatenate([points, np.ones((50, 1))], axis=1)
    x, y, z = np.moveaxis((np.linalg.inv(cam2world)[:, None] @ homogeneous[None, ..., None])[..., :3, 0], -1, 0)
    blender = np.stack([500 * x / -z + width / 2, -500 * y / -z + height / 2], axis=-1)  # y up, looking along -z

    cameras = paths.cameras(PATH, frames, (height, width), (height, width))
    moved = np.tile(points * (-1, -1, 1), (len(cameras), 1, 1)).astype(np.float32)  # x right, y down
    pixels, depth = geometry.project(cameras, moved[:, :, None])
    seen = -z > 0.5
    np.testing.assert_allclose(np.asarray(depth)[..., 0][seen], -z[seen], atol=1e-4)
    np.testing.assert_allclose(np.asarray(pixels)[..., 0, :][seen], blender[seen], rtol=1e-4, atol=0.02)
    assert seen.sum() > 500


def test_the_scorer_finds_no_error_in_a_perfectly_tracked_path_and_some_in_a_mirrored_one():
    """`camera_error_metrics.py`: the tracked camera to world, OpenCV axes, with the flips that it applies."""

    def as_scored(tracked):
        turned = np.diag([-1.0, 1, 1, 1]) @ tracked
        return np.linalg.inv(np.diag([1.0, 1, -1, 1]) @ np.linalg.inv(turned))

    truth = stored(PATH)
    np.testing.assert_allclose(as_scored(ours(PATH)), truth, atol=1e-5)
    mirrored = truth @ np.diag([-1.0, 1, -1, 1])  # the release's conversion
    assert np.abs(as_scored(mirrored)[:, :3, 3] - truth[:, :3, 3]).max() > 0.5


def test_a_smaller_model_sees_through_the_same_lens():
    large = paths.cameras(["pan_left"], 3, (704, 1280), (704, 1280))
    small = paths.cameras(["pan_left"], 3, (704, 1280), (64, 128))
    np.testing.assert_allclose(large.intrinsics[0], [[500, 0, 640], [0, 500, 352], [0, 0, 1]])
    np.testing.assert_allclose(small.intrinsics[0], [[50, 0, 64], [0, 500 / 11, 32], [0, 0, 1]], rtol=1e-6)
    np.testing.assert_array_equal(small.cam2world, large.cam2world)


@pytest.mark.parametrize(
    "model, scored", [((128, 128), (512, 512)), ((704, 1280), (704, 1280)), ((64, 256), (256, 1024))]
)
def test_small_frames_are_scored_at_the_area_that_the_scorer_scales_to(model, scored):
    assert paths.scored_size(*model) == scored


@pytest.mark.parametrize(
    "size, first, step", [((240, 100), (70, 0), 2), ((100, 240), (0, 70), 2), ((50, 50), (0, 0), 1)]
)
def test_the_crop_takes_the_middle(size, first, step):
    columns, rows = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    picture = PIL.Image.fromarray(np.stack([columns, rows, 0 * rows], -1).astype(np.uint8))
    cropped = np.asarray(paths.centre_crop(picture, 50, 50)).astype(float)
    centres = step * (np.arange(50) + 0.5) - 0.5
    np.testing.assert_allclose(cropped[25, 3:-3, 0], (first[0] + centres)[3:-3], atol=1)
    np.testing.assert_allclose(cropped[3:-3, 25, 1], (first[1] + centres)[3:-3], atol=1)


def test_prompts_say_what_the_camera_does_and_sees():
    scenes = ["A hall.", "A door", "A stair."]
    assert paths.prompts(["pan_left", "push_in"], scenes, "Ink", static=True) == [
        "Camera pan left. A door. Ink. Everything in the scene remains completely motionless.",
        "Camera push in. A stair. Ink. Everything in the scene remains completely motionless.",
    ]
    assert paths.prompts(["fixed"], ["A cat runs."], "Ink", static=False) == ["Camera fixed. A cat runs. Ink"]


@given(st.integers(1, 4), st.integers(1, 40), st.integers(2, 60))
def test_a_segment_gets_the_prompt_of_the_move_that_most_of_it_is_in(moves, segment_frames, frames):
    if segment_frames > frames - 1:
        frames = segment_frames + 1
    total = moves * (frames - 1)
    segments = -(-total // segment_frames)
    found = paths.scene_of_segments(segments, segment_frames, moves, frames)
    of_frame = np.minimum(np.arange(segments * segment_frames) // (frames - 1), moves - 1)
    for scene, part in zip(found, of_frame.reshape(segments, -1), strict=True):
        counts = np.bincount(part, minlength=moves)
        assert counts[scene] == counts.max()


STATIC = {
    "visual_movement": "static",
    "visual_style": "stylized",
    "scene_type": "indoor",
    "category": "halls",
    "style": "Ink",
    "camera_path": ["pan_left"],
    "content_list": ["hall", "door"],
    "prompt_list": ["A hall.", "A door."],
    "image": "./static/stylized/images/halls/004.png",
}
FAULTS = {
    "expected an object": [],
    "'style'": STATIC | {"style": None},
    "'camera_path'": STATIC | {"camera_path": []},
    "visual_movement is 'dynamic'": STATIC | {"visual_movement": "dynamic"},
    "unknown move 'pull_left'": STATIC | {"camera_path": ["pull_left"]},
    "for 2 moves": STATIC | {"camera_path": ["pan_left", "push_in"]},
    "leads out": STATIC | {"image": "../halls/004.png"},
    "cannot be the name": STATIC | {"scene_type": "a/../.."},
    "take the place of entry 0's": STATIC | {"image": "./static/other/halls/004.b.jpg"},
    "cannot be the name of a": STATIC | {"image": "004.png"},
}


@pytest.mark.parametrize("sentence", FAULTS)
def test_an_entry_that_cannot_be_used_says_why_and_the_others_stay(tmp_path, sentence):
    (tmp_path / "WorldScore-Dataset" / "static").mkdir(parents=True)
    file = tmp_path / "WorldScore-Dataset" / "static" / "static.json"
    file.write_text(json.dumps([STATIC, FAULTS[sentence]]))
    good, bad = samples.read(tmp_path, "static", samples.Settings())
    assert good.fault is None and good.label == "static/stylized/indoor/halls/004"
    assert sentence in bad.fault and bad.label == "static.json, entry 1"


def test_a_list_that_cannot_be_used_is_refused(tmp_path):
    with pytest.raises(UserError, match="no file"):
        samples.read(tmp_path, "static", samples.Settings())
    (tmp_path / "static").mkdir()
    (tmp_path / "static" / "train-00000.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="Parquet files, which are there, lack file names"):
        samples.read(tmp_path, "static", samples.Settings())
    for text in ("[", "{}", "[]"):
        (tmp_path / "static" / "static.json").write_text(text)
        with pytest.raises(UserError, match=r"static\.json"):
            samples.read(tmp_path, "static", samples.Settings())


def test_a_result_is_whole_or_not_there(tmp_path, monkeypatch):
    def with_frames(count):
        return samples.Sample("static", 0, STATIC, tmp_path, samples.Settings(count, 2.0))

    (tmp_path / STATIC["image"]).parent.mkdir(parents=True)
    PIL.Image.new("RGB", (32, 32)).save(tmp_path / STATIC["image"])
    sample, frames = with_frames(3), np.zeros((3, 32, 32, 3), np.uint8)
    write = lambda: sample.save(tmp_path, base.Views(frames[0], None, (32, 32)), frames, 8)  # noqa: E731
    assert sample.lacks(tmp_path) == base.NOT_MADE
    with monkeypatch.context() as patch, pytest.raises(OSError, match="full"):
        patch.setattr(paths, "camera_data", lambda *_: (_ for _ in ()).throw(OSError("full")))
        write()
    assert sample.lacks(tmp_path) == base.NOT_MADE
    write()
    assert sample.lacks(tmp_path) is None
    assert "expected 5" in with_frames(5).lacks(tmp_path)
    folder = tmp_path / "worldscore_output" / sample.label
    about = json.loads((folder / "image_data.json").read_text())
    assert about == STATIC | {"num_scenes": 1, "total_frames": 3, "anchor_frame_idx": [0, 2]}
    assert json.loads((folder / "camera_data.json").read_text())["scale"] == 2.0
    (folder / "frames" / "001.png").write_bytes(b"")
    assert sample.damaged(tmp_path) == ["001.png"]
    (folder / "frames" / "001.png").unlink()
    assert sample.lacks(tmp_path) == "2 frames, expected 3"
    (folder / "image_data.json").write_text('{"total_frames": ')
    assert "damaged" in sample.lacks(tmp_path)

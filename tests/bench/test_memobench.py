"""MemoBench's conventions against independent readings: which poses, through which lens, and where frames are found."""

import re
import types

import numpy as np
import pytest
from scipy.spatial import transform

from experiments.bench.adapters import sample as base
from experiments.memobench import samples
from mirage_jax.errors import UserError
from mirage_jax.geometry import crop, pose_files

SIZE = 32
MODEL = types.SimpleNamespace(height=SIZE, width=SIZE)
SPLITS = ("synthetic", "real")
CLIPS = {"synthetic": "Synthetic/Barnyard/Barnyard_005", "real": "Real/001"}
LISTS = {split: f"data/sam3_metadata/{split}_metadata.csv" for split in SPLITS}
POSES = "data/Synthetic_processed/Barnyard/Barnyard_005/5/poses.npy"
LENS = POSES.replace("poses", "intrinsics")
REAL = "data/Real_Raw/001/raw/001_mapanything.npz"


@pytest.fixture
def dataset(tmp_path):
    samples.write_sample_dataset(tmp_path / "MemoBench")
    return tmp_path / "MemoBench"


def only(dataset, split="synthetic", frames=9, scale=None):
    (sample,) = samples.read(dataset, split, frames, scale)
    return sample


def walk(count, seed=0):
    """A camera that turns and moves, not from the origin."""
    rng = np.random.default_rng(seed)
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3, :3] = transform.Rotation.from_rotvec(np.cumsum(rng.normal(0, 0.05, (count, 3)), 0)).as_matrix()
    poses[:, :3, 3] = 500 + np.cumsum(rng.normal(0, 30, (count, 3)), 0)
    return poses


def scorers_error(given, path):
    """`camera_controllability_score` of a video whose tracked camera is `path`: degrees, root of the mean square."""
    n = len(path)
    given = given[[round(i * (len(given) - 1) / (n - 1)) for i in range(n)]]  # its `_resample`
    align = given[0, :3, :3] @ path[0, :3, :3].T
    turns = [(align @ found[:3, :3]).T @ wanted[:3, :3] for found, wanted in zip(path, given, strict=True)]
    angles = [np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1))) for turn in turns]
    return np.sqrt(np.mean(np.square(angles)))


@pytest.mark.parametrize("mirrored", [False, True], ids=["right-handed", "left-handed"])
@pytest.mark.parametrize("count", [5, 9, 23])
def test_the_scorer_finds_no_error_in_a_perfectly_tracked_path(dataset, mirrored, count):
    given = walk(count)
    if mirrored:  # a camera of OpenCV axes in a world like Unreal's
        given = np.diag([1.0, -1, 1, 1]) @ given
    np.save(dataset / POSES, given)
    path = np.asarray(only(dataset).views(MODEL).path.cam2world, np.float64)
    np.testing.assert_allclose(path[0], np.eye(4), atol=1e-6)
    np.testing.assert_allclose(np.linalg.det(path[:, :3, :3]), 1, atol=1e-5)
    assert scorers_error(given, path) < 0.1  # which float32 keeps of an arc cosine near 1
    assert scorers_error(given, path[::-1]) > 1


@pytest.mark.parametrize("split, scale, unit", [("synthetic", None, 0.01), ("real", None, 1), ("synthetic", 2.5, 2.5)])
def test_positions_are_metres(dataset, split, scale, unit):
    given = walk(9)
    np.save(dataset / POSES, given)
    np.savez(dataset / REAL, cam_c2w=given, intrinsic=np.array([100.0, 100, 60, 30]))
    path = only(dataset, split, 9, scale).views(MODEL).path
    relative = np.linalg.inv(given[0]) @ given
    np.testing.assert_allclose(path.cam2world[:, :3, 3], unit * relative[:, :3, 3], rtol=1e-4, atol=1e-3)


MATRIX = np.array([[100.0, 0, 60], [0, 100, 30], [0, 0, 1]])
LENSES = [MATRIX, np.array([100.0, 100, 60, 30]), np.stack([MATRIX] * 3), np.full((4, 4), [100.0, 100, 60, 30])]


@pytest.mark.parametrize("lens", LENSES, ids=lambda lens: "x".join(map(str, lens.shape)))
def test_the_angle_of_view_is_that_of_the_intrinsics_on_whatever_grid(dataset, lens):
    """The picture is 120x60: what is 100 pixels there sees 62 degrees across, of which a square leaves half."""
    half = np.diag([0.5, 0.5, 1]) @ lens if lens.shape[-2:] == (3, 3) else lens / 2
    for values in (lens, half):
        np.savez(dataset / REAL, cam_c2w=walk(9), intrinsic=values)
        camera = only(dataset, "real").views(MODEL).path[0]
        angles = crop.view_angles(np.asarray(camera.intrinsics), SIZE, SIZE)
        assert angles == pytest.approx([2 * np.degrees(np.arctan(0.3))] * 2, abs=1e-3)
        np.testing.assert_allclose(camera.intrinsics[:2, 2], SIZE / 2, atol=1e-4)


@pytest.mark.parametrize("split", SPLITS)
def test_frames_lie_where_the_scorer_looks(dataset, tmp_path, split):
    """The rules of `discover_clips_synthetic` and `discover_clips_real`."""
    sample, out = only(dataset, split), tmp_path / "out"
    assert sample.label == CLIPS[split] and sample.missing() == []
    views = sample.views(MODEL)
    sample.save(out, views, np.broadcast_to(views.image, (9, *views.image.shape)), 8.0)
    clip = out / CLIPS[split]
    assert re.match(r"^\d+$" if split == "real" else r"^(.+)_(\d+)$", clip.name)
    assert not list(clip.rglob("*.mp4"))  # would be taken in the place of the frames
    first = 1 if split == "real" else 0
    assert sorted(file.name for file in (clip / "frames").iterdir()) == [f"{first + n:05d}.png" for n in range(9)]
    cameras = pose_files.load_path(clip / "cameras.json", SIZE, SIZE)
    np.testing.assert_allclose(cameras.cam2world, views.path.cam2world, atol=1e-6)


def test_the_folder_data_will_do(dataset, monkeypatch):
    assert only(dataset / "data").missing() == []
    monkeypatch.chdir(dataset)
    assert only("data").missing() == []
    monkeypatch.chdir(dataset / "data")
    assert only(".").missing() == []


FAULTS = {
    "expected a number 'video_id', found 'five'": "Barnyard,five,pig,data/a.jpg,A pig.",
    "expected a text 'prompt', found None": "Barnyard,6,pig,data/a.jpg",
    "'../Barn' cannot be the name": "../Barn,6,pig,data/a.jpg,A pig.",
    "'/a.jpg' leads out": "Barnyard,6,pig,/a.jpg,A pig.",
    "take the place of entry 2's": "Barnyard,005,pig,data/a.jpg,A pig.",
}


@pytest.mark.parametrize("sentence", FAULTS)
def test_a_line_that_cannot_be_used_says_why_and_the_others_stay(dataset, sentence):
    (dataset / LISTS["synthetic"]).write_text((dataset / LISTS["synthetic"]).read_text() + FAULTS[sentence] + "\n")
    good, bad = samples.read(dataset, "synthetic", 9, None)
    assert good.fault is None and sentence in bad.fault and bad.label == "synthetic_metadata.csv, line 3"


REFUSED = {
    "no column 'scene'; found none": "",
    "no column 'exr_path'; found scene, video_id, subject, prompt": "scene,video_id,subject,prompt\n1,2,3,4\n",
    "expected a list of clips, found none": "scene,video_id,subject,exr_path,prompt\n",
    "damaged, or not a list of clips": 'scene,video_id,subject,exr_path,prompt\n"Barn" yard,1,2,3,4\n',
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_a_list_that_cannot_be_used_is_refused(dataset, sentence):
    (dataset / LISTS["synthetic"]).write_text(REFUSED[sentence])
    with pytest.raises(UserError, match=re.escape(sentence)):
        samples.read(dataset, "synthetic", 9, None)
    (dataset / LISTS["synthetic"]).unlink()
    with pytest.raises(UserError, match=r"no file .*csv; expected a checkout of MemoBench"):
        samples.read(dataset, "synthetic", 9, None)


NO_ROTATION = np.tile(np.diag([1.0, 2, 1, 1]), (3, 1, 1))
NO_ROTATION[0] = np.eye(4)
CAMERAS = {
    "singular": (POSES, np.zeros((3, 4, 4)), "not the poses of a camera"),
    "stretched": (POSES, NO_ROTATION, "expected a rotation matrix"),
    "not a number": (POSES, np.full((3, 4, 4), np.nan), "holds NaN"),
    "other shape": (POSES, np.zeros((3, 7)), "has shape 3x7; expected Tx4x4"),
    "no lens": (LENS, np.zeros((3, 4)), "expected numbers above 0"),
    "lens of another shape": (LENS, np.ones((3, 5)), "has shape 3x5; expected 4"),
    "no view": (LENS, np.tile([1.0, 1, 60, 30], (3, 1)), "cannot belong to a picture"),
}


@pytest.mark.parametrize("case", CAMERAS)
def test_a_camera_that_cannot_be_used_is_one_sentence(dataset, case):
    file, values, sentence = CAMERAS[case]
    np.save(dataset / file, values)
    with pytest.raises(UserError, match=sentence):
        only(dataset).views(MODEL)


@pytest.mark.parametrize("split, file", [("synthetic", POSES), ("synthetic", LENS), ("real", REAL)])
def test_missing_files_are_named(dataset, split, file):
    (dataset / file).unlink()
    assert only(dataset, split).missing() == [dataset / file]
    with pytest.raises(UserError, match=re.escape(file)):
        only(dataset, split).views(MODEL)


def test_a_result_is_whole_or_not_there(dataset, tmp_path, monkeypatch):
    sample, out = only(dataset), tmp_path / "out"
    views = sample.views(MODEL)
    write = lambda: sample.save(out, views, np.broadcast_to(views.image, (9, *views.image.shape)), 8.0)  # noqa: E731
    assert sample.lacks(out) == base.NOT_MADE
    with monkeypatch.context() as patch, pytest.raises(OSError, match="full"):
        patch.setattr(pose_files, "write_json", lambda *_: (_ for _ in ()).throw(OSError("full")))
        write()
    assert sample.lacks(out) == base.NOT_MADE
    write()
    assert sample.lacks(out) is None and sample.damaged(out) == []
    assert only(dataset, frames=8).lacks(out) == "9 frames, expected 8"
    frames = out / CLIPS["synthetic"] / "frames"
    (frames / "00003.png").write_bytes(b"\x89PNG")
    assert sample.damaged(out) == ["00003.png"]
    (frames / "00003.png").unlink()
    assert sample.lacks(out) == "8 frames, expected 9"

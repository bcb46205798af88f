"""Camera files that are wrong: one clear sentence each, naming file, frame, found and expected."""

import json

import numpy as np
import pose_samples as samples
import pytest

from mirage_jax.errors import UserError
from mirage_jax.geometry import pose_files


def load(path):
    return pose_files.load(path, height=96, width=128)


def transforms(tmp_path, frame=1, matrix=None, **values):
    """A transforms.json with one thing changed."""
    path = samples.nerfstudio(tmp_path)
    content = json.loads(path.read_text()) | values
    if matrix is not None:
        content["frames"][1 - frame]["transform_matrix"] = np.asarray(matrix).tolist()
    path.write_text(json.dumps(content))
    return path


def changed(scale=1.0, **entries):
    matrix = np.eye(4)
    matrix[:3, :3] *= scale
    for name, value in entries.items():
        matrix[int(name[1]), int(name[2])] = value
    return matrix


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (changed(scale=0.0), "is singular; expected a rotation matrix, orthonormal with determinant 1"),
        (changed(m22=0.0), "is singular"),
        (changed(scale=2.0), "is scaled by 2;"),
        (changed(scale=1.01), r"is scaled by 1\.01;"),
        (changed(m00=-1.0), r"is mirrored \(determinant -1\)"),
        (changed(scale=-1.0), r"is mirrored \(determinant -1\)"),
        (changed(m01=0.3), "is not orthonormal"),
        (changed(m03=np.nan), "'transform_matrix' of frame 1 holds NaN, infinity or a number past"),
        (changed(m11=np.inf), "holds NaN, infinity"),
        (changed(m13=1e39), "holds NaN, infinity or a number past"),
        (changed(m33=2.0), "the last row of 'transform_matrix' of frame 1 is 0 0 0 2; expected 0 0 0 1"),
    ],
)
def test_a_pose_that_is_not_rigid_is_named_by_file_and_frame(tmp_path, matrix, message):
    path = transforms(tmp_path, matrix=matrix)
    with pytest.raises(UserError, match=message) as error:
        load(path)
    assert str(path) in str(error.value)
    assert "frame 1" in str(error.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fl_x": 0.625, "fl_y": 1.0}, "focal length fx = 0.625 pixels, a field of view of 178.9 degrees"),
        ({"fl_x": 80000.0}, "expected 1 to 170 degrees"),
        ({"fl_y": -96.0}, "focal length fy = -96 pixels"),
        ({"fl_x": float("nan")}, "holds NaN, infinity"),
        ({"cx": 960.0, "cy": 540.0}, "principal point at cx = 960 pixels; expected a point inside the image, 0 to 128"),
        ({"cy": 0.5 * 192}, "principal point at cy = 96 pixels"),
        ({"k1": 0.1}, "its lens is distorted .* undistort the images first"),
        ({"camera_model": "OPENCV_FISHEYE"}, "the camera model is 'OPENCV_FISHEYE'"),
        ({"w": 0}, "'w' is 0; expected a whole number of at least 1"),
        ({"h": 96.5}, "'h' is 96.5; expected a whole number"),
        ({"h": float("nan")}, "'h' is nan; expected a whole number"),
        ({"w": 640, "h": 480}, r"for images of 640x480 pixels \(width x height\); expected 128x96"),
        ({"frames": []}, "'frames' is not a list of frames"),
        ({"frames": [{"file_path": "a"}]}, "frame 0: 'transform_matrix' is missing"),
        ({"frames": [{"transform_matrix": [[1, 2], [3]]}]}, "is not an array of numbers"),
        ({"frames": [{"transform_matrix": np.eye(3).tolist()}]}, "has shape 1x3x3; expected Tx3x4"),
        ({"frames": [{"transform_matrix": "back"}]}, "is not an array of numbers"),
    ],
)
def test_nerfstudio_files_that_do_not_fit(tmp_path, values, message):
    path = transforms(tmp_path, **values)
    with pytest.raises(UserError, match=message) as error:
        load(path)
    assert str(path) in str(error.value)


def test_files_that_are_not_camera_files(tmp_path):
    with pytest.raises(UserError, match="there is no file or folder"):
        load(tmp_path / "nothing.json")
    with pytest.raises(UserError, match=r"holds no camera file that is known here; expected cameras\.json"):
        load(tmp_path)
    for name, content, message in (
        ("a.json", b"{", "cannot be read as JSON"),
        ("b.json", b"[1]", "holds a JSON list; expected an object"),
        ("c.json", b"{}", "neither what generate writes"),
        ("d.npz", b"PK\x03\x04broken", "is not an npz file, or is not complete"),
        ("e.txt", b"\xff\xfe\x00", "is not a text file"),
        ("f.txt", b"some words", "is no camera file that is known here"),
        ("g.bin", b"\x00", "is no camera file that is known here"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=message):
            load(tmp_path / name)
    np.savez(tmp_path / "h.npz", depth=np.zeros(3))
    with pytest.raises(UserError, match=r"h\.npz holds depth; expected cameras"):
        load(tmp_path / "h.npz")


def test_pickles_are_never_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (print, ("a pickle was opened",))

    for name in ("poses_c2w", "intrinsics"):
        good = {"poses_c2w": samples.CAM2WORLD, "intrinsics": np.tile(samples.INTRINSICS, (2, 1, 1))}
        np.savez(tmp_path / "geometry.npz", **(good | {name: np.array([Bomb()], dtype=object)}))
        with pytest.raises(UserError, match=f"array '{name}' cannot be read .*allow_pickle=False"):
            load(tmp_path / "geometry.npz")


def test_every_reader_turns_a_file_cut_short_into_a_sentence(tmp_path):
    """Cuts each file of each format at many places; whatever happens, it is a `UserError` or cameras."""
    for name, make in samples.FORMATS.items():
        folder = tmp_path / name
        folder.mkdir()
        path = make(folder)
        load(path)
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            whole = file.read_bytes()
            for end in sorted({*range(0, min(len(whole), 120), 7), *range(0, len(whole), max(1, len(whole) // 40))}):
                file.write_bytes(whole[:end])
                try:
                    load(path)
                except UserError as error:
                    assert str(folder) in str(error), error
            file.write_bytes(whole)


@pytest.mark.parametrize(
    ("make", "file", "old", "new", "message"),
    [
        (samples.realestate, "clip.txt", "66000 0.625", "66000 x", "frame 1: found '66000 x.*; expected 19 numbers"),
        (samples.realestate, "clip.txt", "66000 0.625000000", "66000 nan", "'intrinsics' of frame 1 holds NaN"),
        (samples.spatia, "w2c.txt", "[[1.0,", "[1.0,", "frame 1 is not a 4x4 matrix in JSON"),
        (samples.spatia, "intrinsics.txt", "]", " 3]", "expected 4 numbers"),
        (
            samples.colmap_text,
            "cameras.txt",
            "PINHOLE 128 96 80 96 70 45",
            "OPENCV 128 96 80 96 70 45 .1 0 0 0",
            "undistort",
        ),
        (samples.colmap_text, "cameras.txt", "PINHOLE", "FOV", "distorted lens"),
        (samples.colmap_text, "cameras.txt", "96 70 45", "96 70", "has 3 parameters; expected 4 for PINHOLE"),
        (samples.colmap_text, "cameras.txt", "7 PINHOLE", "8 PINHOLE", "has camera 7, which cameras.txt lacks"),
        (samples.colmap_text, "cameras.txt", "7 PINHOLE", "one PINHOLE", "expected CAMERA_ID MODEL WIDTH"),
        (samples.colmap_text, "images.txt", "1.0 0.0 0.0 0.0", "0.0 0.0 0.0 0.0", "quaternion of length 0; expected 1"),
        (samples.colmap_text, "images.txt", " 7 walk 9.jpg", " walk", "expected IMAGE_ID QW"),
    ],
)
def test_lines_of_text_that_do_not_fit(tmp_path, make, file, old, new, message):
    path = make(tmp_path)
    content = (tmp_path / file).read_text()
    assert old in content
    (tmp_path / file).write_text(content.replace(old, new))
    with pytest.raises(UserError, match=message) as error:
        load(path)
    assert str(tmp_path) in str(error.value)


def test_vipe_files_that_do_not_belong_together(tmp_path):
    folder = samples.vipe(tmp_path)
    np.savez(folder / "intrinsics.npz", inds=[8, 4], data=np.ones((2, 4)))
    with pytest.raises(UserError, match=r"intrinsics\.npz has no intrinsics for frame 3, which has a pose"):
        load(folder)
    np.savez(folder / "intrinsics.npz", inds=[8, 8], data=np.ones((2, 4)))
    with pytest.raises(UserError, match="expected one each, all different"):
        load(folder)
    (folder / "intrinsics.npz").unlink()
    with pytest.raises(UserError, match=r"cannot read .*intrinsics\.npz"):
        load(folder)


def test_vipe_results_of_several_videos_must_be_told_apart(tmp_path):
    path = samples.vipe_native(tmp_path)
    assert len(load(tmp_path).camera) == 2
    (tmp_path / "pose" / "other.npz").write_bytes(path.read_bytes())
    with pytest.raises(UserError, match="results of 2 videos; expected one: name its pose file"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depths": np.zeros((1, 4, 4))}, "there are 1 depth maps for 2 poses"),
        ({"depths": np.zeros((2, 4))}, r"'depths' has shape \(2, 4\); expected T x H x W"),
        ({"depths": np.full((2, 4, 4), "far")}, "'depths' is of type <U3; expected numbers"),
        ({"masks": np.zeros((2, 4, 4), bool)}, r"'masks' has shape \(2, 4, 4\); expected that of 'depths'"),
        ({"frames": np.zeros((2, 4, 4))}, "expected T x H x W x 3"),
        ({"original_size": np.array(3)}, "'original_size' has shape a single number; expected 2"),
        ({"intrinsics": np.eye(3)[None]}, "there are 1 intrinsics for 2 poses"),
        ({"poses_c2w": np.zeros((2, 4, 4))}, "the last row of 'poses_c2w' of frame 0 is 0 0 0 0"),
    ],
)
def test_release_files_that_contradict_themselves(tmp_path, change, message):
    path = samples.release(tmp_path)
    with np.load(path) as arrays:
        content = dict(arrays) | change
    np.savez(path, **content)
    with pytest.raises(UserError, match=message):
        load(path)

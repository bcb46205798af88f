"""Camera files as a path: any format gives the same way and the same lens, whatever images it is for."""

import json
import struct

import numpy as np
import pytest

from mirage_jax.errors import UserError
from mirage_jax.geometry import Camera, pose_files, trajectory

HEIGHT, WIDTH, FOCAL, FRAMES = 427, 640, 512.0, 9
ANGLE = 64.0107  # degrees across 640 pixels


@pytest.fixture(scope="module")
def scene():
    """Cameras of 640x427 pixels that walk, turn and tilt."""
    start = Camera(
        intrinsics=np.array([[FOCAL, 0, 320], [0, FOCAL, 213.5], [0, 0, 1]], np.float32),
        cam2world=np.eye(4, dtype=np.float32),
        height=HEIGHT,
        width=WIDTH,
    )
    return trajectory.parse("forward 1 & right 0.3; yaw 40 & pitch 10; roll 20", start=start, frames=FRAMES)


def quaternions(rotations):
    """`x y z w` of rotations of less than half a turn."""
    w = 0.5 * np.sqrt(1 + np.trace(rotations, axis1=1, axis2=2))
    axis = [rotations[:, 2, 1] - rotations[:, 1, 2], rotations[:, 0, 2] - rotations[:, 2, 0]]
    axis.append(rotations[:, 1, 0] - rotations[:, 0, 1])
    return np.stack([*(a / (4 * w) for a in axis), w], axis=-1)


def write(name, folder, scene):
    """The scene in a format; returns what to load."""
    poses = np.asarray(scene.cam2world, np.float64)
    world2cam = np.linalg.inv(poses)
    turns = quaternions(world2cam[:, :3, :3])
    opengl = poses @ np.diag([1.0, -1.0, -1.0, 1.0])
    lens = {"fl_x": FOCAL, "fl_y": FOCAL, "cx": WIDTH / 2, "cy": HEIGHT / 2, "w": WIDTH, "h": HEIGHT}
    if name in ("ours JSON", "ours npz"):
        file = folder / ("cameras.json" if name == "ours JSON" else "cameras.npz")
        (pose_files.write_json if name == "ours JSON" else pose_files.write_npz)(file, scene)
        return file
    if name == "nerfstudio":
        frames = [{"file_path": f"{i}.png", "transform_matrix": pose.tolist()} for i, pose in enumerate(opengl)]
        (folder / "transforms.json").write_text(json.dumps(lens | {"frames": frames}))
    elif name == "nerfstudio viewer":
        fov = 2 * np.degrees(np.arctan(HEIGHT / 2 / FOCAL))
        keys = [{"camera_to_world": pose.ravel().tolist(), "fov": fov, "aspect": WIDTH / HEIGHT} for pose in opengl]
        content = {"camera_type": "perspective", "render_height": HEIGHT, "render_width": WIDTH, "camera_path": keys}
        (folder / "camera_path.json").write_text(json.dumps(content))
    elif name == "nerfstudio export":
        frames = [{"file_path": f"{i}.png", "transform": pose[:3].tolist()} for i, pose in enumerate(opengl)]
        (folder / "transforms_train.json").write_text(json.dumps(frames))
        return folder / "transforms_train.json"
    elif name == "COLMAP text":
        (folder / "cameras.txt").write_text(f"1 PINHOLE {WIDTH} {HEIGHT} {FOCAL} {FOCAL} {WIDTH / 2} {HEIGHT / 2}\n")
        rows = ["# Number of images: 9, mean observations per image: 0"]
        for i, (q, pose) in enumerate(zip(turns, world2cam, strict=True)):
            rows += [" ".join(map(repr, [i, *map(float, [q[3], *q[:3], *pose[:3, 3]]), 1])) + f" {i}.png", ""]
        (folder / "images.txt").write_text("\n".join(rows))
    elif name == "COLMAP binary":
        numbers = (1, 1, 1, WIDTH, HEIGHT, FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2)
        (folder / "cameras.bin").write_bytes(struct.pack("<QiiQQ4d", *numbers))
        data = struct.pack("<Q", FRAMES)
        for i, (q, pose) in enumerate(zip(turns, world2cam, strict=True)):
            data += (
                struct.pack("<i7di", i, q[3], *q[:3], *pose[:3, 3], 1) + f"{i}.png\0".encode() + struct.pack("<Q", 0)
            )
        (folder / "images.bin").write_bytes(data)
    elif name == "ViPE":
        np.savez(folder / "pose.npz", inds=np.arange(FRAMES), data=poses)
        focals = np.tile([FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2], (FRAMES, 1))
        np.savez(folder / "intrinsics.npz", inds=np.arange(FRAMES), data=focals)
    elif name == "RealEstate10K":
        k = [FOCAL / WIDTH, FOCAL / HEIGHT, 0.5, 0.5, 0, 0]
        rows = [" ".join(map(repr, [i, *map(float, [*k, *pose[:3].ravel()])])) for i, pose in enumerate(world2cam)]
        (folder / "walk.txt").write_text("\n".join(["https://example.org/video", *rows]))
        return folder / "walk.txt"
    elif name == "geometry.npz":
        arrays = {"poses_c2w": poses, "intrinsics": np.asarray(scene.intrinsics), "depths": np.ones((FRAMES, 4, 6))}
        np.savez(folder / "geometry.npz", **arrays, original_size=np.array([HEIGHT, WIDTH]))
    elif name == "TUM":
        q = quaternions(poses[:, :3, :3])
        values = np.concatenate([np.arange(FRAMES)[:, None] / 30, poses[:, :3, 3], q], axis=1).tolist()
        rows = [" ".join(map(repr, row)) for row in values]
        (folder / "walk.txt").write_text("\n".join(["# timestamp tx ty tz qx qy qz qw", *rows]))
        return folder / "walk.txt"
    elif name == "KITTI":
        (folder / "00.txt").write_text("\n".join(" ".join(map(repr, map(float, pose[:3].ravel()))) for pose in poses))
        return folder / "00.txt"
    elif name == "npy":
        np.save(folder / "poses.npy", poses)
        return folder / "poses.npy"
    return folder


WITH_LENS = (
    "ours JSON",
    "ours npz",
    "COLMAP text",
    "COLMAP binary",
    "nerfstudio",
    "nerfstudio viewer",
    "ViPE",
    "RealEstate10K",
    "geometry.npz",
)
WITHOUT_LENS = ("TUM", "KITTI", "npy", "nerfstudio export")


@pytest.mark.parametrize("name", WITH_LENS + WITHOUT_LENS)
def test_every_format_gives_the_same_path_and_the_same_lens(name, tmp_path, scene):
    found = pose_files.load_path(write(name, tmp_path, scene), HEIGHT, WIDTH)
    np.testing.assert_allclose(found.cam2world, scene.cam2world, atol=1e-5)
    if name in WITHOUT_LENS:
        assert found.intrinsics is None
        return
    across = 2 * np.degrees(np.arctan(WIDTH / 2 / found.intrinsics[:, 0, 0]))
    np.testing.assert_allclose(across, ANGLE, atol=1e-3)
    assert f"{ANGLE:.1f} degrees across" in found.notes[0]


@pytest.mark.parametrize("name", WITHOUT_LENS)
def test_cameras_of_pictures_need_a_lens(name, tmp_path, scene):
    with pytest.raises(UserError, match="tells poses but no lens"):
        pose_files.load(write(name, tmp_path, scene), height=HEIGHT, width=WIDTH)


def test_the_lens_is_cut_as_a_picture_is_and_its_zoom_kept(tmp_path, scene):
    focal = np.linspace(512, 1024, FRAMES)
    zooming = scene.replace(intrinsics=scene.intrinsics * np.array([1, 1, 1])[:, None])
    zooming.intrinsics[:, 0, 0] = zooming.intrinsics[:, 1, 1] = focal
    pose_files.write_npz(tmp_path / "cameras.npz", zooming)
    found = pose_files.load_path(tmp_path / "cameras.npz", 128, 128)
    np.testing.assert_allclose(found.intrinsics[:, 0, 0], focal * 128 / HEIGHT, rtol=1e-6)
    np.testing.assert_allclose(found.intrinsics[:, :2, 2], 64, atol=1e-4)
    assert "45.3 across what 128x128 show of them, 23.6 at the end" in found.notes[0]
    assert pose_files.load_path(tmp_path / "cameras.npz", 128, 128, own_lens=False).intrinsics is None


def test_distortion_and_mixed_sizes_do_not_matter_for_a_path(tmp_path, scene):
    folder = write("COLMAP text", tmp_path, scene)
    lines = (folder / "images.txt").read_text().replace(" 1 8.png", " 2 8.png")
    (folder / "images.txt").write_text(lines)
    (folder / "cameras.txt").write_text(
        "1 OPENCV 640 427 512 512 320 213.5 0.1 0 0 0\n2 OPENCV_FISHEYE 1280 854 1024 1024 640 427 0.1 0 0 0\n"
    )
    found = pose_files.load_path(folder, HEIGHT, WIDTH)
    np.testing.assert_allclose(found.intrinsics[:, 0, 0], FOCAL)
    assert "images of 2 sizes" in found.notes[0]
    assert "camera 1 has a distorted lens (OPENCV): the path keeps poses and focal length" in found.notes[1]
    with pytest.raises(UserError, match="distorted lens"):
        pose_files.load(folder)


def test_poses_far_from_the_origin_keep_their_steps(tmp_path, scene):
    """As georeferenced models have them: in float32 a step of 0.1 would be lost."""
    poses = np.tile(np.eye(4), (3, 1, 1))
    poses[:, 0, 3] = 4_500_000.0 + np.array([0, 0.1, 0.2])
    np.save(tmp_path / "poses.npy", poses)
    found = pose_files.load_path(tmp_path / "poses.npy", 64, 64).cam2world
    np.testing.assert_allclose(np.diff(found[:, 0, 3]), 0.1, atol=1e-8)


def test_a_header_that_counts_more_images_is_an_error(tmp_path, scene):
    folder = write("COLMAP text", tmp_path, scene)
    lines = (folder / "images.txt").read_text().splitlines()
    (folder / "images.txt").write_text("\n".join(lines[:-4]))
    with pytest.raises(UserError, match="holds 7 images, its header says 9; is it complete"):
        pose_files.load_path(folder, 64, 64)


def test_images_may_be_called_by_a_number(tmp_path, scene):
    folder = write("COLMAP text", tmp_path, scene)
    text = (folder / "images.txt").read_text().replace(".png", "")
    (folder / "images.txt").write_text(text.replace("\n\n", "\n10.5 20.5 -1 11 21 3 1 2 3 4 5 6\n"))
    found = pose_files.load_path(folder, HEIGHT, WIDTH)
    np.testing.assert_allclose(found.cam2world, scene.cam2world, atol=1e-5)

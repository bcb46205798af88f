"""Camera files in every format: the same two cameras come out, and a known point falls on a known pixel."""

import json

import numpy as np
import PIL.Image
import pose_samples as samples
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirage_jax import viz
from mirage_jax.errors import UserError
from mirage_jax.geometry import Camera, lift, pose_files, project


def sample_camera():
    return Camera(
        intrinsics=np.tile(samples.INTRINSICS, (2, 1, 1)).astype(np.float32),
        cam2world=samples.CAM2WORLD.astype(np.float32),
        height=samples.HEIGHT,
        width=samples.WIDTH,
    )


@pytest.mark.parametrize("name", samples.FORMATS)
def test_every_format_gives_the_same_cameras(name, tmp_path):
    path = samples.FORMATS[name](tmp_path)
    loaded = pose_files.load(path, height=samples.HEIGHT, width=samples.WIDTH)
    assert name in loaded.format
    assert f"{loaded.format}, 2 cameras of 128x96 pixels" in str(loaded)
    assert loaded.camera.intrinsics.dtype == loaded.camera.cam2world.dtype == np.float32
    np.testing.assert_allclose(loaded.camera.cam2world, samples.CAM2WORLD, atol=1e-6)
    np.testing.assert_allclose(loaded.camera.intrinsics, np.tile(samples.INTRINSICS, (2, 1, 1)), rtol=1e-6)


@pytest.mark.parametrize("name", samples.FORMATS)
def test_a_known_point_falls_on_a_known_pixel(name, tmp_path):
    loaded = pose_files.load(samples.FORMATS[name](tmp_path), height=samples.HEIGHT, width=samples.WIDTH)
    uv, depth = project(loaded.camera[0], np.array(samples.POINT, np.float32))
    np.testing.assert_allclose(uv, samples.PIXEL, atol=1e-4)
    np.testing.assert_allclose(depth, samples.DEPTH, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["Spatia", "nerfstudio", "COLMAP model (text)", "COLMAP model (binary)", "PyTorch release"]
)
def test_formats_that_know_their_image_size_need_no_other(name, tmp_path):
    path = samples.FORMATS[name](tmp_path)
    camera = pose_files.load(path).camera
    assert (camera.height, camera.width) == (96, 128)
    if name != "Spatia":  # whose intrinsics fit any size
        with pytest.raises(UserError, match=r"for images of 128x96 pixels \(width x height\); expected 256x256"):
            pose_files.load(path, height=256, width=256)


@pytest.mark.parametrize("name", ["RealEstate10K", "ViPE"])
def test_formats_that_do_not_know_their_image_size_ask_for_it(name, tmp_path):
    with pytest.raises(UserError, match="does not say how large its images are"):
        pose_files.load(samples.FORMATS[name](tmp_path))


@pytest.mark.parametrize("name", ["RealEstate10K", "Spatia"])
def test_normalised_intrinsics_fit_any_size(name, tmp_path):
    camera = pose_files.load(samples.FORMATS[name](tmp_path), height=48, width=256).camera
    np.testing.assert_allclose(camera.intrinsics[0], [[160, 0, 140], [0, 48, 22.5], [0, 0, 1]], rtol=1e-6)


def test_what_comes_with_the_cameras(tmp_path):
    case = pose_files.load(samples.spatia(tmp_path))
    assert case.image == tmp_path / "img.jpg"
    assert case.mask is None
    assert case.prompt == "a corridor with doors"
    for make, names in (
        (samples.nerfstudio, ("frame_9.png", "frame_10.png")),
        (samples.colmap_text, ("walk 9.jpg", "walk 10.jpg")),
        (samples.realestate, ("33000", "66000")),
        (samples.vipe, ("3", "8")),
    ):
        folder = tmp_path / make.__name__
        folder.mkdir()
        assert pose_files.load(make(folder), height=96, width=128).names == names


twists = st.lists(st.tuples(*[st.floats(-3, 3, width=32)] * 6), min_size=1, max_size=4)


@settings(max_examples=20, deadline=None)
@given(twists, st.floats(20, 300, width=32), st.sampled_from(["json", "npz"]))
def test_our_own_files_keep_every_bit(tmp_path_factory, poses, focal, suffix):
    count = len(poses)
    intrinsics = np.tile(np.array([[focal, 0.1, 31.3], [0, focal * 1.2, 17.7], [0, 0, 1]], np.float32), (count, 1, 1))
    cam2world = np.asarray(se3_exp(np.array(poses, np.float32)))
    camera = Camera(intrinsics=intrinsics, cam2world=cam2world, height=40, width=60)
    path = tmp_path_factory.mktemp("ours") / f"cameras.{suffix}"
    {"json": pose_files.write_json, "npz": pose_files.write_npz}[suffix](path, camera)
    loaded = pose_files.load(path)
    assert "mirage-jax cameras" in loaded.format
    assert (loaded.camera.height, loaded.camera.width) == (40, 60)
    assert np.array_equal(loaded.camera.intrinsics, intrinsics)
    assert np.array_equal(loaded.camera.cam2world, cam2world)


def se3_exp(twists):
    """Rigid transforms by numpy in float64, to be rounded once."""
    result = np.tile(np.eye(4), (len(twists), 1, 1))
    for i, twist in enumerate(np.float64(twists)):
        angle = np.linalg.norm(twist[3:])
        axis = twist[3:] / angle if angle else np.zeros(3)
        cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
        result[i, :3, :3] = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
        result[i, :3, 3] = twist[:3]
    return result.astype(np.float32)


def test_our_json_is_for_people_and_says_its_version(tmp_path):
    path = tmp_path / "cameras.json"
    pose_files.write_json(path, sample_camera())
    content = json.loads(path.read_text())
    assert (content["format"], content["version"], content["height"], content["width"]) == (
        "mirage-jax cameras",
        1,
        96,
        128,
    )
    assert np.array_equal(content["cam2world"], samples.CAM2WORLD)
    assert len(path.read_text().splitlines()) == 15
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(UserError, match=r"cameras\.json: the format version is 2; expected 1"):
        pose_files.load(path)


def test_only_arrays_of_finite_cameras_are_written(tmp_path):
    camera = sample_camera()
    with pytest.raises(ValueError, match="one leading axis"):
        pose_files.write_json(tmp_path / "a.json", camera[0])
    with pytest.raises(ValueError, match="NaN or infinity"):
        pose_files.write_npz(tmp_path / "a.npz", camera.replace(cam2world=camera.cam2world * np.nan))
    with pytest.raises(UserError, match=r"expected a name that ends in \.npz"):
        pose_files.write_npz(tmp_path / "a.numpy", camera)


def test_rounded_rotations_become_rotations_and_exact_ones_keep_their_bits(tmp_path):
    exact = se3_exp(np.array([[1, 2, 3, 0.3, -0.5, 0.2], [0, 0, 0, 1.0, 2.0, -0.5]]))
    content = {"fl_x": 80, "fl_y": 96, "w": 128, "h": 96}
    for digits, same in ((3, False), (9, True)):
        frames = [{"transform_matrix": np.round(pose.astype(np.float64), digits).tolist()} for pose in exact]
        (tmp_path / "transforms.json").write_text(json.dumps(content | {"frames": frames}))
        loaded = pose_files.load(tmp_path / "transforms.json").camera.cam2world
        rotations = loaded[:, :3, :3].astype(np.float64)
        assert np.abs(rotations.transpose(0, 2, 1) @ rotations - np.eye(3)).max() < 1e-6
        assert (np.linalg.det(rotations) > 0).all()
        opencv = exact * np.array([1, -1, -1, 1], np.float32)
        assert np.array_equal(loaded, opencv) == same
        np.testing.assert_allclose(loaded, opencv, atol=1e-3)


def test_blender_field_of_view(tmp_path):
    frames = [{"file_path": "r_0", "transform_matrix": samples.OPENGL[0].tolist()}]
    (tmp_path / "transforms.json").write_text(json.dumps({"camera_angle_x": np.pi / 2, "frames": frames}))
    camera = pose_files.load(tmp_path / "transforms.json", height=96, width=128).camera
    np.testing.assert_allclose(camera.intrinsics[0], [[64, 0, 64], [0, 64, 48], [0, 0, 1]], rtol=1e-6)


def test_release_depth_cut_by_the_network_gets_its_own_camera(tmp_path):
    """A wall 4 in front of the camera, seen by a network that scales 72x128 to 28x49.8 and keeps the middle 28x42."""
    full = (72, 128)
    intrinsics = np.array([[80, 0, 64], [0, 80, 36], [0, 0, 1]], np.float32)
    np.savez(
        tmp_path / "geometry.npz",
        depths=np.full((1, 28, 42), 4.0, np.float32),
        intrinsics=intrinsics[None],
        poses_c2w=np.eye(4)[None],
        original_size=np.array(full),
        processed_size=np.array([28, 42]),
    )
    loaded = pose_files.load(tmp_path / "geometry.npz")
    assert (loaded.camera.height, loaded.camera.width) == full
    assert np.array_equal(loaded.camera.intrinsics[0], intrinsics)
    # The left edge of the depth map shows what is 64 - (42 / 28) * 72 / 2 = 10 pixels from the left of the frame.
    points = lift(loaded.depth.camera, loaded.depth.depth)
    uv, _ = project(loaded.camera, points)
    step = 72 / 28
    np.testing.assert_allclose(uv[0, 0, 0], [10 + step / 2, step / 2], atol=1e-4)
    np.testing.assert_allclose(uv[0, -1, -1], [118 - step / 2, 72 - step / 2], atol=1e-4)


@pytest.mark.parametrize("stated", ["original", "processed"])
def test_release_intrinsics_are_for_the_size_whose_middle_they_have(tmp_path, stated):
    """Frames of 64x128 cut from 72x128, whose intrinsics may be for either."""
    centre = {"original": (64.0, 36.0), "processed": (64.0, 32.0)}[stated]
    intrinsics = np.array([[80, 0, centre[0]], [0, 80, centre[1]], [0, 0, 1]], np.float32)
    np.savez(
        tmp_path / "geometry.npz",
        frames=np.zeros((1, 64, 128, 3), np.uint8),
        depths=np.array([np.nan, -1.0, np.inf, 2.0] * 2048, np.float32).reshape(1, 64, 128),
        masks=np.zeros((1, 64, 128), bool),
        intrinsics=intrinsics[None],
        poses_c2w=np.eye(4)[None],
        original_size=np.array([72, 128]),
        processed_size=np.array([64, 128]),
    )
    loaded = pose_files.load(tmp_path / "geometry.npz")
    for camera in (loaded.camera, loaded.depth.camera):
        assert (camera.height, camera.width) == (64, 128)
        np.testing.assert_allclose(camera.intrinsics[0], [[80, 0, 64], [0, 80, 32], [0, 0, 1]], rtol=1e-6)
    assert np.array_equal(loaded.depth.depth[0, 0, :4], [0, 0, np.inf, 2])
    assert not loaded.depth.keep.any()


@pytest.mark.parametrize("name", ["clip.mp4", "first_frame.png"])
def test_release_frames_beside_the_file_set_the_size(tmp_path, name):
    """Depth of 32x32 is the middle of frames of 32x64, which only the pictures beside the file tell."""
    frames = np.zeros((2, 32, 64, 3), np.uint8)
    if name == "clip.mp4":
        viz.write_video(tmp_path / name, frames)
    else:
        PIL.Image.fromarray(frames[0]).save(tmp_path / name)
    np.savez(
        tmp_path / "geometry.npz",
        depths=np.ones((2, 32, 32), np.float32),
        intrinsics=np.tile(np.array([[40, 0, 32], [0, 40, 16], [0, 0, 1.0]]), (2, 1, 1)),
        poses_c2w=np.tile(np.eye(4), (2, 1, 1)),
        original_size=np.array([-1, -1]),
        processed_size=np.array([32, 32]),
    )
    loaded = pose_files.load(tmp_path)
    assert (loaded.camera.height, loaded.camera.width) == (32, 64)
    assert np.array_equal(loaded.camera.intrinsics[0], [[40, 0, 32], [0, 40, 16], [0, 0, 1]])
    assert np.array_equal(loaded.depth.camera.intrinsics[0], [[40, 0, 16], [0, 40, 16], [0, 0, 1]])
    (tmp_path / name).write_bytes(b"broken")
    with pytest.raises(UserError, match=r"damaged, or not the pictures that go with geometry\.npz"):
        pose_files.load(tmp_path)

"""Every format that users bring, written by hand: cameras, pictures, depth and masks of the same frames."""

import io
import json
import pathlib
import sys
import zipfile

import numpy as np
import OpenEXR
import PIL.Image
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "geometry"))
import pose_samples

from experiments.posed_video import pictures, scene_depth, scenes
from mirage_jax.errors import UserError
from mirage_jax.geometry import Camera
from mirage_jax.viz import video

HEIGHT, WIDTH = pose_samples.HEIGHT, pose_samples.WIDTH
COLOURS = [(200, 30, 60), (20, 180, 90)]  # of frame 0 and frame 1


def picture(path, colour, size=(WIDTH, HEIGHT)):
    path.parent.mkdir(exist_ok=True)
    PIL.Image.new("RGB", size, colour).save(path, quality=95)


def with_pictures(folder, name):
    """A scene of two frames in the format called `name`; the suffix of a caption's name."""
    pose_samples.FORMATS[name](folder)
    if name == "RealEstate10K":
        for time, colour in zip(("33000", "66000"), COLOURS, strict=True):
            picture(folder / "clip" / f"{time}.png", colour)
        picture(folder / "clip" / "50000.png", (0, 0, 0))  # of no camera
    elif name == "Spatia":
        for i, colour in enumerate(COLOURS):
            picture(folder / "frames" / f"{i}.png", colour)
    elif name == "nerfstudio":
        for i, colour in enumerate(COLOURS):
            picture(folder / f"frame_{9 + i}.png", colour)
    elif name.startswith("COLMAP"):
        for i, colour in enumerate(COLOURS):
            picture(folder / "images" / f"walk {9 + i}.jpg", colour)
    elif name == "ViPE":  # whose cameras are of frames 3 and 8
        for i in range(9):
            picture(folder / "rgb" / f"{i}.png", {3: COLOURS[0], 8: COLOURS[1]}.get(i, (0, 0, 0)))
    elif name == "ViPE results":
        frames = np.stack([np.full((HEIGHT, WIDTH, 3), colour, np.uint8) for colour in COLOURS])
        (folder / "rgb").mkdir()
        video.write_video(folder / "rgb" / "walk.mp4", frames)
    else:
        with np.load(folder / "geometry.npz") as stored:
            values = dict(stored)
        values["frames"][:] = np.array(COLOURS, np.uint8)[:, None, None]
        np.savez(folder / "geometry.npz", **values)


@pytest.mark.parametrize("name", pose_samples.FORMATS)
def test_cameras_and_pictures_of_every_format(tmp_path, name):
    folder = tmp_path / "scene"
    folder.mkdir()
    with_pictures(folder, name)
    (scene,) = scenes.find(tmp_path)
    expected = {"RealEstate10K": "scene/clip", "ViPE results": "scene/walk"}.get(name, "scene")
    assert scene.name == expected
    (tmp_path / f"{expected}.prompt.txt").write_text("red,\nthen green\n")
    opened = scene.open()
    np.testing.assert_allclose(opened.camera.intrinsics, np.tile(pose_samples.INTRINSICS, (2, 1, 1)), rtol=1e-5)
    np.testing.assert_allclose(opened.camera.cam2world, pose_samples.CAM2WORLD, atol=1e-6)
    assert opened.caption == ("a corridor with doors" if name == "Spatia" else "red, then green")
    shown = [np.asarray(x) for x in opened.pictures.read([0, 1])]
    assert all(x.shape == (HEIGHT, WIDTH, 3) for x in shown)
    lossy = 8 if name == "ViPE results" or "COLMAP" in name else 0
    for pixels, colour in zip(shown, COLOURS, strict=True):
        assert np.abs(pixels.astype(int) - colour).max() <= lossy
    assert [np.asarray(x)[0, 0].tolist() for x in opened.pictures.read([1])] == [shown[1][0, 0].tolist()]
    if name == "PyTorch release":
        depth, moving = opened.depth.on(opened.camera[1], 1)
        assert (depth == 4).all() and not moving.any()
    else:
        assert opened.depth is None


def exr(values):
    file = io.BytesIO()
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    OpenEXR.File(header, {"Z": np.ascontiguousarray(values)}).write(file)
    return file.getvalue()


def png(values):
    file = io.BytesIO()
    PIL.Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


def archive(path, entries):
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        for name, content in entries.items():
            file.writestr(name, content)


def test_depth_and_masks_of_vipe(tmp_path):
    with_pictures(tmp_path, "ViPE results")
    depth = np.full((HEIGHT, WIDTH), 3.0, np.float16)
    depth[5, 7], depth[6, 8] = 2.5, np.nan
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[10:20, 30:40], mask[:4] = 3, 2
    archive(tmp_path / "depth" / "walk.zip", {"00000.exr": exr(depth), "00001.exr": b"damaged"})
    archive(tmp_path / "mask" / "walk.zip", {"00000.png": png(mask)})
    (tmp_path / "mask" / "walk.txt").write_text("0: background\n2: sky\n3: a person: walking\n")
    (scene,) = scenes.find(tmp_path)
    opened = scene.open()
    found, moving = opened.depth.on(opened.camera[0], 0)
    expected = depth.astype(np.float32)
    expected[6, 8], expected[:4] = 0, np.inf
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(moving, mask == 3)
    with pytest.raises(UserError, match=r"walk\.zip: 00001\.exr cannot be read"):
        opened.depth.on(opened.camera[1], 1)
    archive(tmp_path / "depth" / "walk.zip", {"00000.exr": exr(depth)})
    opened = scene.open()
    assert not np.any(opened.depth.on(opened.camera[1], 1))  # nothing is known of that frame
    (tmp_path / "depth" / "walk.zip").write_bytes(b"no zip")
    with pytest.raises(UserError, match="not a zip file"):
        scene.open()


def test_depth_and_masks_of_nerfstudio(tmp_path):
    with_pictures(tmp_path, "nerfstudio")
    content = json.loads((tmp_path / "transforms.json").read_text())
    content["frames"][1] |= {"depth_file_path": "depth_9.png", "mask_path": "mask_9.png"}  # frame 9, which comes first
    content["frames"][0] |= {"depth_file_path": "depth_10.npy"}
    for frame in content["frames"]:
        frame["file_path"] = "./" + frame["file_path"].removesuffix(".png")  # as Blender writes it
    del content["w"], content["h"]
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    millimetres = np.full((HEIGHT, WIDTH), 2500, np.uint16)
    millimetres[3, 4] = 0
    (tmp_path / "depth_9.png").write_bytes(png(millimetres))
    np.save(tmp_path / "depth_10.npy", np.full((HEIGHT, WIDTH), 40_000.0))
    keep = np.full((HEIGHT, WIDTH), 255, np.uint8)
    keep[50:, :60] = 0
    (tmp_path / "mask_9.png").write_bytes(png(keep))
    (scene,) = scenes.find(tmp_path)
    opened = scene.open()
    depth, moving = opened.depth.on(opened.camera[0], 0)
    np.testing.assert_allclose(depth, millimetres / 1000, rtol=1e-6)
    np.testing.assert_array_equal(moving, keep == 0)
    depth, moving = opened.depth.on(opened.camera[1], 1)
    np.testing.assert_allclose(depth, 40, rtol=1e-6)
    assert not moving.any()


def test_maps_take_the_nearest_cell_of_a_view_that_sees_less():
    """Maps of 2x4 cells over the middle half of a picture of 8x16 pixels: a cell is 2x2 pixels, from (2, 4) on."""
    k = np.array([[10.0, 0, 8], [0, 10, 4], [0, 0, 1]], np.float32)
    target = Camera(k, np.eye(4, dtype=np.float32), 8, 16)
    seen = Camera(np.array([[[10.0, 0, 4], [0, 10, 2], [0, 0, 1]]], np.float32), np.eye(4)[None], 4, 8)
    values = np.arange(1.0, 9).reshape(2, 4).astype(np.float32)
    depth = scene_depth.Depth(seen, lambda frame: scene_depth.Maps(values, values == 6))
    found, moving = depth.on(target, 0)
    expected = np.zeros((8, 16), np.float32)
    expected[2:6, 4:12] = np.kron(values, np.ones((2, 2)))
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(moving, expected == 6)


def test_pictures_smaller_than_the_cameras_say(tmp_path):
    """nerfstudio's `images_2`: the intrinsics are for twice the size."""
    pose_samples.nerfstudio(tmp_path)
    for i in (9, 10):
        picture(tmp_path / f"frame_{i}.png", COLOURS[0], (64, 48))
    opened = scenes.find(tmp_path)[0].open()
    assert (opened.camera.height, opened.camera.width) == (48, 64)
    np.testing.assert_allclose(opened.camera.intrinsics[0], [[40, 0, 35], [0, 48, 22.5], [0, 0, 1]])
    picture(tmp_path / "frame_9.png", COLOURS[0], (64, 64))
    with pytest.raises(UserError, match=r"pictures of 128x96 pixels .*, the pictures have 64x64"):
        scenes.find(tmp_path)[0].open()


def test_many_scenes_in_folders_in_folders(tmp_path):
    for place in ("b/one", "b/two", "a"):
        (tmp_path / place).mkdir(parents=True)
        with_pictures(tmp_path / place, "COLMAP model (text)" if place != "a" else "RealEstate10K")
    (tmp_path / "b" / "one" / "again").symlink_to(tmp_path)  # leads back
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    (tmp_path / "notes.txt").write_text("nothing to see\n")
    assert [scene.name for scene in scenes.find(tmp_path)] == ["a/clip", "b/one", "b/two"]
    with pytest.raises(UserError, match="holds no scene"):
        scenes.find(tmp_path / "a" / "clip")
    with pytest.raises(UserError, match="there is no folder"):
        scenes.find(tmp_path / "c")


def test_a_damaged_camera_text_beside_pictures_is_still_a_scene(tmp_path):
    with_pictures(tmp_path, "RealEstate10K")
    text = tmp_path / "clip.txt"
    text.write_text("\n".join(row.rpartition(" ")[0] for row in text.read_text().splitlines()))
    (scene,) = scenes.find(tmp_path)
    with pytest.raises(UserError, match=r"clip\.txt"):
        scene.open()


def test_pictures_that_cannot_be_read(tmp_path):
    for i in range(3):
        picture(tmp_path / "p" / f"{i}.png", COLOURS[0], (40, 32))
    damaged = tmp_path / "p" / "1.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    files = pictures.find(tmp_path / "p")
    with pytest.raises(UserError, match=r"1\.png is not a picture that can be read"):
        list(files.read([0, 1, 2]))
    damaged.unlink()
    with pytest.raises(UserError, match=r"there is no picture .*1\.png"):
        list(files.read([0, 1]))
    picture(damaged, COLOURS[0], (32, 32))
    with pytest.raises(UserError, match=r"1\.png has 32x32 pixels, the first picture 40x32"):
        list(files.read([0, 1]))
    with pytest.raises(UserError, match="there are 3 pictures for 4 cameras"):
        pictures.in_order(files, 4)


def test_videos_that_are_not_whole(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (9, 32, 40, 3)).astype(np.uint8)
    video.write_video(tmp_path / "v.mp4", frames)
    found = pictures.find(tmp_path / "v")
    assert found.size == (32, 40) and len(list(found.read([0, 4, 8]))) == 3
    assert len(list(pictures.in_order(found, 9).read([0, 8]))) == 2
    for count in (8, 10):
        with pytest.raises(UserError, match=f"has 9 pictures, expected {count}"):
            list(pictures.in_order(found, count).read([0, 1]))
    with pytest.raises(UserError, match="expected more than 9"):
        list(found.read([0, 9]))
    content = (tmp_path / "v.mp4").read_bytes()
    (tmp_path / "v.mp4").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"v\.mp4"):
        _ = found.size
    with pytest.raises(UserError, match=r"v\.mp4"):
        list(found.read([0]))

"""From folders of scenes to a data set and back: pixels, cameras and depth worked out by hand; bad scenes by name."""

import json
import pathlib
import sys

import numpy as np
import PIL.Image
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "posed_video"))
from test_scenes import archive, exr

from experiments.worlds import posed_folder
from mirage_jax import data
from mirage_jax.data.clip import check
from mirage_jax.errors import UserError
from mirage_jax.viz import video

HEIGHT, WIDTH, FOCAL = 32, 40, 40.0


def noise(seed, frames):
    """A wall two metres away, seen by a camera that moves right by 0.1 metres, 2 pixels, a frame."""
    wall = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH + 2 * frames, 3), np.uint8)
    return np.stack([wall[:, 2 * t : 2 * t + WIDTH] for t in range(frames)])


def realestate(folder, name, pixels, scale=1.0, as_video=False):
    """Cameras that move right, with pictures in files or in a video."""
    rows = ["https://example.org"]
    for t in range(len(pixels)):
        pose = scale * np.eye(3, 4)
        pose[0, 3] = -0.1 * t
        rows.append(" ".join(map(str, [33 * t, FOCAL / WIDTH, FOCAL / HEIGHT, 0.5, 0.5, 0, 0, *pose.ravel()])))
    (folder / f"{name}.txt").write_text("\n".join(rows))
    if as_video:
        video.write_video(folder / f"{name}.mp4", pixels)
    else:
        (folder / name).mkdir()
        for t, picture in enumerate(pixels):
            PIL.Image.fromarray(picture).save(folder / name / f"{t}.png")


def vipe(folder, name, pixels, metres=2.0):
    """The same as ViPE results, with depth maps of half the size and no masks."""
    for kind, values in (
        ("pose", np.stack([np.eye(4) + 0.1 * t * np.eye(4)[:, :1] @ np.eye(4)[3:] for t in range(len(pixels))])),
        ("intrinsics", np.tile([FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2], (len(pixels), 1))),
    ):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        np.savez(folder / kind / f"{name}.npz", inds=np.arange(len(pixels)), data=values)
    (folder / "rgb" / name).mkdir(parents=True)
    for t, picture in enumerate(pixels):
        PIL.Image.fromarray(picture).save(folder / "rgb" / name / f"{t}.png")
    maps = np.full((HEIGHT // 2, WIDTH // 2), metres, np.float16)
    archive(folder / "depth" / f"{name}.zip", {f"{t:05d}.exr": exr(maps) for t in range(len(pixels))})


def build(source, out, **changes):
    wanted = {"frames": 5, "height": 32, "width": 32, "validation_share": 0.0} | changes
    return posed_folder.build_posed(source, out, wanted.pop("split", "train"), **wanted)


def test_pixels_and_cameras_come_back(tmp_path):
    (tmp_path / "in").mkdir()
    pixels = noise(0, 20)
    realestate(tmp_path / "in", "walk", pixels)
    (tmp_path / "in" / "walk" / "prompt.txt").write_text("along a wall")
    part = build(tmp_path / "in", tmp_path / "out", stride=2)
    source = data.load_source(tmp_path / "out", "train")
    clips = sorted((source.clip(i) for i in range(len(source))), key=lambda clip: clip.source)
    # A clip spans 9 frames; the windows are 0 to 8 and 10 to 18.
    assert [clip.source for clip in clips] == ["posed/walk/frame000000", "posed/walk/frame000010"]
    for clip, start in zip(clips, (0, 10), strict=True):
        check(clip)
        chosen = start + 2 * np.arange(5)
        np.testing.assert_array_equal(clip.frames, pixels[chosen, :, 4:36])  # 40 columns cut to 32
        expected = np.tile(np.array([[40, 0, 16], [0, 40, 16], [0, 0, 1]], np.float32), (5, 1, 1))
        np.testing.assert_allclose(clip.intrinsics, expected, atol=1e-4)
        poses = np.tile(np.eye(4), (5, 1, 1))
        poses[:, 0, 3] = 0.1 * chosen
        np.testing.assert_allclose(clip.cam2world, poses, atol=1e-6)
        assert not clip.depth.any() and not clip.dynamic.any() and clip.caption == "along a wall"
    report = json.loads((part / "report.json").read_text())
    assert report["clips"] == {"written": 2, "with_depth": 0, "rejected": {}}
    assert report["scenes"]["clips"] == {"walk": 2} and report["scenes"]["by_format"] == {"RealEstate10K text": 1}
    assert report["config"]["stride"] == 2 and "av" in report["versions"]
    assert sorted(path.name for path in part.iterdir()) == ["clips", "downloads", "report.json"]


def test_pictures_are_scaled_with_their_cameras(tmp_path):
    (tmp_path / "in").mkdir()
    grey = np.repeat(np.arange(50, 55, dtype=np.uint8)[:, None, None, None], 3, axis=3)
    realestate(tmp_path / "in", "walk", np.broadcast_to(grey, (5, HEIGHT, WIDTH, 3)))
    build(tmp_path / "in", tmp_path / "out", height=64, width=48)
    clip = data.load_source(tmp_path / "out", "train").clip(0)
    assert clip.frames.shape == (5, 64, 48, 3) and (clip.frames == grey).all()
    # Twice as large, 80x64, and 16 columns cut off on each side.
    np.testing.assert_allclose(clip.intrinsics[3], [[80, 0, 24], [0, 80, 32], [0, 0, 1]], atol=1e-4)


def test_depth_comes_back_and_must_explain_the_pictures(tmp_path):
    vipe(tmp_path / "in", "good", noise(1, 11))
    vipe(tmp_path / "in", "wrong", noise(2, 5), metres=4.0)
    part = build(tmp_path / "in", tmp_path / "out")
    source = data.load_source(tmp_path / "out", "train")
    assert sorted(source[i]["source"] for i in range(len(source))) == [
        "posed/good/frame000000",
        "posed/good/frame000005",
    ]
    for i in range(2):
        assert (source[i]["depth"] == 2).all() and source[i]["valid"].all()
    report = json.loads((part / "report.json").read_text())
    assert report["clips"]["with_depth"] == 2
    assert report["clips"]["rejected"] == {"posed/wrong/frame000000": "photometric residual"}
    assert report["scenes"]["bad"] == {"wrong": "none of its clips is usable, the last for: photometric residual"}
    assert report["residual_percentiles"]["photometric"]["100"] == 0
    loose = posed_folder.verify.Bounds(photometric=1.0, depth=1.0, contradiction=1.0)
    build(tmp_path / "in", tmp_path / "out", bounds=loose, part=1)
    assert len(data.load_source(tmp_path / "out", "train")) == 2 + 3


@pytest.fixture
def bad(tmp_path):
    """One good scene, and one of each kind of bad one."""
    folder = tmp_path / "in"
    folder.mkdir()
    realestate(folder, "good", noise(0, 6))
    realestate(folder, "short", noise(0, 4))
    realestate(folder, "scaled", noise(0, 6), scale=2.0)
    for name, spoil in (
        ("damaged", lambda file: file.write_bytes(file.read_bytes()[:200])),
        ("missing", pathlib.Path.unlink),
    ):
        realestate(folder, name, noise(0, 12))
        spoil(folder / name / "7.png")  # its first clip could be read
    realestate(folder, "cut", noise(0, 6), as_video=True)
    (folder / "cut.mp4").write_bytes((folder / "cut.mp4").read_bytes()[:3000])
    for name, as_video in (("longer", False), ("longer_video", True)):  # than its cameras, by one picture
        realestate(folder, name, noise(0, 8), as_video=as_video)
        (folder / f"{name}.txt").write_text("\n".join((folder / f"{name}.txt").read_text().splitlines()[:-1]))
    for name, change in ODD.items():
        odd(folder / name, change)
    return folder


def odd(folder, change):
    """A nerfstudio scene with something in the wrong place."""
    folder.mkdir()
    frames = []
    for number, picture in enumerate(noise(0, 6)):
        PIL.Image.fromarray(picture).save(folder / f"{number}.png")
        frames.append({"file_path": f"{number}.png", "transform_matrix": np.eye(4).tolist()})
    lens = {"fl_x": 20, "fl_y": 20, "cx": 16, "cy": 12, "w": picture.shape[1], "h": picture.shape[0]}
    frames[3] |= change
    (folder / "transforms.json").write_text(json.dumps(lens | {"frames": frames}))


ODD = {
    "size_list": {"w": [1]},
    "size_huge": {"w": 10**400},
    "long_name": {"file_path": "x" * 5000},
    "depth_dict": {"depth_file_path": {}},
    "mask_number": {"mask_path": 7},
}


def test_bad_scenes_are_named_and_skipped(bad, tmp_path):
    part = build(bad, tmp_path / "out", bad_scenes=7 + len(ODD))
    source = data.load_source(tmp_path / "out", "train")
    assert [source[i]["source"] for i in range(len(source))] == ["posed/good/frame000000"]
    reasons = json.loads((part / "report.json").read_text())["scenes"]["bad"]
    assert set(reasons) == {"short", "scaled", "damaged", "missing", "cut", "longer", "longer_video", *ODD}
    assert all(
        len(reason) < 500 and "transforms.json" in reasons[name] for name, reason in reasons.items() if name in ODD
    )
    assert reasons["short"] == "it has 4 frames, a clip takes 5 (--frames=5 --stride=1)"
    assert "is scaled by 2" in reasons["scaled"]
    assert "7.png is not a picture that can be read" in reasons["damaged"]
    assert "11 pictures for 12 cameras" in reasons["missing"]
    assert "cut.mp4" in reasons["cut"]
    assert "8 pictures for 7 cameras" in reasons["longer"]
    assert "longer_video.mp4 has 8 pictures, expected 7" in reasons["longer_video"]


def test_too_many_bad_scenes_leave_nothing(bad, tmp_path):
    with pytest.raises(UserError, match=r"^6 bad scenes, more than --bad_scenes=5: cut \(.*; and 3 more$"):
        build(bad, tmp_path / "out", bad_scenes=5)
    assert not list((tmp_path / "out").glob("**/*"))


def test_no_clip_at_all_leaves_nothing(tmp_path):
    (tmp_path / "in").mkdir()
    realestate(tmp_path / "in", "short", noise(0, 4))
    with pytest.raises(UserError, match=r"no clip of split 'train' could be cut from .*short"):
        build(tmp_path / "in", tmp_path / "out")
    assert not list((tmp_path / "out").glob("**/*"))


def test_splits_share_no_scene_and_depend_on_names_alone(tmp_path):
    names = [f"scene {i}" for i in range(2000)]
    parts = {split: {n for n in names if posed_folder.in_split(n, split, 0.1)} for split in posed_folder.SPLITS}
    assert parts["train"] | parts["validation"] == set(names) and not parts["train"] & parts["validation"]
    assert 150 < len(parts["validation"]) < 250
    assert parts["validation"] < {n for n in names if posed_folder.in_split(n, "validation", 0.2)}
    (tmp_path / "in").mkdir()
    realestate(tmp_path / "in", "walk", noise(0, 5))
    with pytest.raises(UserError, match=r"none of the 1 scenes in .* falls into split 'validation'"):
        build(tmp_path / "in", tmp_path / "out", split="validation")
    build(tmp_path / "in", tmp_path / "out", split="validation", validation_share=1.0)
    assert len(data.load_source(tmp_path / "out", "validation")) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": 6}, r"4k \+ 1"),
        ({"split": "test"}, "--split is 'test'"),
        ({"stride": 0}, r"--stride 0 \(at least 1\)"),
        ({"width": 8}, "--width 8"),
        ({"validation_share": 1.5}, "--validation_share is 1.5"),
    ],
)
def test_bad_requests(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        build(tmp_path, tmp_path / "out", **change)

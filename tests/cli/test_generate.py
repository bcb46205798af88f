"""`generate` as a person meets it: wrong input is one sentence and exit 2, a path is drawn, a world goes on."""

import json
import pathlib

import av
import numpy as np
import PIL.Image
import pytest
from commands import run

from mirage_jax import viz

REFUSED = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures and paths, good and bad."""
    path = tmp_path_factory.mktemp("input")
    pixels = np.random.default_rng(0).integers(0, 256, (90, 160, 3), np.uint8)
    PIL.Image.fromarray(pixels).save(path / "room.png")
    (path / "cut.png").write_bytes((path / "room.png").read_bytes()[:2000])
    (path / "text.png").write_text("not a picture")
    viz.write_video(path / "clip.mp4", np.stack([pixels] * 3))
    np.save(path / "edge.npy", np.eye(90, 160, -80, dtype=np.float32))
    np.save(path / "small.npy", np.ones((4, 4), np.float32))
    np.save(path / "nan.npy", np.full((90, 160), np.nan, np.float32))
    np.save(path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    (path / "old_model").mkdir()
    (path / "old_model" / "model.json").write_text('{"name": "old", "wheels": 4}')
    (path / "world.safetensors").write_bytes(b"no world")
    poses = np.tile(np.eye(4), (5, 1, 1))
    for name, change in {"nan": np.nan, "scaled": 3.0, "singular": 0.0}.items():
        broken = poses.copy()
        broken[2, 0, 0] = change
        matrices = {"intrinsics": np.tile(np.eye(3), (5, 1, 1)), "cam2world": broken}
        np.savez(path / f"{name}.npz", **matrices, height=128, width=128)
    return path


CASES = {
    "missing picture": (["--image=nowhere.png"], "no file nowhere.png"),
    "truncated picture": (["--image={}/cut.png"], "damaged or truncated picture"),
    "no picture": (["--image={}/text.png"], "no picture that can be read"),
    "video": (["--image={}/clip.mp4"], "a video, not a picture"),
    "unknown word": (["--trajectory=forwrad 2"], "forward"),
    "no number": (["--trajectory=yaw nan"], "nan"),
    "missing path file": (["--trajectory=path.json"], "no file path.json"),
    "path with NaN": (["--trajectory={}/nan.npz"], "nan.npz"),
    "scaled rotation": (["--trajectory={}/scaled.npz"], "scaled.npz"),
    "singular rotation": (["--trajectory={}/singular.npz"], "singular.npz"),
    "other intrinsics": (["--intrinsics=500,500,320,240"], "cannot belong to"),
    "not intrinsics": (["--intrinsics=500,a,320,240"], "four numbers"),
    "depth of another size": (["--depth={}/small.npy"], "the picture has (90, 160)"),
    "depth of NaN": (["--depth={}/nan.npy"], "holds NaN"),
    "pickled depth": (["--depth={}/objects.npy"], "not a .npy array"),
    "no model": (["--checkpoint={}"], "not a model folder"),
    "foreign model": (["--checkpoint={}/old_model"], "not a model config"),
    "small capacity": (["--capacity=10"], "at least 1024 points"),
    "prompt": (["--prompt=a cave"], "without text"),
    "output is a file": (["--out={}/room.png"], "found a file of that name"),
    "output cannot be written": (["--out=/proc/nowhere"], "cannot write there"),
    "nothing to start from": (["--image="], "either --image"),
    "one frame": (["--frames=1"], "the model makes 2 frames or more"),
    "a length of segments": (["--segment=5"], "makes segments of 4, 8, 16 latent frames, found 5"),
    "damaged world": (["--load_world={}/world.safetensors", "--image="], "world.safetensors"),
    "world and lens": (["--load_world={}/world.safetensors", "--image=", "--fov=60"], "--fov is of the picture"),
    "world and depth": (
        ["--load_world={}/world.safetensors", "--image=", "--depth=a.npy"],
        "--depth is of the picture",
    ),
    "scene and lens": (["--images={}", "--image=", "--fov=60"], "the scene of --images tells its own"),
    "no scene": (["--images={}", "--image="], "--images: {} holds no scene"),
    "no pose file": (["--images={}/small.npy", "--image="], "is no pose file with its pictures beside it"),
    "picture and scene": (["--images={}"], "either --image or --images"),
    "no room": (["--capacity=0"], "--capacity=0"),
    "seed beyond 32 bits": (["--seed=4294967296"], "--seed=4294967296"),
    "seed below 0": (["--seed=-1"], "--seed=-1"),
    "a million steps": (["--steps=1000000"], "--steps=1000000"),
    "guidance without text": (["--guidance=5"], "has guidance 5: it leads away from a negative prompt"),
    "negative prompt alone": (["--negative_prompt=blurred"], "--negative_prompt is what guidance leads away from"),
    "steps of a distilled model": (["--sampling=turbo", "--steps=8"], "grid 'turbo' has 4 steps, found 8"),
    "no angle": (["--fov=nan"], "--fov nan: expected degrees"),
    "far beyond": (["--trajectory=forward 1e30"], "found '1e30'"),
    "scale of words": (["--path_scale=2"], "--path_scale is for camera files"),
    "background of nothing": (["--background=red"], "has no transparent parts"),
    "world in a folder": (["--save_world={}"], "--save_world {}: found a folder"),
    "world nowhere": (["--save_world=/proc/nowhere/world"], "--save_world /proc/nowhere/world: cannot write there"),
    "world over the video": (["--save_world={out}/video.mp4"], "that is the name of a result in --out"),
    "depth outside the crop": (["--depth={}/edge.npy"], "known only outside the part that is left"),
    "prompt and dry run": (["--prompt=a cave", "--dry_run=true"], "without text"),
    "tokenizer": (["--tokenizer={}"], "--tokenizer: the model 'default' was trained without text"),
    "depths and dry run": (["--depths=nowhere.npz", "--dry_run=true"], "--depths: no file nowhere.npz"),
}


@pytest.fixture(scope="module")
def refusals(folder, tmp_path_factory):
    """The result of every case, all from one process."""
    out = tmp_path_factory.mktemp("out")
    defaults = {"--image": f"{folder}/room.png", "--trajectory": "yaw 30; back", "--out": str(out)}
    calls = []
    for given, _ in CASES.values():
        given = (argument.replace("{}", str(folder)).replace("{out}", str(out)) for argument in given)
        given = dict(argument.split("=", 1) for argument in given)
        calls.append([f"{name}={value}" for name, value in (defaults | given).items() if value])
    return dict(zip(CASES, run("generate", calls), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_wrong_input_is_one_sentence(refusals, folder, case):
    result = refusals[case]
    assert result.code == REFUSED, result.err
    assert result.err.startswith("error: ") and result.err.count("\n") == 1
    assert CASES[case][1].replace("{}", str(folder)) in result.err


def test_a_path_is_drawn_a_world_made_saved_and_gone_on_with(folder, tmp_path):
    room, world = f"--image={folder}/room.png", f"{tmp_path}/world.safetensors"
    dry, made, gone_on = run(
        "generate",
        [
            [room, "--trajectory=forward 1; yaw 90; back", f"--out={tmp_path}/dry", "--dry_run"],
            [room, "--trajectory=yaw 20", "--frames=13", "--steps=1", f"--out={tmp_path}/a", f"--save_world={world}"],
            [f"--load_world={world}", "--trajectory=yaw 60", "--frames=13", "--steps=1", f"--out={tmp_path}/b"],
        ],
    )
    assert dry.code == 0, dry.err
    assert "field of view not given" in dry.out and "160x90 scaled and centre-cropped to 128x128" in dry.out
    assert PIL.Image.open(tmp_path / "dry" / "path.png").size[0] > 200
    assert not (tmp_path / "dry" / "video.mp4").exists()

    for result, folder_name, frames in ((made, "a", 13), (gone_on, "b", 12)):
        assert result.code == 0, result.err
        out = tmp_path / folder_name
        with av.open(str(out / "video.mp4")) as video:
            assert sum(1 for _ in video.decode(video=0)) == frames
        report = json.loads((out / "report.json").read_text())
        assert {"config", "versions", "seconds", "memory"} <= set(report)
        assert report["memory"]["overflow"] == 0
        assert {"contact_sheet.png", "memory.ply", "cameras.json"} <= {file.name for file in out.iterdir()}
    points = [json.loads((tmp_path / name / "report.json").read_text())["memory"]["points"] for name in "ab"]
    assert 0 < points[0] < points[1]  # what the first run remembered is still there, and what is new was added


def test_a_camera_file_is_a_path_and_a_rerun_leaves_nothing_old(folder, tmp_path):
    """The cameras of a 640x427 scene drawn by a model of 128x128, in a folder where another run left its results."""
    for name in ("video.mp4", "report.json", "memory.ply"):
        (tmp_path / name).write_text("old")
    (tmp_path / "mine.txt").write_text("kept")
    scene = pathlib.Path(__file__).parent.parent / "cases" / "pose_files" / "native640.json"
    room = f"--image={folder}/room.png"
    own, overridden = run(
        "generate",
        [
            [room, f"--trajectory={scene}", f"--out={tmp_path}", "--dry_run", "--path_scale=2"],
            [room, f"--trajectory={scene}", f"--out={tmp_path}", "--dry_run", "--fov=90"],
        ],
    )
    assert own.code == 0, own.err
    assert "64.0 degrees across images of 640x427, 45.3 across what 128x128 show of them" in own.out
    assert "33 poses, scaled by 2: 33 frames, 4 units" in own.out
    assert "field of view not given" not in own.out and "the model sees 45.3 degrees" in own.out
    assert "the lens of --fov is used for the whole path" in overridden.out and "640x427" not in overridden.out
    assert {file.name for file in tmp_path.iterdir()} == {"path.png", "config.json", "versions.json", "mine.txt"}

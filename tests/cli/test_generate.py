"""`generate` as a person meets it: wrong input is one sentence and exit 2; a dry run draws the path."""

import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from mirage_jax import viz

REFUSED = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures good and bad."""
    path = tmp_path_factory.mktemp("input")
    pixels = np.random.default_rng(0).integers(0, 256, (90, 160, 3), np.uint8)
    PIL.Image.fromarray(pixels).save(path / "room.png")
    (path / "cut.png").write_bytes((path / "room.png").read_bytes()[:2000])
    (path / "text.png").write_text("not a picture")
    viz.write_video(path / "clip.mp4", np.stack([pixels] * 3))
    np.save(path / "small.npy", np.ones((4, 4), np.float32))
    np.save(path / "nan.npy", np.full((90, 160), np.nan, np.float32))
    np.save(path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    (path / "old_model").mkdir()
    (path / "old_model" / "model.json").write_text('{"name": "old", "wheels": 4}')
    return path


def _generate(*arguments, **options):
    command = [sys.executable, "-m", "experiments.generate", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


def _refused(*arguments):
    """One process, one sentence on stderr."""
    done = _generate(*arguments)
    assert done.returncode == REFUSED, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and "Traceback" not in done.stderr
    return lines[0]


CASES = {
    "missing picture": (["--image=nowhere.png"], "no file nowhere.png"),
    "truncated picture": (["--image={}/cut.png"], "damaged or truncated picture"),
    "no picture": (["--image={}/text.png"], "no picture that can be read"),
    "video": (["--image={}/clip.mp4"], "a video, not a picture"),
    "unknown word": (["--image={}/room.png", "--trajectory=forwrad 2"], "forward"),
    "no number": (["--image={}/room.png", "--trajectory=yaw nan"], "nan"),
    "missing path file": (["--image={}/room.png", "--trajectory=path.json"], "no file path.json"),
    "other intrinsics": (["--image={}/room.png", "--intrinsics=500,500,320,240"], "cannot belong to"),
    "not intrinsics": (["--image={}/room.png", "--intrinsics=500,a,320,240"], "four numbers"),
    "depth of another size": (["--image={}/room.png", "--depth={}/small.npy"], "the picture has (90, 160)"),
    "depth of NaN": (["--image={}/room.png", "--depth={}/nan.npy"], "holds NaN"),
    "pickled depth": (["--image={}/room.png", "--depth={}/objects.npy"], "not a .npy array"),
    "no model": (["--image={}/room.png", "--checkpoint={}"], "not a model folder"),
    "foreign model": (["--image={}/room.png", "--checkpoint={}/old_model"], "not a model config"),
    "small capacity": (["--image={}/room.png", "--capacity=10"], "at least 256 points"),
    "prompt": (["--image={}/room.png", "--prompt=a cave"], "without text"),
    "output is a file": (["--image={}/room.png", "--out={}/room.png"], "found a file of that name"),
    "nothing to start from": ([], "either --image"),
    "one frame": (["--image={}/room.png", "--frames=1"], ""),
}


@pytest.mark.parametrize("case", CASES)
def test_wrong_input_is_one_sentence(folder, tmp_path, case):
    arguments, expected = CASES[case]
    arguments = [argument.replace("{}", str(folder)) for argument in arguments]
    defaults = {"--trajectory": "yaw 30; back", "--out": str(tmp_path / "out")}
    given = {argument.partition("=")[0] for argument in arguments}
    arguments += [f"{name}={value}" for name, value in defaults.items() if name not in given]
    assert expected in _refused(*arguments)


def test_dry_run_draws_the_path_and_runs_no_model(folder, tmp_path):
    out = tmp_path / "out"
    done = _generate(f"--image={folder}/room.png", "--trajectory=forward 1; yaw 90; back", f"--out={out}", "--dry_run")
    assert done.returncode == 0, done.stderr
    assert "field of view not given" in done.stdout and "160x90 scaled and centre-cropped to 128x128" in done.stdout
    assert PIL.Image.open(out / "path.png").size[0] > 200
    assert not (out / "video.mp4").exists()

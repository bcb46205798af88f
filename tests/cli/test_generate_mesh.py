"""`generate` split over devices, with 8-bit weights and tiles, makes the video that it makes without."""

import dataclasses
import pathlib
import sys

import av
import numpy as np
import PIL.Image
import pytest
import safetensors.numpy
import virtual_devices
from commands import run

from mirage_jax import weights

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "world"))
import tiny_world

SIZE, FRAMES, MAGNIFIED = 64, 9, 2  # of a video, and how much larger a contact sheet shows it
RUNS = {
    "plain": ["--weights=float32"],
    "mesh": ["--weights=float32", "--mesh=fsdp=2,tensor=2"],
    "small": ["--weights=int8"],
    "all": ["--weights=int8", "--mesh=fsdp=2,tensor=2", "--vae_tile=8"],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What each run leaves: a sheet of its frames, the latents it goes on from and the points of its memory."""
    path = tmp_path_factory.mktemp("mesh")
    PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)).save(path / "room.png")
    tiny = tiny_world.model()
    dit = dataclasses.replace(tiny.dit, dim=64, ffn_dim=128, heads=4, layers=2)
    model = dataclasses.replace(tiny, height=SIZE, width=SIZE, dit=dit, lora=None)
    params = tiny_world.random_parameters(model)
    last = params["heads"]["out"]  # everything is kept, at one depth, whatever rounding does
    last["kernel"], last["bias"] = 0 * last["kernel"], np.array([0.0, 5.0, -5.0], np.float32)
    weights.save(path / "model", model, params)
    common = [f"--image={path}/room.png", f"--checkpoint={path}/model", "--trajectory=yaw 10", "--steps=1"]
    common += [f"--frames={FRAMES}"]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("XLA_FLAGS", virtual_devices.flags(4))
        results = run(
            "generate",
            [
                [*common, f"--out={path}/{name}", f"--save_world={path}/{name}.safetensors", *more]
                for name, more in RUNS.items()
            ],
        )
    found = {}
    for name, result in zip(RUNS, results, strict=True):
        assert result.code == 0, result.err
        with av.open(str(path / name / "video.mp4")) as video:
            frames = np.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)])
        assert frames.shape == (FRAMES, SIZE, SIZE, 3) and frames[1:].std() > 10
        # All frames without loss: a pixel off by one level sends the video's encoder another way for many pixels.
        sheet = np.asarray(PIL.Image.open(path / name / "contact_sheet.png").convert("RGB"), np.float32)
        world = safetensors.numpy.load_file(path / f"{name}.safetensors")
        found[name] = sheet, world[".context"], np.stack([world[f".memory.{c}"] for c in "xyzw"])
    return found


def difference(made, one, other):
    """Mean grey levels between frames after the first, and the relative error of latents."""
    (sheet, latents, points), (sheet2, latents2, points2) = made[one], made[other]
    np.testing.assert_allclose(points, points2, atol=1e-4)
    assert sheet.size > FRAMES * 3 * (MAGNIFIED * SIZE) ** 2
    shown = (FRAMES - 1) * 3 * (MAGNIFIED * SIZE) ** 2
    return np.abs(sheet - sheet2).sum() / shown, np.linalg.norm(latents2 - latents) / np.linalg.norm(latents)


def test_a_mesh_changes_only_the_order_of_sums(made):
    levels, error = difference(made, "plain", "mesh")
    assert levels < 0.1 and error < 1e-5


def test_8_bit_weights_on_a_mesh_in_tiles_are_those_of_one_device(made):
    levels, error = difference(made, "small", "all")
    assert levels < 0.1 and error < 1e-5


def test_8_bit_weights_stay_close(made):
    levels, error = difference(made, "plain", "small")
    # A weight is off by up to 1/254 of the largest of its column, and by 1/512 from bfloat16.
    assert 1e-4 < error < 0.03 and levels < 5

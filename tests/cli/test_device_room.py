"""A model that does not fit a device is refused before its weights are read, with the switches that make it fit."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import run_command
import virtual_devices

from experiments.explorer.engine import Settings
from experiments.explorer.model_engine import ModelEngines
from mirage_jax import weights
from mirage_jax.errors import UserError
from mirage_jax.world import device_memory

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "world"))
import tiny_world

HERE = pathlib.Path(__file__).parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("room")
    picture = np.random.default_rng(0).integers(0, 256, (tiny_world.SIZE, tiny_world.SIZE, 3), np.uint8)
    PIL.Image.fromarray(picture).save(folder / "room.png")
    model = tiny_world.quick()
    weights.save(folder / "model", model, tiny_world.parameters(model))
    return folder


def outcome(command, folder):
    done = subprocess.run(
        [sys.executable, str(HERE / "device_room.py"), command, str(folder)],
        cwd=HERE.parent.parent,
        env=os.environ | {"PYTHONPATH": str(HERE.parent.parent), "XLA_FLAGS": virtual_devices.flags(4)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def found(folder):
    return outcome("generate", folder)


@pytest.mark.parametrize("run", ["whole", "mesh"])
def test_what_fits_runs_and_its_program_is_compiled_once(found, run):
    assert found[run]["code"] == 0, found[run]["err"]
    assert sorted(found[run]["compiled"]) == ["_observe", "_segment"]
    assert found[run]["loads"] > 0


def test_a_mesh_takes_less_of_a_device(found):
    assert found["measured"]["mesh"][0] < found["measured"]["whole"][0]


def test_just_enough_is_enough(found):
    assert found["exact"]["code"] == 0, found["exact"]["err"]


@pytest.mark.parametrize(
    ("run", "fits"),
    [
        ("short", "--weights=bfloat16"),
        ("shorter", "--weights=bfloat16 --vae_dtype=bfloat16"),
        ("shortest", "--vae_dtype=bfloat16 --weights=int8"),
    ],
)
def test_one_byte_short_names_what_fits_before_weights_are_read(found, run, fits):
    pytest.importorskip("qwix")
    short = found[run]
    assert short["code"] != 0 and short["loads"] == 0 and short["compiled"] == []
    assert "Traceback" not in short["err"] and short["err"].count("\n") == 1
    assert "a segment of the model 'tiny' needs 0.00" in short["err"] and f"what fits is {fits}, 0.00" in short["err"]


def test_weights_that_alone_are_too_large_compile_nothing(found):
    none = found["none"]
    assert none["code"] != 0 and none["loads"] == 0 and none["compiled"] == [] and "none" not in found["measured"]
    assert "no switch of this command is enough: --mesh" in none["err"]


def test_the_videos_of_a_benchmark_are_refused_as_one_video_is(folder):
    found = outcome("worldscore", folder)
    assert found["whole"]["code"] == 0, found["whole"]["err"]
    assert sorted(found["whole"]["compiled"]) == ["_observe", "_segment"] and found["whole"]["loads"] > 0
    none = found["none"]
    assert none["code"] != 0 and none["loads"] == 0 and none["compiled"] == []
    assert "Traceback" not in none["err"] and "no switch of this command is enough: --mesh" in none["err"]


def test_the_explorer_names_only_its_own_switches_and_keeps_the_state(folder, monkeypatch):
    engines = ModelEngines(str(folder / "model"), kind="float32")
    limits, donated, of_segment = [1000], [], device_memory.of_segment

    def noted(*given, donate):
        donated.append(donate)
        return of_segment(*given, donate=donate)

    monkeypatch.setattr(device_memory, "limit", lambda devices: limits[-1])
    monkeypatch.setattr(device_memory, "of_segment", noted)
    with monkeypatch.context() as unread:
        unread.setattr(weights, "load", lambda *_, **__: pytest.fail("weights are read"))
        with pytest.raises(UserError, match=r"no switch of this command is enough$"):
            engines.get(Settings())
    limits.append(10**12)
    compiled = []
    with run_command.compilations(compiled):
        engines.warm(lambda *_: None)
    assert donated == [False] and compiled.count("_segment") == 1

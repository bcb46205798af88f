"""`generate` with a stack of LoRAs: what a model with the sum of their updates in its weights makes."""

import pathlib
import sys

import numpy as np
import PIL.Image
import pytest
import safetensors.numpy
from commands import run

from mirage_jax import weights

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "world"))
import tiny_world

REFUSED = 2
# Public names of what is adapted, and ours.
KERNELS = {
    "self_attn.q": "self_attention/q",
    "self_attn.o": "self_attention/o",
    "ffn.0": "ffn/up",
    "ffn.2": "ffn/down",
}
FIRST, SECOND = 0.5, -2.0
"""Strengths."""


def updates(rng, dit, rank):
    """`lora_A`, `lora_B` as in public files, by public name."""
    found = {}
    for theirs, ours in KERNELS.items():
        inputs, outputs = kernel_of(dit, ours).shape
        found[theirs] = rng.normal(0, 0.3, (rank, inputs)), rng.normal(0, 0.3, (outputs, rank))
    return {name: tuple(np.float32(x) for x in pair) for name, pair in found.items()}


def kernel_of(dit, ours):
    part, name = ours.split("/")
    return dit["blocks_0"][part][name]["kernel"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model with a LoRA of its own, two files of others, and the model with these in its weights by hand."""
    path, rng = tmp_path_factory.mktemp("lora"), np.random.default_rng(0)
    size = tiny_world.SIZE
    PIL.Image.fromarray(rng.integers(0, 256, (size, size, 3), np.uint8)).save(path / "room.png")
    model = tiny_world.quick()
    params = tiny_world.parameters(model)
    weights.save(path / "model", model, params)
    turbo, style = updates(rng, params["dit"], 2), updates(rng, params["dit"], 3)
    release, kohya = {}, {}
    for name, (a, b) in turbo.items():
        release |= {f"pipe.dit.blocks.0.{name}.lora_A.weight": a, f"pipe.dit.blocks.0.{name}.lora_B.weight": b}
    for name, (a, b) in style.items():
        base = f"diffusion_model.blocks.0.{name}"
        kohya |= {
            f"{base}.lora_down.weight": a,
            f"{base}.lora_up.weight": b,
            f"{base}.alpha": np.array(1.5, np.float32),
        }
    safetensors.numpy.save_file(release, path / "turbo.safetensors")
    safetensors.numpy.save_file(kohya, path / "style.safetensors")
    for name, ours in KERNELS.items():
        kernel = kernel_of(params["dit"], ours)
        kernel += FIRST * (turbo[name][1] @ turbo[name][0]).T  # alpha is the rank where a file does not tell
        kernel += SECOND * 1.5 / 3 * (style[name][1] @ style[name][0]).T
    weights.save(path / "by_hand", model, params)
    safetensors.numpy.save_file({"blocks.9.weight": np.zeros((2, 2), np.float32)}, path / "none.safetensors")
    wide = {name: np.concatenate([x, x], axis=-1) if ".lora_A." in name else x for name, x in release.items()}
    safetensors.numpy.save_file(wide, path / "wide.safetensors")
    return path


@pytest.fixture(scope="module")
def runs(folder):
    calls = {
        "plain": [],
        "stack": [f"--lora={folder}/turbo.safetensors={FIRST}", f"--lora={folder}/style.safetensors={SECOND}"],
        "alone": [f"--lora={folder}/turbo.safetensors"],
        "by hand": [f"--checkpoint={folder}/by_hand"],
        "goes on": [f"--load_world={folder}/plain.world", f"--lora={folder}/turbo.safetensors", "--image="],
        "missing": [f"--lora={folder}/nothing.safetensors=1"],
        "zero": [f"--lora={folder}/turbo.safetensors=0"],
        "word": [f"--lora={folder}/turbo.safetensors=much"],
        "twice": [f"--lora={folder}/turbo.safetensors", f"--lora={folder}/turbo.safetensors=2"],
        "no LoRA": [f"--lora={folder}/none.safetensors", "--dry_run"],
        "of another": [f"--lora={folder}/wide.safetensors", "--dry_run"],
    }
    defaults = {"--image": f"{folder}/room.png", "--checkpoint": f"{folder}/model", "--weights": "float32"}
    arguments = []
    for name, own in calls.items():
        fixed = ["--trajectory=yaw 10", "--frames=9", f"--out={folder}/out", f"--save_world={folder}/{name}.world"]
        given = [word for word in own if word != "--image="]
        kept = [f"{k}={v}" for k, v in defaults.items() if not any(word.startswith(f"{k}=") for word in own)]
        arguments.append([*fixed, *kept, *given])
    return dict(zip(calls, run("generate", arguments), strict=True))


def latents(folder, name):
    return safetensors.numpy.load_file(folder / f"{name}.world")[".context"]


def test_a_stack_is_the_model_with_the_updates_in_its_weights(folder, runs):
    for name in ("plain", "stack", "alone", "by hand"):
        assert runs[name].code == 0, runs[name].err
    expected = latents(folder, "by hand")
    np.testing.assert_allclose(latents(folder, "stack"), expected, rtol=1e-4, atol=1e-4)
    for other in ("plain", "alone"):
        assert np.abs(latents(folder, other) - expected).max() > 0.01


def test_a_world_belongs_to_its_loras(runs):
    assert runs["goes on"].code == REFUSED and "made by weights" in runs["goes on"].err


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("missing", "--lora: no file"),
        ("zero", "found a strength of '0', expected a number other than 0"),
        ("word", "found a strength of 'much'"),
        ("twice", "is given twice; give it once, with the sum of its strengths"),
        ("no LoRA", "found tensors blocks.9.weight, expected a LoRA of a Wan transformer"),
        ("of another", "has shape"),
    ],
)
def test_what_cannot_be_added_is_one_sentence(runs, name, sentence):
    assert runs[name].code == REFUSED, runs[name].out
    assert sentence in runs[name].err and runs[name].err.count("\n") == 1

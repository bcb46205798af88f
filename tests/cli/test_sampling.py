"""Flags of sampling reach the sampler: guidance, few steps, the cache of steps, on a tiny model with text."""

import dataclasses
import json
import pathlib
import sys

import numpy as np
import PIL.Image
import safetensors.numpy
from commands import run

from experiments.shared import prompts
from mirage_jax import weights
from mirage_jax.data import text_embeddings

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "world"))
import tiny_world

TOKENS, DIM = 3, 6


def test_flags_of_sampling_change_what_is_made_and_how_often_the_generator_runs(tmp_path):
    rng, size = np.random.default_rng(0), tiny_world.SIZE
    PIL.Image.fromarray(rng.integers(0, 256, (size, size, 3), np.uint8)).save(tmp_path / "room.png")
    base = tiny_world.quick()
    model = dataclasses.replace(base, dit=dataclasses.replace(base.dit, text_dim=DIM, text_tokens=TOKENS))
    weights.save(tmp_path / "model", model, tiny_world.parameters(model))
    for name, prompt in ((prompts.EMPTY_PROMPT, ""), (prompts.NEGATIVE_PROMPT, prompts.WAN_NEGATIVE)):
        values = rng.normal(size=(1, TOKENS, DIM)).astype(np.float32)
        text_embeddings.save(tmp_path / "model" / name, model.name, [prompt], values)
    flags = {
        "plain": ["--steps=5"],
        "guided": ["--steps=5", "--guidance=3"],
        "cached": ["--steps=5", "--guidance=3", "--step_cache=1"],
        "turbo": ["--sampling=turbo"],
    }
    common = [f"--image={tmp_path}/room.png", f"--checkpoint={tmp_path}/model", "--trajectory=yaw 10", "--frames=9"]
    calls = [
        [*common, *more, f"--out={tmp_path}/{name}", f"--save_world={tmp_path}/{name}.world"]
        for name, more in flags.items()
    ]
    latents, passes = {}, {}
    for name, result in zip(flags, run("generate", calls), strict=True):
        assert result.code == 0, result.err
        report = json.loads((tmp_path / name / "report.json").read_text())
        passes[name] = [row["generator_passes"] for row in report["segments"]]
        latents[name] = safetensors.numpy.load_file(tmp_path / f"{name}.world")[".context"]
    assert passes == {"plain": [5, 5], "guided": [5, 5], "cached": [3, 3], "turbo": [4, 4]}
    for one, other in (("plain", "guided"), ("guided", "cached"), ("plain", "turbo")):
        assert np.abs(latents[one] - latents[other]).max() > 1e-3, (one, other)

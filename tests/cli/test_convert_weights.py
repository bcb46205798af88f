"""The command: converts, verifies, writes back; a mistake is one sentence."""

import numpy as np
import pytest
import safetensors.numpy

from mirage_jax import weights
from mirage_jax.models import config
from tests.cli import commands


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    """A LoRA of rank 1 of the shipped model, in the release's names."""
    dit, rng, tensors = config.default().dit, np.random.default_rng(0), {}
    widths = dict.fromkeys([f"self_attn.{x}" for x in "qkvo"], (dit.dim, dit.dim))
    widths |= {"ffn.0": (dit.dim, dit.ffn_dim), "ffn.2": (dit.ffn_dim, dit.dim)}
    for block in range(dit.layers):
        for name, (inputs, outputs) in widths.items():
            for letter, shape in (("A", (1, inputs)), ("B", (outputs, 1))):
                tensors[f"pipe.dit.blocks.{block}.{name}.lora_{letter}.weight"] = rng.standard_normal(shape, np.float32)
    path = tmp_path_factory.mktemp("lora") / "lora.safetensors"
    safetensors.numpy.save_file(tensors, path)
    return path, tensors


def test_there_and_back(lora, tmp_path):
    path, tensors = lora
    common = [f"--out={tmp_path}/model", "--layout=lora_release", f"--source={path}"]
    back = [f"--source={tmp_path}/model", "--layout=lora_release", f"--out={tmp_path}/back.safetensors", "--reverse"]
    wrong = ["--layout=side_release", f"--source={path}", f"--out={tmp_path}/other", "--model=default"]
    done, verified, reversed_, again, misfit, alpha, no_alpha = commands.run(
        "convert_weights",
        [
            [*common, "--model=default", "--alpha=4"],
            [*common, "--verify"],
            back,
            common,
            wrong,
            [*wrong, "--alpha=2"],
            [*common, "--model=default", "--alpha=nan"],
        ],
    )
    assert done.code == 0 and "lora, 72 tensors, float32" in done.out, done.err
    assert verified.code == 0 and "72 tensors" in verified.out, verified.err
    assert reversed_.code == 0, reversed_.err
    found = safetensors.numpy.load_file(tmp_path / "back.safetensors")
    assert found.keys() == tensors.keys() and all(np.array_equal(found[name], tensors[name]) for name in tensors)
    assert again.code == 2 and "has a part 'lora' already" in again.err
    assert misfit.code == 2 and "is not part of this layout" in misfit.err
    assert no_alpha.code == 2 and "--alpha nan: expected a number above 0" in no_alpha.err
    assert alpha.code == 2 and "--alpha: is of a LoRA" in alpha.err
    assert weights.read_config(tmp_path / "model").lora == config.LoRAConfig(1, 4.0)
    assert not (tmp_path / "other").exists()

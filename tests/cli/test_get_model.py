"""The command: one word says what to get; a mistake is one sentence."""

import numpy as np

from mirage_jax.models import config
from tests.cli import commands
from tests.weights.public_files import write_safetensors


def test_a_file_becomes_a_part_and_mistakes_are_sentences(tmp_path):
    dim = config.default().dit.dim
    names = ("lora_down", (1, dim)), ("lora_up", (dim, 1))
    tensors = {f"diffusion_model.blocks.0.self_attn.q.{x}.weight": np.ones(shape, np.float32) for x, shape in names}
    file, out = write_safetensors(tmp_path / "x.safetensors", tensors), tmp_path / "model"
    got, again, none, missing = commands.run(
        "get_model",
        [
            [str(file), f"--out={out}", "--model=default", "--alpha=0.5"],
            [f"--out={out}", str(file)],
            [f"--out={out}"],
            [str(tmp_path / "nothing"), f"--out={out}"],
        ],
    )
    assert got.code == 0 and "lora: converted and verified" in got.out, got.err
    assert got.out.endswith(f"wrote {out}: lora; still without vae and dit\n")
    assert again.code == 0 and "lora: was there already and verified" in again.out, again.err
    assert (none.code, none.err.strip()) == (2, "error: expected NAME_OR_FOLDER (--help lists the flags)")
    assert missing.code == 2 and "nothing: no such file or folder" in missing.err

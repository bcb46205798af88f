"""Prompts to a file of embeddings, so that generation needs no text encoder.

    python -m experiments.encode_text --checkpoint DIR --tokenizer spiece.model --prompt "a cave" --out cave.safetensors

`generate --text_embeddings` takes the file. Beside it, a JSON file of the same name says what was run.
"""

from __future__ import annotations

import pathlib

from absl import flags

from experiments.shared import cli, prompts
from mirage_jax import io
from mirage_jax.data import text_embeddings
from mirage_jax.errors import UserError
from mirage_jax.weights import model_files

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Model folder with a text encoder.", required=True)
_TOKENIZER = flags.DEFINE_string(
    "tokenizer", None, "tokenizer.json, spiece.model or their folder; default: the model's."
)
_PROMPT = flags.DEFINE_string("prompt", None, "Text, for all segments.")
_PROMPT_FILE = flags.DEFINE_string("prompt_file", None, "File with one prompt a line, for one segment each.")
_OUT = flags.DEFINE_string("out", None, "File to write, .safetensors.", required=True)


def main(_) -> None:
    """Encodes."""
    out = pathlib.Path(_OUT.value)
    if out.suffix != ".safetensors":
        raise UserError(f"--out {out}: expected a file name that ends in .safetensors")
    if (_PROMPT.value is None) == (_PROMPT_FILE.value is None):
        raise UserError("give either --prompt or --prompt_file")
    cli.prepare_output(out.parent)
    cli.keep_compiled_programs()
    texts = [_PROMPT.value] if _PROMPT.value is not None else prompts.read_prompts(_PROMPT_FILE.value)
    model = model_files.read_config(pathlib.Path(_CHECKPOINT.value))
    values = prompts.embeddings(_CHECKPOINT.value, _TOKENIZER.value, texts)
    text_embeddings.save(out, model.name, texts, values)
    io.write_json(out.with_suffix(".json"), {"config": cli.flag_values(), "versions": cli.versions()})
    print(f"wrote {out}: {len(texts)} prompts, {values.shape[1]} tokens of {values.shape[2]} numbers each")


if __name__ == "__main__":
    cli.run(main)

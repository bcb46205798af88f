"""The texts of samples as embeddings: from a file, or by the text encoder, each prompt once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from experiments.bench.adapters.sample import Sample
from experiments.shared import prompts
from mirage_jax.data.text_embeddings import TextEmbeddings
from mirage_jax.data.text_embeddings import save as save_embeddings
from mirage_jax.errors import UserError
from mirage_jax.models.config import ModelConfig

_ENCODED_AT_ONCE = 256  # prompts: 2 GB of embeddings of the largest text encoder

Text = Callable[[Sample], np.ndarray | None]
"""`[prompts, tokens, dim]` of a sample, or None for a model without text. Raises `UserError` if there is none."""


def check_flags(model: ModelConfig, source: str, **given: str | None) -> None:
    """Raises `UserError` for flags on text that a model without text, or the empty prompt, has no use for.

    Args:
      model: that makes the videos.
      source: 'benchmark' or 'empty', of `--prompts`.
      given: values of the other flags, by name.
    """
    for name, value in given.items():
        if value is not None and not _reads_text(model):
            raise UserError(f"--{name}: the model {model.name!r} was trained without text; leave the flag out")
        if value is not None and source == "empty":
            raise UserError(f"--{name} goes with --prompts=benchmark only")


def of_samples(
    out: Path,
    folder: str | Path,
    model: ModelConfig,
    samples: Sequence[Sample],
    *,
    source: str,
    text_embeddings: str | None,
    tokenizer: str | None,
) -> Text:
    """Where the embeddings of a sample come from; the text encoder has come and gone when this returns.

    Args:
      out: folder of results; what is encoded is kept in its `prompts/`.
      folder: of the model.
      model: its config.
      samples: without fault, that will be asked for.
      source, text_embeddings, tokenizer: as `check_flags` has found them sound.
    """
    if not _reads_text(model):
        print(f"note: the model {model.name!r} reads no text: the prompts of the data set are not used")
        return lambda sample: None
    if source == "empty":
        empty = prompts.for_segments(folder, model, 1)
        return lambda sample: np.broadcast_to(empty, (len(sample.prompts), *empty.shape[1:]))
    if text_embeddings is not None:
        given = TextEmbeddings(text_embeddings)
        given.require(model.dit.text_tokens, model.dit.text_dim)
        return lambda sample: np.stack([given[prompt] for prompt in sample.prompts])
    found = {}
    for file in sorted((out / "prompts").glob("*.safetensors")):
        texts = TextEmbeddings(file)
        texts.require(model.dit.text_tokens, model.dit.text_dim)
        found |= dict.fromkeys(texts.prompts, texts)
    wanted = [prompt for sample in samples for prompt in sample.prompts if prompt not in found]
    wanted = list(dict.fromkeys(wanted))
    for start in range(0, len(wanted), _ENCODED_AT_ONCE):
        block = wanted[start : start + _ENCODED_AT_ONCE]
        file = out / "prompts" / f"{hashlib.sha256(repr(block).encode()).hexdigest()[:16]}.safetensors"
        save_embeddings(file, model.name, block, prompts.embeddings(folder, tokenizer, block))
        found |= dict.fromkeys(block, TextEmbeddings(file))
    return lambda sample: np.stack([found[prompt][prompt] for prompt in sample.prompts])


def _reads_text(model: ModelConfig) -> bool:
    return model.dit is not None and model.dit.text_dim > 0

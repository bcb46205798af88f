"""Prompts on the host: cleaning and tokens, as the Wan family was trained with.

Needs the extra `text` (ftfy, and tokenizers or sentencepiece), which is loaded when first used.
"""

from __future__ import annotations

import html
import importlib
import pathlib
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from mirage_jax.errors import UserError

PAD, END = 0, 1
"""Token ids that umT5 pads with and ends every text with."""

FILES = ("tokenizer.json", "spiece.model")
"""What `Tokenizer` looks for in a folder, in this order."""


def clean(text: str) -> str:
    """A prompt with broken Unicode repaired, HTML entities resolved (twice) and white space collapsed."""
    text = html.unescape(html.unescape(_library("ftfy").fix_text(text)))
    return re.sub(r"\s+", " ", text).strip()


class Tokenizer:
    """umT5's tokens of a text, from the file that comes with the model.

    Attributes:
      path: of the file.
      vocabulary: ids are below this.
    """

    path: pathlib.Path
    vocabulary: int

    def __init__(self, path: str | pathlib.Path):
        """Reads a tokenizer.

        Args:
          path: of a `tokenizer.json` (library tokenizers) or `spiece.model` (sentencepiece), or a folder with either.

        Raises:
          UserError: if there is no such file, it is damaged, or it is the tokenizer of another model.
        """
        path = pathlib.Path(path)
        if path.is_dir():
            path = next((path / name for name in FILES if (path / name).is_file()), path)
        if not path.is_file():
            raise UserError(f"tokenizer {path}: no such file, expected {' or '.join(FILES)} or a folder that has one")
        data = path.read_bytes()
        if not data:
            raise UserError(f"tokenizer {path}: the file is empty")
        self.path = path
        read = _read_tokenizers if path.suffix == ".json" else _read_sentencepiece
        self._tokens, self.vocabulary = read(path, data)
        if (found := self._tokens("")) != [END]:
            raise UserError(f"tokenizer {path}: gives an empty text the tokens {found}, umT5's gives [{END}]")

    def count(self, text: str) -> int:
        """Tokens of the cleaned text, its end mark included, before anything is cut off."""
        return len(self._tokens(clean(text)))

    def __call__(self, text: str, length: int = 512) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of the cleaned text, cut or padded to `length`; a text that is cut still has its end mark.

        Returns:
          ids int32 `[length]`, and mask bool `[length]`, True for the tokens of the text and its end mark.
        """
        tokens = self._tokens(clean(text))
        tokens = tokens if len(tokens) <= length else [*tokens[: length - 1], END]
        ids = np.full(length, PAD, np.int32)
        ids[: len(tokens)] = tokens
        return ids, np.arange(length) < len(tokens)


def _read_tokenizers(path: pathlib.Path, data: bytes) -> tuple[Callable[[str], list[int]], int]:
    library = _library("tokenizers")
    try:
        tokenizer = library.Tokenizer.from_buffer(data)
    except Exception as error:  # the library raises bare Exception
        raise UserError(f"tokenizer {path}: damaged or not a tokenizer.json ({error})") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return lambda text: tokenizer.encode(text).ids, tokenizer.get_vocab_size()


def _read_sentencepiece(path: pathlib.Path, data: bytes) -> tuple[Callable[[str], list[int]], int]:
    processor = _library("sentencepiece").SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(data)
    except RuntimeError as error:
        raise UserError(f"tokenizer {path}: damaged or not a sentencepiece model ({error})") from error
    if processor.eos_id() != END:
        raise UserError(f"tokenizer {path}: its end mark has id {processor.eos_id()}, umT5's has {END}")
    return lambda text: [*processor.EncodeAsIds(text), END], processor.GetPieceSize()


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"prompts need the package {name}: pip install 'mirage-jax[text]'") from error

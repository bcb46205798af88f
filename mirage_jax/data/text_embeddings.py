"""Files of embedded prompts: one safetensors file, read row by row where it is asked for.

The tensor `embeddings [n, used tokens, dim]` leaves out the padding, which is zero; the header holds the prompts and
the full number of tokens.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence

import numpy as np
import safetensors
import safetensors.numpy

from mirage_jax import io
from mirage_jax.errors import UserError

_FORMAT = {"format": "mirage-jax text embeddings", "version": "1"}


def save(path: str | pathlib.Path, model: str, prompts: Sequence[str], values: np.ndarray) -> None:
    """Writes embeddings of prompts, atomically.

    Args:
      path: of the file.
      model: name of the model whose text encoder made them.
      prompts: `n` of them.
      values: float `[n, tokens, dim]`, zero after the end of each prompt.
    """
    _, tokens, dim = values.shape
    used = int(np.flatnonzero(values.any(axis=(0, 2)))[-1]) + 1
    header = _FORMAT | {"model": model, "prompts": json.dumps(list(prompts)), "tokens": str(tokens), "dim": str(dim)}
    tensors = {"embeddings": np.array(values[:, :used], np.float32, order="C")}
    with io.atomic_path(path) as temporary:
        temporary.write_bytes(safetensors.numpy.save(tensors, metadata=header))


class TextEmbeddings:
    """Embeddings by prompt. Reads a row when it is asked for; pickles as its path.

    Attributes:
      path: of the file.
      prompts: what it holds, in order.
      tokens, dim: shape of one embedding, padding included.
    """

    def __init__(self, path: str | pathlib.Path):
        """Opens a file. Raises `UserError` if it is missing, damaged or not such a file."""
        self.path = pathlib.Path(path)
        if not self.path.is_file():
            raise UserError(f"text embeddings: no file {path}")
        try:
            self._file = safetensors.safe_open(self.path, framework="numpy")  # pyright: ignore
            header = self._file.metadata() or {}
        except (safetensors.SafetensorError, OSError) as error:
            raise UserError(f"{path}: damaged or not a file of text embeddings ({error})") from error
        if not header.items() >= _FORMAT.items():
            raise UserError(f"{path}: not a file of text embeddings of version {_FORMAT['version']}")
        try:
            self.prompts = tuple(json.loads(header["prompts"]))
            self.tokens, self.dim = int(header["tokens"]), int(header["dim"])
            self._rows = self._file.get_slice("embeddings")
            shape = self._rows.get_shape()
        except (KeyError, ValueError, safetensors.SafetensorError) as error:
            raise UserError(f"{path}: damaged header of text embeddings ({error})") from error
        if len(shape) != 3 or shape[0] != len(self.prompts) or shape[1] > self.tokens or shape[2] != self.dim:
            raise UserError(f"{path}: embeddings of shape {shape} for {len(self.prompts)} prompts, damaged")
        if not self.prompts:
            raise UserError(f"{path}: holds no prompt")
        self._model = header.get("model")
        self._index = {prompt: row for row, prompt in enumerate(self.prompts)}

    def __len__(self) -> int:
        return len(self.prompts)

    def require(self, tokens: int, dim: int) -> None:
        """Checks the shape of one embedding. Raises `UserError` if it is not `[tokens, dim]`."""
        if (self.tokens, self.dim) != (tokens, dim):
            found = f"{self.tokens} tokens of {self.dim} numbers, from {self._model!r}"
            raise UserError(f"{self.path}: {found}; the model takes {tokens} of {dim}")

    def row(self, index: int) -> np.ndarray:
        """float32 `[tokens, dim]` of the prompt at a place. Raises `UserError` if it holds NaN or infinity."""
        value = np.asarray(self._rows[index : index + 1], np.float32)[0]
        if not np.isfinite(value).all():
            raise UserError(f"{self.path}: the embedding of {self.prompts[index][:60]!r} holds NaN or infinity")
        return np.pad(value, ((0, self.tokens - len(value)), (0, 0)))

    def __getitem__(self, prompt: str) -> np.ndarray:
        """float32 `[tokens, dim]` of a prompt. Raises `UserError` if the file does not hold it."""
        if prompt not in self._index:
            raise UserError(f"{self.path}: holds no embedding of the prompt {prompt[:80]!r}")
        return self.row(self._index[prompt])

    def __contains__(self, prompt: str) -> bool:
        return prompt in self._index

    def __reduce__(self):
        return TextEmbeddings, (self.path,)

"""LoRAs of the Wan transformer in public files, added to its weights one after the other, each with a strength."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import traverse_util

from mirage_jax import io
from mirage_jax.errors import UserError
from mirage_jax.models.config import ModelConfig
from mirage_jax.models.nn import lora
from mirage_jax.weights import formats
from mirage_jax.weights.layouts import lora_layouts
from mirage_jax.weights.sources import Source


@dataclasses.dataclass(frozen=True)
class LoRAFile:
    """A file and how much of its update is added.

    Attributes:
      path: in any layout of a LoRA that `formats` knows.
      strength: 1 is the whole update, negative ones take it away.
    """

    path: pathlib.Path
    strength: float = 1.0


def parse(words: Sequence[str], model: ModelConfig) -> list[LoRAFile]:
    """The files of `FILE` or `FILE=STRENGTH`, in order, known to fit the model.

    Raises `UserError` if a file is missing, given twice, no LoRA or one of another model, or a strength is no number or
    0, which has no effect.
    """
    found = []
    for word in words:
        name, equals, number = word.rpartition("=")
        name, number = (name, number) if equals and not pathlib.Path(word).is_file() else (word, "1")
        try:
            strength = float(number)
        except ValueError:
            strength = math.nan
        if not math.isfinite(strength) or strength == 0:
            raise UserError(f"--lora {word}: found a strength of {number!r}, expected a number other than 0")
        if not pathlib.Path(name).is_file():
            raise UserError(f"--lora: no file {name}")
        found.append(LoRAFile(pathlib.Path(name), strength))
    resolved = [file.path.resolve() for file in found]
    if twice := next((path for path in resolved if resolved.count(path) > 1), None):
        raise UserError(f"--lora: {twice} is given twice; give it once, with the sum of its strengths")
    for file in found:
        _opened(model, file)
    return found


def add(dit: Any, model: ModelConfig, file: LoRAFile) -> Any:
    """The DiT's parameters with the update of a file, `W + strength (alpha / rank) B A` in the file's terms.

    Args:
      dit: the 'dit' part of the parameters.
      model: its config.
      file: which.

    Raises:
      UserError: naming file and tensor, if it holds no LoRA, or one of another model.
    """
    source, matches, alpha = _opened(model, file)
    flat = {path: jnp.asarray(formats.read(source, match)) for path, match in matches.items()}
    return lora.merge(dit, traverse_util.unflatten_dict(flat, sep="/")["lora"], alpha, file.strength)


def _opened(model: ModelConfig, file: LoRAFile) -> tuple[Source, dict[str, formats.Match], float]:
    """The file, where each parameter of its adapter comes from, and its alpha."""
    source = Source(file.path)
    key = formats.recognise(source, model)[0].get("lora")
    if key is None:
        names = ", ".join(list(source.entries)[:2])
        raise UserError(f"--lora {file.path}: found tensors {io.shown(names)}, expected a LoRA of a Wan transformer")
    adapted = lora_layouts.config(source, formats.FORMATS[key], model, None)
    assert adapted.lora is not None
    return source, formats.match(source, formats.FORMATS[key], adapted)[0], adapted.lora.alpha

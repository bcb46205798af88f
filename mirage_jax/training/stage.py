"""What a training stage is: which parameters move, under which loss, on which batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import chex
import numpy as np

from mirage_jax.models.config import ModelConfig

Params = Any
Batch = Mapping[str, chex.Array]


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of training, as the loop sees it.

    Attributes:
      init: `(key, frozen, start) -> trainable` parameters, float32.
      start: what is known of the trainable parameters already, `{}` where nothing is (an argument of `init`, so that a
        large model is not a constant of the compiled program).
      frozen: parameters that the loss reads and nobody changes (a jit argument, never a constant).
      loss: `(trainable, frozen, batch, keys) -> (loss [], metrics)`, pure, means over the examples of the batch; each
        example has a random key of its own.
      batches: `(split) -> ` the checkpointable iterator of host batches; without a split, those to train on.
      preview: `(trainable, frozen, batch) -> {name: uint8 [H, W, 3]}` pictures for a person.
      finish: `(trainable, frozen, batches) -> (config, params)`: the whole model after this stage.
      counters: what this process has counted so far, such as skipped samples, by name; always the same names.
    """

    init: Callable[[chex.PRNGKey, Params, Params], Params]
    frozen: Params
    loss: Callable[[Params, Params, Batch, chex.PRNGKey], tuple[chex.Array, dict[str, chex.Array]]]
    batches: Callable[..., Any]
    preview: Callable[[Params, Params, Batch], dict[str, np.ndarray]]
    finish: Callable[[Params, Params, Any], tuple[ModelConfig, Params]]
    counters: Callable[[], Mapping[str, float]] = dict
    start: Params = dataclasses.field(default_factory=dict)

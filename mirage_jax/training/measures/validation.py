"""The loss on clips that are not trained on, of the averaged weights: always the same batches with the same noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mirage_jax.errors import UserError
from mirage_jax.models import partition
from mirage_jax.training.stage import Stage


def make(stage: Stage, config: Any, mesh: Mesh) -> Callable[[Any, Any, int], dict[str, float]]:
    """`(params, frozen, step) -> ` means of `validation/loss` and `validation/NAME` of the stage's metrics.

    Every process must call it. What differs between two calls is the parameters alone, so that the curve is smooth.
    The batches of `config.validation_split`, `config.validation_batches` of them, are read now and kept on the host.

    Raises:
      UserError: if there is no batch, or, when called, if the loss is not finite.
    """
    if config.validation_batches < 1:
        raise UserError(f"validation_batches={config.validation_batches}: expected at least 1")
    batches = iter(stage.batches(config.validation_split))
    kept = [next(batches) for _ in range(config.validation_batches)]
    over_batch = partition.batch_sharding(mesh)
    compiled = jax.jit(stage.loss)

    def validate(params: Any, frozen: Any, step: int) -> dict[str, float]:
        rows = []
        with jax.set_mesh(mesh):
            for number, local in enumerate(kept):
                batch = partition.put_batch(local, over_batch)
                key = jax.random.fold_in(jax.random.key(config.seed), number)
                keys = jax.random.split(key, len(next(iter(batch.values()))))
                loss, metrics = compiled(params, frozen, batch, keys)
                rows.append({**metrics, "loss": loss})
        rows = jax.device_get(rows)
        means = {f"validation/{name}": float(np.mean([row[name] for row in rows])) for name in rows[0]}
        if not math.isfinite(means["validation/loss"]):
            raise UserError(f"the loss on {config.validation_split} was not finite after step {step}")
        return means

    return validate

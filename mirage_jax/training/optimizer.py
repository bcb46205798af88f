"""AdamW with warm-up and cosine decay; float32 master weights, whatever the compute type."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mirage_jax.errors import UserError
from mirage_jax.models import partition


def schedule(config: Any) -> optax.Schedule:
    """Learning rate by step: linear for `warmup_steps`, then cosine decay to `final_fraction` of the peak at `steps`.

    Raises `UserError` if the warm-up does not end before the run does.
    """
    if not 0 <= config.warmup_steps < config.steps:
        raise UserError(f"warmup_steps={config.warmup_steps} must be at least 0 and less than steps={config.steps}")
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.learning_rate,
        warmup_steps=config.warmup_steps,
        decay_steps=config.steps,
        end_value=config.learning_rate * config.final_fraction,
    )


def make(config: Any) -> optax.GradientTransformation:
    """The optimizer of a stage: gradient clipping by global norm, then AdamW on matrices and kernels.

    What has fewer than two axes (norm weights, biases) does not decay.

    Args:
      config: has the fields of `schedule`, and `clip_norm`, `b1`, `b2`, `weight_decay`, `rate_factors`: pairs (regex on
        the parameter path, factor on the learning rate), the first that is found counts; and `first_moment_dtype`.
        bfloat16 there saves two bytes a parameter. The second moment stays float32: what a step adds to it is often
        less than bfloat16 can tell.

    Raises:
      UserError: if that is neither float32 nor bfloat16.
    """
    if config.first_moment_dtype not in ("float32", "bfloat16"):
        raise UserError(f"first_moment_dtype must be float32 or bfloat16, found {config.first_moment_dtype!r}")

    def decays(params):
        return jax.tree.map(lambda x: x.ndim >= 2, params)

    steps = [
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            schedule(config),
            b1=config.b1,
            b2=config.b2,
            weight_decay=config.weight_decay,
            mask=decays,
            mu_dtype=jnp.dtype(config.first_moment_dtype),
        ),
    ]
    if config.rate_factors:

        def scaled(updates, _):
            return jax.tree_util.tree_map_with_path(lambda path, x: x * _factor(path, config.rate_factors)[1], updates)

        steps.append(optax.stateless(scaled))
    return optax.chain(*steps)


def rates(config: Any, params: Any) -> dict[str, float]:
    """Factors on the learning rate, by part of the parameters (the first word of a path), and `part:pattern` where some
    of a part have another than the rest. Empty where all have the same rate.
    """
    if not config.rate_factors:
        return {}
    found = {}
    for path, _ in jax.tree_util.tree_leaves_with_path(params):
        part = partition.path_name(path).partition("/")[0]
        pattern, factor = _factor(path, config.rate_factors)
        found[f"{part}:{pattern}" if pattern else part] = factor
    return found


def _factor(path: Any, factors: Sequence[tuple[str, float]]) -> tuple[str, float]:
    """The first pattern that is found in a path, and its factor."""
    name = partition.path_name(path)
    return next(((pattern, factor) for pattern, factor in factors if re.search(pattern, name)), ("", 1.0))


def ema(average: Any, params: Any, decay: float, step: jax.Array) -> Any:
    """Exponential moving average of parameters, with a short memory at the start: `min(decay, (1+n)/(10+n))`."""
    rate = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda a, p: rate * a + (1.0 - rate) * p, average, params)

"""A trained model as it ships: in half precision."""

from __future__ import annotations

import os
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from mirage_jax import weights
from mirage_jax.errors import UserError


def export(
    model: str | os.PathLike[str], out: str | os.PathLike[str], parts: Sequence[str] | None = None
) -> dict[str, int]:
    """Writes a model folder, or one file NAME.safetensors, with float16 weights.

    Args:
      model: folder that training wrote.
      out: what to write.
      parts: to write; None is all that are there.

    Returns:
      How many numbers each part has.

    Raises:
      UserError: if there is no such model or part.
    """
    there = weights.parts_of(model)
    chosen = parts or there
    if missing := sorted(set(chosen) - set(there)):
        raise UserError(f"--parts: {model} has no {', '.join(missing)}, only {', '.join(there)}")
    config, params = weights.load(model, chosen)
    # float16 keeps three decimals where bfloat16 keeps two; nothing here comes near its range.
    largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(params))
    assert largest < 1e4, f"weights up to {largest} do not fit float16"
    weights.save(out, config, params, dtype=jnp.float16)
    return {part: sum(x.size for x in jax.tree.leaves(tree)) for part, tree in params.items()}

"""A trained model as it ships: in half precision."""

from __future__ import annotations

import os

import jax
import jax.numpy as jnp

from mirage_jax import weights


def export(model: str | os.PathLike[str], out: str | os.PathLike[str]) -> dict[str, int]:
    """Writes a model folder, or one file NAME.safetensors, with float16 weights.

    Args:
      model: folder that training wrote.
      out: what to write.

    Returns:
      How many numbers each part has.

    Raises:
      UserError: if there is no such model.
    """
    config, params = weights.load(model, weights.parts_of(model))
    # float16 keeps three decimals where bfloat16 keeps two; nothing here comes near its range.
    largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(params))
    assert largest < 1e4, f"weights up to {largest} do not fit float16"
    weights.save(out, config, params, dtype=jnp.float16)
    return {part: sum(x.size for x in jax.tree.leaves(tree)) for part, tree in params.items()}

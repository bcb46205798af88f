"""Equal blocks run by one scan, so that a program of thirty is as long as one of two, and one block's weights are
gathered at a time.

Files, training and LoRA keep one tree a block, `blocks_0`, `blocks_1`, .., as public checkpoints do. A scan runs over
one tree whose leaves have a leading axis of blocks, `blocks` (`stacked`): `world.prepare` makes it once; where it was
not made, as in training, the program stacks what each device holds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

JOIN = "join"
"""What only the first block of a side branch has, and what stands beside the stacked blocks."""

SHALLOW = 8
"""So many blocks are written out: on a CPU the way back through a loop takes a tenth longer."""

_NAME = re.compile(r"blocks_(\d+)")


def stacked(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of a DiT or side branch with `blocks` `[blocks, ...]` in place of `blocks_0`, `blocks_1`, ..

    A tree that is stacked already comes back as it is. Raises `ValueError` if blocks differ in what they hold.
    """
    names = sorted((name for name in params if _NAME.fullmatch(name)), key=lambda name: int(name.rpartition("_")[2]))
    if not names:
        return dict(params)
    rest = {name: value for name, value in params.items() if name not in names}
    if JOIN in params[names[0]]:
        rest[JOIN] = params[names[0]][JOIN]
    trees = [{name: value for name, value in params[block].items() if name != JOIN} for block in names]
    return rest | {"blocks": jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)}


def apart(params: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `stacked`; a tree that is apart already comes back as it is."""
    if "blocks" not in params:
        return dict(params)
    found = {name: value for name, value in params.items() if name not in ("blocks", JOIN)}
    for index in range(len(jax.tree.leaves(params["blocks"])[0])):
        found[f"blocks_{index}"] = jax.tree.map(lambda x, index=index: x[index], params["blocks"])
    if JOIN in params:
        found["blocks_0"][JOIN] = params[JOIN]
    return found


def scan(
    step: Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, Any]], params: Mapping[str, Any], x: jax.Array
) -> tuple[jax.Array, Any]:
    """Runs blocks one after the other.

    Args:
      step: of one block: its parameters, its index (int32 `[]`), tokens -> tokens, and what else it gives.
      params: with `blocks`, as `stacked` gives.
      x: tokens.

    Returns:
      The last tokens, and what else the blocks gave, with a leading axis of blocks.
    """
    count = len(jax.tree.leaves(params["blocks"])[0])
    whole = params["blocks"], jnp.arange(count)
    return jax.lax.scan(lambda x, xs: step(xs[0], xs[1], x), x, whole, unroll=count if count <= SHALLOW else 1)

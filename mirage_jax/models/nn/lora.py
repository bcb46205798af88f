"""Low-rank adaptation (Hu et al. 2021) as functions on parameter trees.

An adapter is a tree of its own: the adapted part of the parameter tree, with each kernel `W [in, out]`
replaced by `{'A': [in, rank], 'B': [rank, out]}`; it may also hold a change of the same shape for parameters of
any kind. The adapted model is the same module with `merge`d parameters; gradients reach the adapter through the merge.
"""

from __future__ import annotations

import re
from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import traverse_util

from mirage_jax.errors import UserError

SELF_ATTENTION_AND_FFN = r"(self_attention/[qkvo]|ffn/(up|down))/kernel"
ALL_ATTENTION_AND_FFN = r"((self|cross)_attention/[qkvo]|ffn/(up|down))/kernel"

Params = dict[str, Any]


def init(
    key: chex.PRNGKey, params: Params, rank: int, targets: str = SELF_ATTENTION_AND_FFN, added: str = ""
) -> Params:
    """A fresh adapter, which changes nothing: `A` is uniform in `+-1/sqrt(in)`, `B` is zero.

    Args:
      key: consumed.
      params: the tree to adapt, the 'dit' part of a generator's parameters say.
      rank: of the update, at least 1.
      targets: regular expression; a kernel is adapted if its path, parts joined by '/', ends in a match.
      added: regular expression of the whole paths of parameters that get a change of their own, zero at first.

    Raises:
      UserError: if the rank is below 1, no kernel matches, or what matches is not a matrix.
    """
    if rank < 1:
        raise UserError(f"LoRA rank must be at least 1, found {rank}")
    pattern = re.compile(f"(.*/)?({targets})")
    kernels = {path: leaf for path, leaf in _flat(params).items() if pattern.fullmatch(path)}
    if not kernels:
        raise UserError(f"LoRA targets {targets!r} match none of the {len(_flat(params))} parameters")
    adapter = {}
    for subkey, (path, kernel) in zip(jax.random.split(key, len(kernels)), sorted(kernels.items()), strict=True):
        if kernel.ndim != 2:
            raise UserError(f"LoRA target {path} must be a matrix, found shape {kernel.shape}")
        inputs, outputs = kernel.shape
        bound = inputs**-0.5
        adapter[f"{path}/A"] = jax.random.uniform(subkey, (inputs, rank), jnp.float32, -bound, bound)
        adapter[f"{path}/B"] = jnp.zeros((rank, outputs), jnp.float32)
    changed = [path for path in _flat(params) if added and re.fullmatch(added, path)]
    adapter |= {path: jnp.zeros_like(_flat(params)[path]) for path in changed}
    return traverse_util.unflatten_dict(adapter, sep="/")


def merge(params: Params, adapter: Params, alpha: float, strength: float = 1.0) -> Params:
    """`W + (alpha / rank) A B` for every adapted kernel, `W + D` for what has a change `D`; everything else as it is.

    Args:
      params: the tree the adapter was made for.
      adapter: as `init` gives.
      alpha: scale; with `alpha = rank` the update is `A B`.
      strength: what update and change are multiplied by.

    Raises:
      UserError: if the adapter has a kernel that `params` lacks, or of another shape.
    """
    merged, parts = _flat(params), _flat(adapter)
    for path in [name for name in parts if name.rpartition("/")[2] not in ("A", "B")]:
        change = parts.pop(path)
        if path not in merged or merged[path].shape != change.shape:
            raise UserError(f"LoRA changes {path} of shape {change.shape}, which the model does not have")
        merged[path] = (merged[path] + strength * change).astype(merged[path].dtype)
    for path in sorted({name.rpartition("/")[0] for name in parts}):
        a, b = parts[f"{path}/A"], parts[f"{path}/B"]
        found = merged[path].shape if path in merged else "no such kernel"
        if found != (a.shape[0], b.shape[1]):
            raise UserError(f"LoRA adapts {path} of shape {(a.shape[0], b.shape[1])}, the model has {found}")
        update = jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST) * (strength * alpha / a.shape[1])
        merged[path] = (merged[path] + update).astype(merged[path].dtype)
    return traverse_util.unflatten_dict(merged, sep="/")


def _flat(tree: Params) -> dict[str, jax.Array]:
    return traverse_util.flatten_dict(tree, sep="/")

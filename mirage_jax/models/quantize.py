"""Weights of the large matrices in 8 bits, for inference where memory is short.

`int8` turns the kernels inside the blocks of a parameter tree into `qwix.QArray`s, a pytree of int8 values and one
float32 factor per output channel; `layers.dense` multiplies by either kind. The files of a model are not concerned:
weights are quantised after they are loaded.

    params = world.prepare(config, params)      # merges LoRA, which an 8-bit kernel cannot take
    params = quantize.int8(params)
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mirage_jax.errors import UserError
from mirage_jax.models import partition

PARTS = ("dit", "side", "text")
"""Parts of a model that `int8` makes smaller."""

_KERNELS = re.compile(r"(blocks(_\d+)?/.*|join/)kernel")


def int8(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters with the kernels `[in, out]` of all transformer blocks in 8 bits, symmetric, a scale per output.

    Blocks may be stacked (`blocks.stacked`).

    Embeddings, head, norms, modulation and everything outside the parts named in `PARTS` stay as they are.

    Args:
      params: by part of the model, LoRA merged.

    Raises:
      UserError: if a LoRA is not merged, or the library is not installed.
    """
    if "lora" in params:
        raise UserError("8-bit weights: merge the LoRA into the DiT first (world.prepare does)")
    try:
        import qwix
    except ImportError as error:
        raise UserError("8-bit weights need the package qwix: pip install 'mirage-jax[int8]'") from error

    @jax.jit
    def quantized(kernel: jax.Array) -> Any:
        axes = tuple(axis for axis in range(kernel.ndim) if axis != kernel.ndim - 2)
        return qwix.quantize(kernel.astype(jnp.float32), jnp.int8, channelwise_axes=axes)

    def smaller(path: Any, leaf: Any) -> Any:
        return quantized(leaf) if leaf.ndim in (2, 3) and _KERNELS.search(partition.path_name(path)) else leaf

    return {
        part: jax.tree_util.tree_map_with_path(smaller, tree) if part in PARTS else tree
        for part, tree in params.items()
    }


def shardings(rules: partition.Rules, params: Any, mesh: Mesh) -> Any:
    """`partition.tree_shardings` of a tree with 8-bit kernels: values lie as their kernel, factors as its outputs."""

    def whole(x: Any) -> Any:
        return jax.ShapeDtypeStruct(x.qvalue.shape, x.qvalue.dtype) if is_quantized(x) else x

    def place(x: Any, sharding: NamedSharding) -> Any:
        if not is_quantized(x):
            return sharding
        axes = [*sharding.spec[:-2], None, sharding.spec[-1]] if sharding.spec else []
        return dataclasses.replace(x, qvalue=sharding, scale=NamedSharding(mesh, PartitionSpec(*axes)))

    places = partition.tree_shardings(rules, jax.tree.map(whole, params, is_leaf=is_quantized), mesh)
    return jax.tree.map(place, params, places, is_leaf=is_quantized)


def is_quantized(kernel: Any) -> bool:
    """Whether a kernel is one that `int8` made."""
    return hasattr(kernel, "qvalue")


def matmul(x: jax.Array, kernel: Any, dtype: jnp.dtype) -> jax.Array:
    """`x [..., in]` times an 8-bit kernel `[in, out]` -> `[..., out]` of `dtype`.

    8-bit integers are exact in 16-bit floats, so the factors of the outputs can wait until after the product.
    """
    product = jnp.matmul(x.astype(dtype), kernel.qvalue.astype(dtype), preferred_element_type=jnp.float32)
    return (product * kernel.scale[0]).astype(dtype)

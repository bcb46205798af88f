"""Attention of tokens that are split over a mesh: heads over `tensor`, tokens over `sequence` (Ulysses).

Jacobs et al. 2023: each device of the `sequence` axis holds some tokens of every latent frame and all heads. An
all-to-all trades heads for tokens, so that each device runs whole attention for some heads, and another one trades
back. Four exchanges of `1 / sequence` of the tokens, whatever the length; the order of tokens changes on the way,
for queries, keys and mask alike.

The body of `shard_map` sees single-device arrays, so that kernels which XLA cannot split (cuDNN, Pallas) run there.
"""

from __future__ import annotations

import jax
from jax.sharding import AbstractMesh, PartitionSpec

from mirage_jax.errors import UserError
from mirage_jax.models.nn.attention import attention


def self_attention(query: jax.Array, key: jax.Array, value: jax.Array, key_mask: jax.Array | None = None) -> jax.Array:
    """Every token attends to every token, on the mesh in use (`jax.set_mesh`) or on one device.

    Args:
      query, key, value: `[F, n, heads, head_dim]`.
      key_mask: bool `[F * n]`; a key that is False has weight exactly 0. At least one is True.

    Returns:
      `[F, n, heads, head_dim]`.

    Raises:
      UserError: if the mesh does not divide the heads or the tokens of a frame.
    """
    mesh = _mesh()
    if mesh is None:
        return _on_one(query, key, value, key_mask)
    _check(query, mesh)
    mask = None if key_mask is None else key_mask.reshape(query.shape[:2])
    split = mesh.shape.get("sequence", 1) > 1

    def local(query, key, value, mask):
        if not split:
            return _on_one(query, key, value, None if mask is None else mask.reshape(-1))
        shape = query.shape
        query, key, value = (_heads_for_tokens(x.reshape(-1, *shape[2:])) for x in (query, key, value))
        if mask is not None:
            mask = jax.lax.all_gather(mask.reshape(-1), "sequence", tiled=True)
        return _tokens_for_heads(attention(query, key, value, mask)).reshape(shape)

    tokens = _spec(mesh, None, "sequence", "tensor")
    specs = (tokens, tokens, tokens, _spec(mesh, None, "sequence"))
    return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=tokens, check_vma=False)(query, key, value, mask)


def cross_attention(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Every token attends to a context that each device of the `sequence` axis has whole.

    Args:
      query: `[F, n, heads, head_dim]`.
      key, value: `[M, heads, head_dim]`.

    Returns:
      `[F, n, heads, head_dim]`.

    Raises:
      UserError: as in `self_attention`.
    """
    mesh = _mesh()
    if mesh is None:
        return _on_one(query, key, value)
    _check(query, mesh, exchange=False)
    tokens, context = _spec(mesh, None, "sequence", "tensor"), _spec(mesh, None, "tensor")
    specs = (tokens, context, context)
    return jax.shard_map(_on_one, mesh=mesh, in_specs=specs, out_specs=tokens, check_vma=False)(query, key, value)


def _on_one(query: jax.Array, key: jax.Array, value: jax.Array, key_mask: jax.Array | None = None) -> jax.Array:
    flat = (x.reshape(-1, *x.shape[-2:]) for x in (query, key, value))
    return attention(*flat, key_mask).reshape(query.shape)


def _heads_for_tokens(x: jax.Array) -> jax.Array:
    return jax.lax.all_to_all(x, "sequence", split_axis=1, concat_axis=0, tiled=True)


def _tokens_for_heads(x: jax.Array) -> jax.Array:
    return jax.lax.all_to_all(x, "sequence", split_axis=0, concat_axis=1, tiled=True)


def _mesh() -> AbstractMesh | None:
    """The mesh in use; None where there is one device, or the code runs inside a `shard_map` already."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or mesh.size == 1 or mesh.manual_axes else mesh


def _spec(mesh: AbstractMesh, *axes: str | None) -> PartitionSpec:
    return PartitionSpec(*(axis if axis in mesh.shape else None for axis in axes))


def _check(query: jax.Array, mesh: AbstractMesh, exchange: bool = True) -> None:
    _, tokens, heads, _ = query.shape
    tensor, sequence = mesh.shape.get("tensor", 1), mesh.shape.get("sequence", 1)
    parts = tensor * (sequence if exchange else 1)
    if heads % parts:
        raise UserError(f"{heads} attention heads cannot be split over tensor={tensor} x sequence={sequence} devices")
    if tokens % sequence:
        raise UserError(f"{tokens} tokens of a latent frame cannot be split over sequence={sequence} devices")

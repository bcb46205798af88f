"""Softmax attention behind one dispatch point: whatever is fast where the program runs, and a plain twin.

`attention` is what models call. `by_head` (CPU), `cudnn` (NVIDIA, 16-bit), `splash` (TPU) and `xla` (anywhere, the
oracle of the others) compute the same function.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash_kernel
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as splash_mask

BLOCK = 512
"""Queries and keys of a tile of the TPU kernel; sequences are padded to multiples of it."""

LANES = 128
"""What the TPU kernel needs the head width, and its shortest tile, to be a multiple of."""


def attention(query: jax.Array, key: jax.Array, value: jax.Array, key_mask: jax.Array | None = None) -> jax.Array:
    """Softmax attention, by the formulation that is fast where the program runs.

    Args:
      query: `[L, heads, head_dim]`.
      key, value: `[M, heads, head_dim]`.
      key_mask: bool `[M]`; a key that is False has weight exactly 0. At least one is True.

    Returns:
      `[L, heads, head_dim]`.
    """
    match platform():
        case "cpu":
            return by_head(query, key, value, key_mask)
        case "tpu" if query.shape[-1] % LANES == 0:
            form = splash
        case "cuda" if _cudnn_takes(query, key):
            form = cudnn
        case _:
            form = xla
    # A program whose arrays lie on the host is compiled for the host, whatever else the machine has.
    return jax.lax.platform_dependent(query, key, value, key_mask, cpu=by_head, default=form)


def platform() -> str:
    """Where the program being traced will run: 'cpu', 'tpu', 'cuda' (with tensor cores for bfloat16) or another.

    The devices of the mesh in force (`jax.set_mesh`) count, so that a program can be compiled for hardware that is not
    here; without one, the default backend.
    """
    described = jax.sharding.get_abstract_mesh().abstract_device
    kind = "" if described is None else described.device_kind
    if kind.startswith("TPU"):
        return "tpu"
    name = kind if kind == "cpu" else jax.default_backend()
    if name != "gpu":
        return name
    capability = str(getattr(jax.local_devices()[0], "compute_capability", ""))
    return "cuda" if capability.replace(".", "").isdecimal() and float(capability) >= 8 else "gpu"


def xla(query: jax.Array, key: jax.Array, value: jax.Array, key_mask: jax.Array | None) -> jax.Array:
    """The plain formulation; stores the whole attention map."""
    mask = None if key_mask is None else key_mask[None, None, :]
    return jax.nn.dot_product_attention(query, key, value, mask=mask, implementation="xla")


def by_head(query: jax.Array, key: jax.Array, value: jax.Array, key_mask: jax.Array | None) -> jax.Array:
    """One head at a time."""
    # Batched matrix products and large stored attention maps are what XLA does badly on a CPU. One head at a time keeps
    # each product 2-D (3-D under vmap) and its map in cache; going back, the map is computed again.
    heads_first = tuple(jnp.swapaxes(x, 0, 1) for x in (query, key, value))
    counts = jnp.ones(len(key), bool) if key_mask is None else key_mask
    return jnp.swapaxes(jax.lax.map(lambda head: _one_head(*head, counts), heads_first), 0, 1)


@jax.custom_vjp
def _one_head(query: jax.Array, key: jax.Array, value: jax.Array, counts: jax.Array) -> jax.Array:
    """`query [L, D]`, `key` and `value` `[M, D]`, bool `counts [M]` -> `[L, D]`; its gradient is written out below."""
    return _one_head_forward(query, key, value, counts)[0]


# The map lies as [M, L], so that no product needs a large matrix transposed and no sum runs along its rows. On 2 cores
# this takes three quarters of the time of the derivative of a softmax that is computed again, for 448 and 1,216 tokens.
def _one_head_forward(query, key, value, counts):
    logits = _logits(query, key, counts)
    largest = jnp.max(logits, axis=0)
    weights = jnp.exp(logits - largest)
    ones = jnp.ones((len(value), 1), jnp.float32)
    sums = jnp.dot(jnp.concatenate([value.astype(jnp.float32), ones], axis=1).T, weights)
    out = (sums[:-1] / sums[-1]).T.astype(value.dtype)
    return out, (query, key, value, counts, out, largest + jnp.log(sums[-1]))


def _one_head_backward(kept, change):
    query, key, value, counts, out, level = kept
    scale, wide = query.shape[-1] ** -0.5, lambda x: x.astype(jnp.float32)
    weights = jnp.exp(_logits(query, key, counts) - level)
    along = jnp.sum(wide(change) * wide(out), axis=-1)
    slope = weights * (jnp.dot(wide(value), wide(change).T) - along)
    to_query = jnp.dot(scale * wide(key).T, slope).T
    to_key = jnp.dot(slope, scale * wide(query))
    to_value = jnp.dot(weights, wide(change))
    return to_query.astype(query.dtype), to_key.astype(key.dtype), to_value.astype(value.dtype), None


_one_head.defvjp(_one_head_forward, _one_head_backward)


def _logits(query: jax.Array, key: jax.Array, counts: jax.Array) -> jax.Array:
    """`[M, L]` float32, minus infinity where a key does not count."""
    scaled = key.astype(jnp.float32) * query.shape[-1] ** -0.5
    return jnp.where(counts[:, None], jnp.dot(scaled, query.astype(jnp.float32).T), -jnp.inf)


def cudnn(
    query: jax.Array, key: jax.Array, value: jax.Array, key_mask: jax.Array | None, implementation: str = "cudnn"
) -> jax.Array:
    """Fused attention of cuDNN; `implementation` is there for a test without a GPU."""
    attend = functools.partial(jax.nn.dot_product_attention, implementation=implementation)
    if key_mask is None:
        return attend(query, key, value)
    # A mask would have to be stored as an [L, M] bias. The order of keys does not matter to a softmax, so the keys
    # that count go to the front and the kernel gets their number.
    order = jnp.argsort(~key_mask, stable=True)
    # Its batching rule takes no lengths that are the same for the whole batch: these are tied to the query.
    tie = ((query[:1, 0, 0] == 0) & False).astype(jnp.int32)
    return attend(
        query,
        key[order],
        value[order],
        query_seq_lengths=tie + len(query),
        key_value_seq_lengths=tie + key_mask.sum(dtype=jnp.int32),
    )


def _cudnn_takes(query: jax.Array, key: jax.Array) -> bool:
    """16 bits, head widths that every generation runs, and the even lengths that its gradient asks for."""
    head_dim = query.shape[-1]
    fits = head_dim % 8 == 0 and head_dim <= 128 and len(query) % 2 == 0 and len(key) % 2 == 0
    return fits and query.dtype in (jnp.bfloat16, jnp.float16)


def splash(
    query: jax.Array, key: jax.Array, value: jax.Array, key_mask: jax.Array | None, interpret: bool = False
) -> jax.Array:
    """Tiled attention of the TPU (Pallas); `interpret` runs the kernel anywhere, slowly.

    Needs a head width that is a multiple of 128.
    """
    (length, heads, head_dim), keys = query.shape, len(key)
    block_q, block_kv = _block(length), _block(keys)
    pad_q, pad_kv = -length % block_q, -keys % block_kv
    counts = jnp.ones(keys, bool) if key_mask is None else key_mask
    segments = None
    if key_mask is not None or pad_kv:
        # A query attends to keys of its own segment: every query is of segment 1, and the keys that count.
        segments = splash_kernel.SegmentIds(
            q=jnp.ones(length + pad_q, jnp.int32), kv=jnp.pad(counts, (0, pad_kv)).astype(jnp.int32)
        )
    kernel = splash_kernel.make_splash_mha_single_device(
        splash_mask.MultiHeadMask([splash_mask.FullMask((length + pad_q, keys + pad_kv))] * heads),
        block_sizes=splash_kernel.BlockSizes(
            block_q=block_q,
            block_kv=block_kv,
            block_q_dkv=block_q,
            block_kv_dkv=block_kv,
            block_q_dq=block_q,
            block_kv_dq=block_kv,
        ),
        interpret=interpret,
    )

    def heads_first(x: jax.Array, pad: int) -> jax.Array:
        return jnp.pad(jnp.swapaxes(x, 0, 1), ((0, 0), (0, pad), (0, 0)))

    out = kernel(
        heads_first((query.astype(jnp.float32) * head_dim**-0.5).astype(query.dtype), pad_q),
        heads_first(key, pad_kv),
        heads_first(value, pad_kv),
        segment_ids=segments,
    )
    return jnp.swapaxes(out[:, :length], 0, 1)


def _block(length: int) -> int:
    return min(BLOCK, length + -length % LANES)

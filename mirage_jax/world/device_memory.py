"""What fits: a compiled program, and what lies on a device beside it, compared with the device's memory.

That memory is what JAX may use of the device, three quarters of a GPU unless `XLA_PYTHON_CLIENT_MEM_FRACTION` says
otherwise; devices that do not tell (CPUs) are not asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import chex
import jax
import numpy as np
from jax.experimental import multihost_utils

from mirage_jax.geometry import Camera
from mirage_jax.world.config import WorldConfig
from mirage_jax.world.frame_geometry import KnownGeometry
from mirage_jax.world.segment import compiled_in_place, compiled_segment


def limit(devices: Sequence[Any]) -> int | None:
    """Bytes that JAX may use of each of some devices of this process, the least of all; None if they do not tell."""
    stats = [device.memory_stats() or {} for device in devices]
    known = min((found.get("bytes_limit", 0) for found in stats), default=0)
    if jax.process_count() > 1:  # all have to come to the same end
        known = int(multihost_utils.process_allgather(np.int64(known)).min())
    return known or None


def needed(compiled: Any) -> int:
    """Bytes of a device that a compiled program holds at once: arguments, temporaries, and output of its own."""
    return compiled.memory_analysis().argument_size_in_bytes + _beside(compiled)


def held(tree: Any) -> int:
    """Bytes that arrays, or shapes with their shardings, take of one device."""

    def size(x: Any) -> int:
        shape = x.shape if getattr(x, "sharding", None) is None else x.sharding.shard_shape(x.shape)
        return int(np.prod(shape)) * x.dtype.itemsize

    return sum(map(size, jax.tree.leaves(tree)))


def placeable(size: Callable[[], int]) -> int | None:
    """`size()`, bytes of a program that it compiles; None if the compiler found no room for it."""
    try:
        return size()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None


def of_segment(
    config: WorldConfig,
    params: Any,
    state: Any,
    cameras: Camera,
    text: chex.Array | None = None,
    known: KnownGeometry | None = None,
    *,
    donate: bool = False,
) -> int:
    """Bytes of a device that `world.segment` takes, with all parameters that lie there.

    The program is compiled, once: the segment itself finds it.

    Args:
      config, text, known, donate: as for `world.segment`.
      params, state, cameras: as there, or their shapes.
    """
    run = compiled_in_place if donate else compiled_segment
    compiled = run.lower(config, params, state, cameras, text, known).compile()
    return max(needed(compiled), held((params, state)) + _beside(compiled))  # parameters that it does not read stay


def _beside(compiled: Any) -> int:
    memory = compiled.memory_analysis()
    return memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes

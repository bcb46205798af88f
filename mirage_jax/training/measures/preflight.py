"""What fits: a train step is compiled before the first batch is spent on it, and compared with the device's memory.

The memory is what JAX may use of the device, three quarters of a GPU unless `XLA_PYTHON_CLIENT_MEM_FRACTION` says
otherwise; devices that do not tell (CPUs) are not asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from mirage_jax.errors import UserError
from mirage_jax.models import partition


def limit(mesh: Mesh) -> int | None:
    """Bytes that JAX may use of a device of the mesh, the least of all; None if they do not tell."""
    stats = [device.memory_stats() or {} for device in mesh.local_devices]
    known = min((found.get("bytes_limit", 0) for found in stats), default=0)
    if jax.process_count() > 1:  # all have to come to the same end
        known = int(multihost_utils.process_allgather(np.int64(known)).min())
    return known or None


def compiled(step_with: Callable[[int], Any], arguments: Any, parts: int) -> Any:
    """The step of `step.make_step` for a batch in so many parts, compiled for its arguments, in the mesh in use."""
    return step_with(parts).__wrapped__.lower(*arguments).compile()


def needed(compiled: Any) -> int:
    """Bytes of a device that a compiled program holds at once: arguments, temporaries, and output of its own."""
    memory = compiled.memory_analysis()
    own = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return memory.argument_size_in_bytes + memory.temp_size_in_bytes + own


def accumulation(compiled_with: Callable[[int], Any], asked: int, batch: int, mesh: Mesh, room: int | None) -> int:
    """Into how many parts a batch is split: those that were asked for, or, for 0, as few as fit.

    Args:
      compiled_with: from a number of parts to the compiled step; it may raise the error of a compiler that found no
        room.
      asked: `config.accumulate`.
      batch: examples of a whole batch.
      mesh: whose batch axes divide every part.
      room: bytes, of `limit`; None takes what was asked for (and 1 for 0) unseen.

    Raises:
      UserError: in one sentence what is needed, what there is, and which switch mends it, if nothing fits.
    """
    if room is None:
        return asked or 1
    tried: dict[int, str] = {}
    for parts in [asked] if asked else _possible(batch, mesh):
        size = _size(compiled_with, parts)
        if size is not None and size <= room:
            return parts
        tried[parts] = "more than the compiler can place" if size is None else f"{size / 1e9:.1f} GB"
    parts, size = list(tried.items())[-1]
    more = [n for n in _possible(batch, mesh) if n > parts]
    mend = f"--config.accumulate={more[0]}" if more else "--config.remat=full, or a mesh with more fsdp or sequence"
    raise UserError(
        f"a train step with accumulate={parts} needs {size} of each device, of which JAX may use {room / 1e9:.1f} GB "
        f"(XLA_PYTHON_CLIENT_MEM_FRACTION); what mends it: {mend}"
    )


def _possible(batch: int, mesh: Mesh) -> Iterator[int]:
    shares = batch // partition.batch_parts(mesh, batch)[1]
    return (parts for parts in range(1, shares + 1) if shares % parts == 0)


def _size(compiled_with: Callable[[int], Any], parts: int) -> int | None:
    try:
        return needed(compiled_with(parts))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None

"""What fits: a train step is compiled before the first batch is spent on it, and compared with the device's memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from jax.sharding import Mesh

from mirage_jax.errors import UserError
from mirage_jax.models import partition
from mirage_jax.world import device_memory


def compiled(step_with: Callable[[int], Any], arguments: Any, parts: int) -> Any:
    """The step of `step.make_step` for a batch in so many parts, compiled for its arguments, in the mesh in use."""
    return step_with(parts).__wrapped__.lower(*arguments).compile()


def accumulation(compiled_with: Callable[[int], Any], asked: int, batch: int, mesh: Mesh, room: int | None) -> int:
    """Into how many parts a batch is split: those that were asked for, or, for 0, as few as fit.

    Args:
      compiled_with: from a number of parts to the compiled step; it may raise the error of a compiler that found no
        room.
      asked: `config.accumulate`.
      batch: examples of a whole batch.
      mesh: whose batch axes divide every part.
      room: bytes, of `device_memory.limit`; None takes what was asked for (and 1 for 0) unseen.

    Raises:
      UserError: in one sentence what is needed, what there is, and which switch mends it, if nothing fits.
    """
    if room is None:
        return asked or 1
    tried: dict[int, str] = {}
    for parts in [asked] if asked else _possible(batch, mesh):
        size = device_memory.placeable(lambda parts=parts: device_memory.needed(compiled_with(parts)))
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

"""From a source of samples to batches, with a position that can be saved; of clips, batches of random windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import grain
import numpy as np

from mirage_jax.data import tolerance
from mirage_jax.data.joined import Joined
from mirage_jax.errors import UserError

_PER_CLIP = ("caption", "source", tolerance.SKIPPED)


class ClipSource(Protocol):
    """Random access to dicts with arrays whose first axis is time, and strings."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...


def clips(
    source: ClipSource,
    *,
    batch_size: int,
    frames: int,
    seed: int,
    parts: Sequence[int] = (0,),
    count: int = 1,
    workers: int = 0,
    fields: Sequence[str] | None = None,
    windows_per_clip: int = 1,
    skipped: tolerance.Skipped | None = None,
) -> grain.DatasetIterator:
    """An endless iterator of batches of random windows of clips.

    The order depends on the seed only, not on `workers`, and the parts, in their order, are the batch that a single
    process would read. The position is saved and restored with `grain.checkpoint.CheckpointSave` and
    `CheckpointRestore`; it fits the same parts and worker counts only.

    Args:
      source: what `load_source` returns, or any list of such dicts.
      batch_size: windows of a whole batch.
      frames: length of a window, 4k + 1.
      seed: decides the order and the windows.
      parts, count: which equal parts of every batch to give, out of how many.
      workers: reading processes; 0 reads in the calling process.
      fields: what to keep of the source's fields; all if None.
      windows_per_clip: windows cut from a clip each time it is read; consecutive in the order, so that one
        reading serves them all. They count as items of the batch.
      skipped: counts clips that cannot be read, for which a neighbour stands in; None makes them an error.

    Returns:
      An iterator of dicts of arrays `[batch_size, frames, ...]`; strings come as `[batch_size]` str arrays.

    Raises:
      UserError: if the window or batch does not fit the source.
    """
    if frames < 1 or frames % 4 != 1:
        raise UserError(f"frames is {frames}, expected 4k + 1 (for example 17)")
    if windows_per_clip < 1 or batch_size % (windows_per_clip * count):
        raise UserError(
            f"batch_size is {batch_size}, expected a multiple of windows_per_clip ({windows_per_clip}) x "
            f"parts ({count})"
        )
    readable = source if skipped is None else tolerance.Tolerant(source)
    for first in source.starts if isinstance(source, Joined) else (0,):
        length = next(len(v) for v in readable[first].values() if not isinstance(v, str))
        if frames > length:
            raise UserError(f"frames is {frames}, but clips have {length} frames")

    def cut(clip: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        return _windows(clip, frames, windows_per_clip, fields, rng)

    dataset = grain.MapDataset.source(readable).seed(seed).shuffle().repeat().random_map(cut)
    each = batch_size // windows_per_clip
    return iter(batches(dataset, each, parts, count, threads=2, workers=workers, skipped=skipped).map(_merge))


def _windows(
    clip: dict[str, Any], frames: int, count: int, fields: Sequence[str] | None, rng: np.random.Generator
) -> dict[str, Any]:
    """`count` random windows of a clip, stacked."""
    names = tuple(clip) if fields is None else (*fields, *(x for x in (tolerance.SKIPPED,) if x in clip))
    length = next(len(value) for value in clip.values() if not isinstance(value, str))
    starts = rng.integers(length - frames + 1, size=count)
    cut = {}
    for name in names:
        value = clip[name]
        if name in _PER_CLIP:
            cut[name] = np.array([value] * count)
        else:
            cut[name] = np.stack([value[start : start + frames] for start in starts])
    return cut


def _merge(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Joins the axes of clips and of windows."""
    return {name: value.reshape(-1, *value.shape[2:]) for name, value in batch.items()}


def batches(
    dataset: grain.MapDataset,
    batch_size: int,
    parts: Sequence[int],
    count: int,
    *,
    threads: int,
    workers: int,
    skipped: tolerance.Skipped | None,
) -> grain.IterDataset:
    """The batches of a data set of samples.

    Args:
      dataset: the samples, in order.
      batch_size, parts, count, workers, skipped: as in `clips`, of samples.
      threads: that read, in each process.

    Raises:
      UserError: if the batch does not divide into the parts, or there is no such part.
    """
    shared = _Parts(dataset, batch_size, parts, count)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4)
    found = shared.batch(shared.local, drop_remainder=True).to_iter_dataset(options)
    if workers:
        found = found.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2))
    return found if skipped is None else found.map(skipped.take_out)


class _Parts(grain.MapDataset):
    """Of every batch of a data set, cut into equal parts, some: one after the other.

    All parts together, in their order, are the batches that a single process would read.
    """

    def __init__(self, parent: grain.MapDataset, batch_size: int, parts: Sequence[int], count: int):
        """Args: the whole data set, elements of a batch, which of its parts, out of how many.

        Raises `UserError` if the batch does not divide into the parts, or there is no such part.
        """
        super().__init__(parent)
        if not parts or min(parts) < 0 or max(parts) >= count or batch_size % count:
            raise UserError(f"a batch of {batch_size} has no parts {list(parts)} of {count} equal ones")
        self._batch, self._size, self._parts, self._count = batch_size, batch_size // count, tuple(parts), count
        self.local = self._size * len(self._parts)

    def __len__(self) -> int:
        return len(self._parent) // self._count * len(self._parts)

    def __getitem__(self, index: Any) -> Any:
        batch, place = divmod(index, self.local)
        part, place = divmod(place, self._size)
        return self._parent[batch * self._batch + self._parts[part] * self._size + place]

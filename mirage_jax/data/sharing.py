"""Which parts of every batch a process reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grain

from mirage_jax.errors import UserError


class Parts(grain.MapDataset):
    """Of every batch of a data set, cut into equal parts, some: one after the other.

    All parts together, in their order, are the batches that a single process would read.
    """

    def __init__(self, parent: grain.MapDataset, batch_size: int, parts: Sequence[int], count: int):
        """Args: the whole data set, elements of a batch, which of its parts, out of how many.

        Raises:
          UserError: if the batch does not divide into the parts, or there is no such part.
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

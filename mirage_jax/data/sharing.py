"""Which part of every batch a process reads."""

from __future__ import annotations

from typing import Any

import grain


class Share(grain.MapDataset):
    """Of every `size * shares` elements of a data set, the `size` from `size * share` on.

    The shares, one after the other, are the batch that a single process would read, in the same order.
    """

    def __init__(self, parent: grain.MapDataset, size: int, share: int, shares: int):
        """Args: the whole data set, how many of its elements make a batch of this share, which share, of how many."""
        super().__init__(parent)
        self._size, self._share, self._shares = size, share, shares

    def __len__(self) -> int:
        return len(self._parent) // self._shares

    def __getitem__(self, index: Any) -> Any:
        batch, place = divmod(index, self._size)
        return self._parent[(batch * self._shares + self._share) * self._size + place]

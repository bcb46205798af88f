"""Several sources of samples as one."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from typing import Any, SupportsIndex

from mirage_jax.errors import UserError


class Joined:
    """Random access to the samples of all sources, one source after the other.

    Attributes:
      starts: index of the first sample of each source.
    """

    def __init__(self, sources: Sequence[Any]):
        """Args: the sources, `len()` and `[i]`, none of them empty."""
        self._sources = tuple(sources)
        *self.starts, self._length = itertools.accumulate((len(source) for source in sources), initial=0)

    def __len__(self) -> int:
        return self._length

    def locate(self, index: SupportsIndex) -> tuple[int, int]:
        """Which source a sample is in, and its index there. Raises `IndexError` if there are not so many."""
        index = index.__index__()
        if not 0 <= index < self._length:
            raise IndexError(f"sample {index} of {self._length}")
        source = bisect.bisect_right(self.starts, index) - 1
        return source, index - self.starts[source]

    def __getitem__(self, index: SupportsIndex) -> Any:
        source, index = self.locate(index)
        return self._sources[source][index]

    def __repr__(self) -> str:
        return " + ".join(map(repr, self._sources))  # Grain prints it on resume


def folders(text: str, flag: str) -> list[str]:
    """The folders that a flag names, divided by commas; one that is named twice counts twice.

    Raises `UserError` if there are none, or a name is empty.
    """
    found = [name.strip() for name in text.split(",")]
    if not all(found):
        raise UserError(f"{flag}={text}: expected a folder, or several with commas between them")
    return found

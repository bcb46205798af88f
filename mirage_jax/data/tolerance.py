"""Samples that cannot be read: replaced by a neighbour, named and counted, up to a limit.

A reading process cannot tell the training loop anything but through its batches, so the name of what was skipped
travels with the sample (field `SKIPPED`) and is taken out where the batch arrives.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging

from mirage_jax.errors import UserError

SKIPPED = "skipped"
_TRIES = 8  # neighbours; so many bad ones in a row are a bad file, not bad samples


class Tolerant:
    """Random access to a source in which some samples may be bad; each sample says what it stands in for, or ''."""

    def __init__(self, source: Any):
        """Args: the source, `len()` and `[i]`."""
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        reasons = []
        for offset in range(min(_TRIES, len(self))):
            place = (index + offset) % len(self)
            try:
                return dict(self._source[place]) | {SKIPPED: "\n".join(reasons)}
            except Exception as error:  # storage and decoders raise many kinds
                reason = " ".join(str(error).split())[:200]
                reasons.append(f"sample {place} ({type(error).__name__}: {reason})")
        raise UserError(f"{self._source!r}: {len(reasons)} samples in a row cannot be read: {reasons[0]}")

    def __repr__(self) -> str:
        return f"Tolerant({self._source!r})"


@dataclasses.dataclass
class Skipped:
    """What this process has skipped.

    Attributes:
      limit: more than so many different samples end the run.
      reasons: why, by sample, in the order found.
    """

    limit: int
    reasons: dict[str, int] = dataclasses.field(default_factory=dict)

    def take_out(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The batch without its field `SKIPPED`, which is counted.

        Raises `UserError` if the limit is passed; the first few samples are named.
        """
        batch = dict(batch)
        for names in np.unique(np.asarray(batch.pop(SKIPPED))):
            for name in str(names).splitlines():
                if name not in self.reasons:
                    logging.warning("skipped %s", name)
                self.reasons[name] = self.reasons.get(name, 0) + 1
        if len(self.reasons) > self.limit:
            named = "; ".join(list(self.reasons)[:3])
            raise UserError(f"{len(self.reasons)} bad samples, more than --config.bad_samples={self.limit}: {named}")
        return batch

    def counters(self) -> dict[str, float]:
        """For the metrics: how many different samples were skipped."""
        return {"skipped_samples": float(len(self.reasons))}

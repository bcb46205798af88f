"""Where the data stand when a run goes on: restored as it was saved, or derived from the step."""

from __future__ import annotations

from typing import Any

import grain
from grain.experimental import set_next_index


def seek(batches: grain.DatasetIterator, step: int) -> None:
    """Moves a fresh iterator behind its first `step` batches.

    Exact if every batch comes from one position of the data, which holds for all data here as long as no sample is
    skipped. Without reading anything where Grain can; else by drawing and dropping the batches.
    """
    try:
        return set_next_index(batches, step)
    except (NotImplementedError, ValueError):
        pass
    state: Any = batches.get_state()
    workers = state.get("iterators_in_use_states", []) if isinstance(state, dict) else []
    if workers and all(set(worker) == {"next_index"} for worker in workers):
        # Several worker processes take turns, worker i giving batches i, i + n, ...
        places = [{"next_index": len(range(i, step, len(workers)))} for i in range(len(workers))]
        batches.set_state(state | {"iterators_in_use_states": places, "next_index_in_cycle": step % len(workers)})
        return
    for _ in range(step):
        next(batches)

"""Batches of coded clips, the same for every stage that trains on latents."""

from __future__ import annotations

from typing import Any

import jax

from mirage_jax.data import latents


def batches(config: Any) -> Any:
    """The batches of `config.data`, `config.split` for this process."""
    return latents.clips(
        latents.load_source(config.data, config.split),
        batch_size=config.batch_size,
        seed=config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        workers=config.workers,
    )

"""Batches of coded clips, the same for every stage that trains on latents."""

from __future__ import annotations

from typing import Any

from mirage_jax.data import latents
from mirage_jax.models import partition


def batches(config: Any) -> Any:
    """The batches of `config.data`, `config.split` for this process."""
    share, shares = partition.batch_share(partition.make_mesh(dict(config.mesh)), config.batch_size)
    return latents.clips(
        latents.load_source(config.data, config.split),
        batch_size=config.batch_size,
        seed=config.seed,
        share=share,
        shares=shares,
        workers=config.workers,
    )

"""The stages of training, one a file; `make` picks one by name."""

from __future__ import annotations

from typing import Any

from mirage_jax.errors import UserError
from mirage_jax.training.stage import Stage
from mirage_jax.training.stages import generator, heads, vae


def make(config: Any) -> Stage:
    """Builds the stage `config.stage` names. Raises `UserError` if there is no such stage."""
    makers = {"vae": vae.make, "heads": heads.make, "generator": generator.make}
    if config.stage not in makers:
        raise UserError(f"--config.stage={config.stage}: unknown stage, expected one of {', '.join(makers)}")
    return makers[config.stage](config)

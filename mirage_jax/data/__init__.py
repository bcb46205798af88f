"""Posed video on the host: numpy, Grain and TFDS; no JAX models.

What needs Grain or TFDS (extra `data`) is loaded when first used, so that clips can be read without them.
"""

from typing import TYPE_CHECKING, Any

from mirage_jax.data.clip import PosedClip, spread

if TYPE_CHECKING:
    from mirage_jax.data.source import FIELDS, Source, load_source

__all__ = ["FIELDS", "PosedClip", "Source", "load_source", "spread"]


def __getattr__(name: str) -> Any:
    if name in ("FIELDS", "Source", "load_source"):
        from mirage_jax.data import source

        return getattr(source, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

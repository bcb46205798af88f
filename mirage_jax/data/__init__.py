"""Posed video on the host: numpy, Grain and TFDS; no JAX models."""

from mirage_jax.data.clip import PosedClip
from mirage_jax.data.source import FIELDS, Source, load_source

__all__ = ["FIELDS", "PosedClip", "Source", "load_source"]

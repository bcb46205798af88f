"""Model files: our own format, and public checkpoint layouts."""

from mirage_jax.weights.model_files import DEFAULT, digest, load, on_host, parts_of, read_config, save, shapes

__all__ = ["DEFAULT", "digest", "load", "on_host", "parts_of", "read_config", "save", "shapes"]

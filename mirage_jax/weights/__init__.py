"""Model files: our own format, and public checkpoint layouts."""

from mirage_jax.weights.model_files import DEFAULT, load, load_for, parts_of, read_config, save, side_folder

__all__ = ["DEFAULT", "load", "load_for", "parts_of", "read_config", "save", "side_folder"]

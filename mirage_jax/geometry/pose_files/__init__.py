"""Camera files: ours, and readers for those that users bring.

Both doors recognise the format of a file or folder by its content. `load` gives the cameras of pictures, which must fit
them; `load_path` gives a path for frames of any other size. Every reader ends in the same checks.
"""

from mirage_jax.geometry.pose_files.native import write_json, write_npz
from mirage_jax.geometry.pose_files.recognise import is_text_of_words, load, load_path
from mirage_jax.geometry.pose_files.record import DepthMaps, PathFile, PoseFile

__all__ = ["DepthMaps", "PathFile", "PoseFile", "is_text_of_words", "load", "load_path", "write_json", "write_npz"]

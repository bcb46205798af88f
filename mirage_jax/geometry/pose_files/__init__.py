"""Camera files: ours, and readers for those that users bring.

`load` recognises the format of a file or folder; every reader ends in the same checks and gives a `PoseFile`.
"""

from mirage_jax.geometry.pose_files.native import write_json, write_npz
from mirage_jax.geometry.pose_files.recognise import load
from mirage_jax.geometry.pose_files.record import DepthMaps, PoseFile

__all__ = ["DepthMaps", "PoseFile", "load", "write_json", "write_npz"]

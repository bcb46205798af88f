"""Pictures and exports: videos, contact sheets, point clouds."""

from mirage_jax.viz.ply import read_ply, write_ply
from mirage_jax.viz.sheets import contact_sheet, evenly, side_by_side
from mirage_jax.viz.video import decoded, frame_rate, join_videos, read_video, video_writer, write_video

__all__ = [
    "contact_sheet",
    "decoded",
    "evenly",
    "frame_rate",
    "join_videos",
    "read_ply",
    "read_video",
    "side_by_side",
    "video_writer",
    "write_ply",
    "write_video",
]

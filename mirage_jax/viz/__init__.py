"""Pictures and exports: videos, contact sheets, camera paths, curves, point clouds."""

from mirage_jax.viz.paths import plot_path
from mirage_jax.viz.plots import plot_curves
from mirage_jax.viz.ply import read_ply, write_ply
from mirage_jax.viz.sheets import contact_sheet, evenly, side_by_side
from mirage_jax.viz.video import decoded, frame_rate, join_videos, read_video, video_writer, write_video

__all__ = [
    "contact_sheet",
    "decoded",
    "evenly",
    "frame_rate",
    "join_videos",
    "plot_curves",
    "plot_path",
    "read_ply",
    "read_video",
    "side_by_side",
    "video_writer",
    "write_ply",
    "write_video",
]

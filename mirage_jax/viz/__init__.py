"""Pictures and exports: videos, contact sheets, camera paths, curves, point clouds."""

from mirage_jax.viz.paths import plot_path
from mirage_jax.viz.plots import plot_curves
from mirage_jax.viz.ply import write_ply
from mirage_jax.viz.sheets import contact_sheet, side_by_side
from mirage_jax.viz.video import read_video, write_video

__all__ = ["contact_sheet", "plot_curves", "plot_path", "read_video", "side_by_side", "write_ply", "write_video"]

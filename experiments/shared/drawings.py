"""Drawings: camera paths from above and from the side, so that a wrong convention is seen at once, and curves.

And what a path amounts to, in a sentence.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure

from experiments.evaluation import revisit
from mirage_jax import io
from mirage_jax.geometry import Camera

_MOST_FRUSTA = 13
_MOST_POINTS = 20_000
# Viridis without its yellow end, which white paper swallows.
_TIME = LinearSegmentedColormap.from_list("time", colormaps["viridis"](np.linspace(0.0, 0.9, 64)))


def plot_path(
    path: str | os.PathLike[str],
    cameras: Camera,
    *,
    points: np.ndarray | None = None,
    colors: np.ndarray | None = None,
    title: str = "",
) -> None:
    """Writes a PNG of a camera path: from above on the left, from the side on the right.

    Both views are drawn in the axes of the first camera, which looks upwards on the page on the left and to the right
    of the page on the right. Frusta are drawn for some frames, coloured by time, the first and the last among them.

    Args:
      path: of the picture.
      cameras: `Camera[T]`.
      points: `[N, 3]` world points to draw as dots, such as what the memory holds.
      colors: `[N, 3]` uint8 RGB of the points.
      title: above the drawing.

    Raises:
      UserError: if `path` cannot be written.
    """
    first_from_world = np.linalg.inv(np.asarray(cameras.cam2world[0], np.float64))
    first_from_cam = first_from_world @ np.asarray(cameras.cam2world, np.float64)
    centres = first_from_cam[:, :3, 3]
    extent = float(np.ptp(centres, axis=0).max())
    frusta = _frusta(cameras, first_from_cam, 0.12 * extent if extent > 0 else 1.0)
    figure = Figure(figsize=(12, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    above, side = figure.subplots(1, 2)
    # Columns of camera axes to go right and up on the page, with the sign of the second.
    _draw(above, centres, frusta, (0, 2), 1.0, ("right", "ahead"), "from above")
    _draw(side, centres, frusta, (2, 1), -1.0, ("ahead", "up"), "from the side")
    if points is not None:
        _scatter(above, side, points, colors, first_from_world)
    for axes in (above, side):
        axes.set_aspect("equal", adjustable="datalim")
        axes.margins(0.1)
    figure.legend(*above.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    time = ScalarMappable(Normalize(0, max(len(centres) - 1, 1)), _TIME)
    figure.colorbar(time, ax=side, label="frame", fraction=0.04)
    if title:
        figure.suptitle(title, fontsize=10)
    with io.atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


@dataclasses.dataclass(frozen=True)
class PathSummary:
    """What a path amounts to, for a look before anything is run.

    Attributes:
      frames: number of cameras.
      length: of the way, scene units.
      turning: sum of the turns between frames, degrees.
      largest_step: between neighbouring frames, scene units.
      largest_turn: between neighbouring frames, degrees.
      gap: distance from the first to the last camera, scene units.
      gap_turn: angle from the first to the last camera, degrees.
    """

    frames: int
    length: float
    turning: float
    largest_step: float
    largest_turn: float
    gap: float
    gap_turn: float

    def __str__(self) -> str:
        return (
            f"{self.frames} frames, {self.length:.3g} units and {self.turning:.4g} degrees of way "
            f"(at most {self.largest_step:.3g} units and {self.largest_turn:.3g} degrees a frame), "
            f"ends {self.gap:.3g} units and {self.gap_turn:.3g} degrees from the start"
        )


def describe(camera: Camera) -> PathSummary:
    """Length, turning and largest steps of `Camera[T]`."""
    poses = np.asarray(camera.cam2world, np.float64)
    count = len(poses)
    steps, turns = revisit.pose_differences(poses, np.stack([np.arange(count - 1), np.arange(1, count)], axis=1))
    gap, gap_turn = revisit.pose_differences(poses, np.array([[0, count - 1]]))
    return PathSummary(
        frames=count,
        length=float(steps.sum()),
        turning=float(turns.sum()),
        largest_step=float(steps.max(initial=0.0)),
        largest_turn=float(turns.max(initial=0.0)),
        gap=float(gap[0]),
        gap_turn=float(gap_turn[0]),
    )


def plot_curves(
    path: str | os.PathLike[str],
    curves: Mapping[str, np.ndarray],
    *,
    ylabel: str,
    xlabel: str = "frame",
    title: str = "",
) -> None:
    """Writes a PNG of one or more curves over a common axis.

    Args:
      path: of the picture.
      curves: label -> `[T]`; values that are not finite are left out.
      ylabel, xlabel, title: what it shows.

    Raises:
      UserError: if `path` cannot be written.
    """
    figure = Figure(figsize=(8, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for label, values in curves.items():
        values = np.asarray(values, np.float64)
        axes.plot(np.where(np.isfinite(values), values, np.nan), marker=".", ms=4, lw=1.5, label=label)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(True, color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    if title:
        axes.set_title(title, fontsize=11)
    if len(curves) > 1:
        axes.legend(frameon=False)
    with io.atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def _frusta(cameras: Camera, first_from_cam: np.ndarray, length: float) -> list[tuple[int, np.ndarray]]:
    """Frame number and `[8, 2, 3]` edges, in the first camera's axes, of the frusta to draw."""
    total = len(first_from_cam)
    shown = sorted({round(x) for x in np.linspace(0, total - 1, min(total, _MOST_FRUSTA))})
    result = []
    for index in shown:
        inverse = np.linalg.inv(np.asarray(cameras.intrinsics[index], np.float64))
        pixels = np.array([(0, 0), (cameras.width, 0), (cameras.width, cameras.height), (0, cameras.height)], float)
        corners = length * np.concatenate([pixels, np.ones((4, 1))], axis=1) @ inverse.T
        corners = corners @ first_from_cam[index, :3, :3].T + first_from_cam[index, :3, 3]
        centre = np.broadcast_to(first_from_cam[index, :3, 3], (4, 3))
        edges = np.concatenate([np.stack([centre, corners], 1), np.stack([corners, np.roll(corners, -1, axis=0)], 1)])
        result.append((index, edges))
    return result


def _draw(
    axes: Axes,
    centres: np.ndarray,
    frusta: list[tuple[int, np.ndarray]],
    columns: tuple[int, int],
    sign: float,
    names: tuple[str, str],
    title: str,
) -> None:
    """One view: two of the three coordinates, the second times `sign`."""

    def flat(points: np.ndarray) -> np.ndarray:
        return points[..., columns] * (1.0, sign)

    last = max(len(centres) - 1, 1)
    for index, edges in frusta:
        axes.add_collection(
            LineCollection(list(flat(edges)), colors=[colormaps["viridis"](0.9 * index / last)], lw=0.8)
        )
    track = flat(centres)
    axes.plot(*track.T, color="0.35", lw=1.0, zorder=2)
    axes.plot(*track[0], "o", color="tab:green", ms=8, label="frame 0", zorder=5)
    axes.plot(*track[-1], "s", color="tab:red", ms=5, label=f"frame {len(centres) - 1}", zorder=6)
    axes.set_xlabel(f"{names[0]} of the first camera (scene units)")
    axes.set_ylabel(f"{names[1]} of the first camera (scene units)")
    axes.set_title(title, fontsize=10)
    axes.grid(True, color="0.92")
    axes.set_axisbelow(True)


def _scatter(
    above: Axes, side: Axes, points: np.ndarray, colors: np.ndarray | None, first_from_world: np.ndarray
) -> None:
    """World points as dots behind the path; of very many, an even sample."""
    every = slice(None, None, max(1, -(-len(points) // _MOST_POINTS)))
    local = np.asarray(points, np.float64)[every] @ first_from_world[:3, :3].T + first_from_world[:3, 3]
    shade = "0.6" if colors is None else np.asarray(colors)[every] / 255.0
    above.scatter(local[:, 0], local[:, 2], s=1.5, c=shade, linewidths=0, zorder=1)
    side.scatter(local[:, 2], -local[:, 1], s=1.5, c=shade, linewidths=0, zorder=1)

"""Curves over the frames of a video."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mirage_jax import io


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

"""The plots of the report, as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mirage_jax import io
from mirage_jax.evaluation.report.summary import Summary

COLOURS = {
    "latent": "tab:blue",
    "rgb": "tab:orange",
    "none": "tab:red",
    "readout": "tab:cyan",
    "flat": "0.6",
    "oracle": "tab:green",
    "context": "tab:purple",
    "vae": "0.25",
    "truth": "0.0",
}


def mean_curves(results: Sequence[Mapping[str, Any]], protocol: str, name: str) -> dict[str, np.ndarray]:
    """method -> mean of a curve over clips and seeds, of those curves that have the most common length."""
    found: dict[str, list[list[float]]] = {}
    for result in results:
        for row in result["rows"]:
            if row["protocol"] == protocol and name in row["curves"]:
                curve = [np.nan if v is None else v for v in row["curves"][name]]
                found.setdefault(row["method"], []).append(curve)
    lengths = [len(curve) for curves in found.values() for curve in curves]
    if not lengths:
        return {}
    length = max(set(lengths), key=lambda n: (lengths.count(n), n))
    stacked = {method: np.array([c for c in curves if len(c) == length]) for method, curves in found.items()}
    return {method: _mean(curves) for method, curves in stacked.items() if np.isfinite(curves).any()}


def _mean(curves: np.ndarray) -> np.ndarray:
    """`[clips, T]` to `[T]`; NaN where no clip has a value."""
    known = np.isfinite(curves)
    total = np.where(known, curves, 0.0).sum(0)
    return np.where(known.any(0), total / np.maximum(known.sum(0), 1), np.nan)


def curves(
    path: Path,
    by_method: Mapping[str, np.ndarray],
    *,
    xlabel: str,
    ylabel: str,
    first: int = 0,
    segment: int | None = None,
) -> None:
    """Curves over frames, the first value at frame `first`; thin lines where a segment begins (frame 1 and so on)."""
    figure, axes = _figure()
    for method, values in by_method.items():
        axes.plot(first + np.arange(len(values)), values, color=COLOURS.get(method), lw=1.6, label=method)
    if segment is not None:
        for begin in range(1, first + max(map(len, by_method.values())), segment):
            axes.axvline(begin - 0.5, color="0.85", lw=0.8, zorder=0)
    _finish(path, figure, axes, xlabel, ylabel)


def cost(path: Path, efficiency: Mapping[str, Any]) -> None:
    """Readout seconds per frame, with the spread of the runs, and bytes of the cache, by segment."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for method, rows in efficiency["methods"].items():
        number = 1 + np.arange(len(rows))
        middle, low, high = (
            1e3 * np.array([row[name] for row in rows]) for name in ("seconds_per_frame", "low", "high")
        )
        spread = np.maximum([middle - low, high - middle], 0)
        left.errorbar(number, middle, spread, color=COLOURS.get(method), marker="o", ms=4, capsize=3, label=method)
        size = [row["bytes"] / 2**20 for row in rows]
        right.plot(number, size, color=COLOURS.get(method), marker="o", ms=4, label=method)
    for axes, label in ((left, "readout, ms per frame"), (right, "cache, MiB")):
        axes.set_yscale("log")
        axes.set_xticks(number)
        _dress(axes, "segment", label)
    left.legend(frameon=False)
    _save(path, figure)


def pareto(path: Path, points: Mapping[str, tuple[float, float, float, float]], ylabel: str) -> None:
    """Quality with its interval (`mean, low, high`) against the cost of a readout (seconds per frame, the first)."""
    figure, axes = _figure(width=5.5)
    for method, (seconds, mean, low, high) in points.items():
        spread = [[max(mean - low, 0)], [max(high - mean, 0)]]
        axes.errorbar(1e3 * seconds, mean, spread, color=COLOURS.get(method), marker="o", ms=7, capsize=4, label=method)
    axes.set_xscale("log")
    _finish(path, figure, axes, "readout, ms per frame", ylabel)


def bars(path: Path, summary: Summary, protocols: Sequence[str], metric: str, methods: Sequence[str]) -> None:
    """A metric by protocol (classes of motion) and method, with intervals."""
    figure, axes = _figure()
    width = 0.8 / max(len(methods), 1)
    for number, method in enumerate(methods):
        for place, protocol in enumerate(protocols):
            entry = summary.get(protocol, {}).get(method, {}).get(metric)
            if entry is None:
                continue
            low, high = (entry[k] if entry[k] is not None else entry["mean"] for k in ("low", "high"))
            at = place + (number - (len(methods) - 1) / 2) * width
            spread = [[max(entry["mean"] - low, 0)], [max(high - entry["mean"], 0)]]
            axes.errorbar(at, entry["mean"], spread, color=COLOURS.get(method), marker="o", ms=5, capsize=3)
    for method in methods:
        axes.plot([], [], "o", color=COLOURS.get(method), label=method)
    axes.set_xticks(range(len(protocols)), [name.partition("[")[2].rstrip("]") for name in protocols])
    _finish(path, figure, axes, "moving pixels, %", metric.replace("_", " "))


def _figure(width: float = 8) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _dress(axes: Any, xlabel: str, ylabel: str) -> None:
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(True, color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _finish(path: Path, figure: Figure, axes: Any, xlabel: str, ylabel: str) -> None:
    _dress(axes, xlabel, ylabel)
    axes.legend(frameon=False, ncols=2, fontsize=8)
    _save(path, figure)


def _save(path: Path, figure: Figure) -> None:
    with io.atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")

"""The plots of the report, as PNG files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.evaluation.summary import Summary
from experiments.report.page import Shown
from mirage_jax import io

COLOURS = {
    **{"latent": "tab:blue", "rgb": "tab:orange", "none": "tab:red", "readout": "tab:cyan", "flat": "0.6"},
    **{"oracle": "tab:green", "context": "tab:purple", "vae": "0.25", "truth": "0.0"},
}
_CURVES = {"psnr": "PSNR, dB", "lpips": "LPIPS", "rotation": "rotation error, degrees"}
_FRAMES = {"closed_loop": "frame i, against frame T-1-i", "returns": "frame of the segment"}
_BARS = ("background_psnr", "object_psnr", "detected", "ghosting")
_QUALITY = {
    "closed_loop": ("psnr_c", "PSNR of the returned frame, dB"),
    "returns": ("psnr_revisit", "PSNR of returning frames, dB"),
}


def of_protocol(
    folder: Path,
    name: str,
    title: str,
    results: Sequence[Mapping[str, Any]],
    summary: Summary,
    classes: Sequence[str],
    segment: int | None,
) -> list[Shown]:
    """Draws metrics of moving objects by class of motion, and the mean curves over frames.

    Args:
      folder: for the pictures.
      name, title: of the protocol.
      results, summary: of all clips.
      classes: of motion, names in the summary.
      segment: frames of a segment, where thin lines show its beginning.
    """
    found = []
    for metric in _BARS if name == "objects" else ():
        if any(metric in row for row in summary[name].values()):
            path = folder / f"objects_{metric}.png"
            _bars(path, summary, classes, metric)
            found.append(Shown(path, f"{metric} by share of moving pixels, with 95 % intervals."))
    for curve, ylabel in _CURVES.items():
        by_method = _mean_curves(results, name, curve)
        if by_method:
            path = folder / f"{name}_{curve}.png"
            first, lines = int(name == "memory"), None if name in _FRAMES else segment
            _curves(path, by_method, _FRAMES.get(name, "frame"), ylabel, first, lines)
            found.append(Shown(path, f"{title}: mean {ylabel} by frame."))
    return found


def of_cost(folder: Path, summary: Summary, methods: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Shown]:
    """Draws what a readout costs by segment, and quality against it at the last one.

    Args:
      folder: for the pictures.
      summary: of all clips.
      methods: of `efficiency.json`.
    """
    path = folder / "readout_cost.png"
    _cost(path, methods)
    found = [Shown(path, "Readout time (10th to 90th percentile) and size of the cache by segment.")]
    for protocol, (metric, label) in _QUALITY.items():
        entries = {method: summary.get(protocol, {}).get(method, {}).get(metric) for method in methods}
        if any(entries.values()):
            path = folder / f"pareto_{protocol}.png"
            figure, axes = _figure(width=5.5)
            for method, entry in entries.items():
                if entry is not None:
                    _point(axes, 1e3 * methods[method][-1]["seconds_per_frame"], entry, method, ms=7, capsize=4)
            axes.set_xscale("log")
            _finish(path, figure, axes, "readout, ms per frame", label)
            found.append(Shown(path, f"{label}, against the time of a readout at the last segment."))
    return found


def _mean_curves(results: Iterable[Mapping[str, Any]], protocol: str, name: str) -> dict[str, np.ndarray]:
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


def _curves(
    path: Path, by_method: Mapping[str, np.ndarray], xlabel: str, ylabel: str, first: int, segment: int | None
) -> None:
    """Curves over frames, the first value at frame `first`; thin lines where a segment begins (frame 1 and so on)."""
    figure, axes = _figure()
    for method, values in by_method.items():
        axes.plot(first + np.arange(len(values)), values, color=COLOURS.get(method), lw=1.6, label=method)
    if segment is not None:
        for begin in range(1, first + max(map(len, by_method.values())), segment):
            axes.axvline(begin - 0.5, color="0.85", lw=0.8, zorder=0)
    _finish(path, figure, axes, xlabel, ylabel)


def _cost(path: Path, methods: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Readout seconds per frame, with the spread of the runs, and bytes of the cache, by segment."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for method, rows in methods.items():
        number = 1 + np.arange(len(rows))
        columns = ("seconds_per_frame", "low", "high")
        middle, low, high = (1e3 * np.array([row[name] for row in rows]) for name in columns)
        spread = np.maximum([middle - low, high - middle], 0)
        left.errorbar(number, middle, spread, color=COLOURS.get(method), marker="o", ms=4, capsize=3, label=method)
        size = [row["bytes"] / 2**20 for row in rows]
        right.plot(number, size, color=COLOURS.get(method), marker="o", ms=4, label=method)
        left.set_xticks(number)
        right.set_xticks(number)
    for axes, label in ((left, "readout, ms per frame"), (right, "cache, MiB")):
        axes.set_yscale("log")
        _dress(axes, "segment", label)
    left.legend(frameon=False)
    _save(path, figure)


def _bars(path: Path, summary: Summary, classes: Sequence[str], metric: str) -> None:
    """A metric by class of motion and method, with intervals."""
    figure, axes = _figure()
    methods = list(summary["objects"])
    for number, method in enumerate(methods):
        for place, one in enumerate(classes):
            entry = summary.get(one, {}).get(method, {}).get(metric)
            if entry is not None:
                at = place + (number - (len(methods) - 1) / 2) * 0.8 / len(methods)
                _point(axes, at, entry, method, label=None, ms=5, capsize=3)
        axes.plot([], [], "o", color=COLOURS.get(method), label=method)
    axes.set_xticks(range(len(classes)), [name.partition("[")[2].rstrip("]") for name in classes])
    _finish(path, figure, axes, "moving pixels, %", metric.replace("_", " "))


def _point(axes: Any, x: float, entry: Mapping[str, Any], method: str, **style: Any) -> None:
    """A mean with its interval."""
    mean = entry["mean"]
    low, high = (mean if entry[end] is None else entry[end] for end in ("low", "high"))
    spread = [[max(mean - low, 0)], [max(high - mean, 0)]]
    axes.errorbar(x, mean, spread, **{"color": COLOURS.get(method), "marker": "o", "label": method} | style)


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

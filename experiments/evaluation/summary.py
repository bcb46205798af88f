"""Results to numbers: means over clips with intervals, ratios of means, paired differences, worst clips; and CSV."""

from __future__ import annotations

import csv
import io as text_io
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.evaluation import statistics

PAIRED_AGAINST = "latent"

RATIOS = {
    "revisit": {f"nmr_{name}": (f"{name}_gain", f"{name}_range") for name in ("psnr", "ssim", "lpips")},
    "heads": {
        "depth_within_15_percent": ("depth_within_15_percent_count", "depth_count"),
        **{f"{mask}_iou": (f"{mask}_intersection", f"{mask}_union") for mask in ("actor", "sky")},
    },
}
"""protocol -> metric that is a ratio of means over clips -> its numerator and denominator.

NMR (R2M-Bench) is the mean memory gain over the mean dynamic range within each kind of path, then the mean over kinds;
videos in which nothing changes are left out. The others are over all clips.
"""

SUMMED = ("_intersection", "_union", "_count")
"""Metrics whose names end so are numbers of cells, to be summed over clips for a ratio, not averaged."""

LOWER_IS_BETTER = (
    *("lpips", "rotation", "translation", "relative_translation", "ghosting", "look"),
    *("centroid_error", "holes", "feature_error", "relative_error"),
)
"""Metrics with one of these words in the name are errors."""

_STILL = 1e-8  # a dynamic range up to this is a video in which nothing changes

Summary = dict[str, dict[str, dict[str, dict[str, Any]]]]
"""protocol -> method -> metric -> `mean`, `low`, `high`, `clips`, `seeds`, maybe `latent_minus_this`."""


def rows_of(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each clip, protocol, method and seed: those, the clip's `kind` and `motion`, and the values."""
    return [
        {
            **{name: result[name] for name in ("clip", "kind", "motion")},
            **{name: row[name] for name in ("protocol", "method", "seed")},
            **row["values"],
        }
        for result in results
        for row in result["rows"]
    ]


def summarise(rows: Sequence[Mapping[str, Any]]) -> Summary:
    """Means of every protocol; that of moving objects also for each class of motion, as `objects[1-5]`.

    A mean is over clips, whose seeds are averaged first; the interval is that of `statistics`, None with fewer than two
    clips.
    """
    by_protocol: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_protocol.setdefault(row["protocol"], []).append(row)
    moving = by_protocol.get("objects", [])
    for name in sorted({row["motion"] for row in moving}, key=_least_motion):
        by_protocol[f"objects[{name}]"] = [row for row in moving if row["motion"] == name]
    return {protocol: _by_method(protocol, some) for protocol, some in by_protocol.items()}


def of_one_protocol(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The means of rows that are all of one protocol.

    Returns:
      method -> metric -> `mean`, `low`, `high`, `count` (clips; two or more), maybe `latent_minus_this`, or for numbers
      of cells and their ratios a number.
    """

    def plain(entry: Mapping[str, Any]) -> dict[str, Any]:
        return {name: entry[name] for name in ("mean", "low", "high")} | {"count": entry["clips"]}

    table: dict[str, dict[str, Any]] = {}
    for method, entries in _by_method("", rows).items():
        mine = [row for row in rows if row["method"] == method]
        found: dict[str, Any] = {}
        for name, entry in entries.items():
            if entry["clips"] > 1:
                found[name] = plain(entry)
                if entry.get("latent_minus_this", {}).get("clips", 0) > 1:
                    found[name]["latent_minus_this"] = plain(entry["latent_minus_this"])
        counts = dict.fromkeys(name for row in mine for name in row if name.endswith(SUMMED))
        found |= {name: int(sum(row[name] for row in mine if name in row)) for name in counts}
        for name, (above, below) in RATIOS["heads"].items():
            if below in found:
                found[name] = found[above] / max(found[below], 1)
        table[method] = found
    return table


def without(summary: Summary, methods: Collection[str]) -> Summary:
    """The summary without some methods, and without protocols of which nothing is left."""
    left = {
        protocol: {method: row for method, row in table.items() if method not in methods}
        for protocol, table in summary.items()
    }
    return {protocol: table for protocol, table in left.items() if table}


def _least_motion(name: str) -> float:
    """The lower end of a class of motion, to sort by."""
    return -1.0 if name == "none" else float(name.partition("-")[0].rstrip("+"))


def _by_method(protocol: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    known = {"clip", "kind", "motion", "protocol", "method", "seed"}
    metrics = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in known]
    table: dict[str, dict[str, dict[str, Any]]] = {}
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]
        table[method] = {}
        for metric in metrics:
            values = {} if metric.endswith(SUMMED) else by_clip(mine, metric)
            if not values:
                continue
            entry = _interval(values) | {"seeds": len({row["seed"] for row in mine if metric in row})}
            others = by_clip([row for row in rows if row["method"] == PAIRED_AGAINST], metric)
            shared = [clip for clip in values if clip in others]
            if method != PAIRED_AGAINST and shared:
                entry["latent_minus_this"] = _interval({c: others[c] - values[c] for c in shared})
            table[method][metric] = entry
        for metric, (above, below) in RATIOS.get(protocol, {}).items():
            entry = _ratio(mine, above, below, by_kind=protocol == "revisit")
            if entry is not None:
                table[method][metric] = entry
    return table


def by_clip(rows: Iterable[Mapping[str, Any]], metric: str) -> dict[str, float]:
    """clip -> mean of a metric over its rows (its seeds)."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if row.get(metric) is not None:
            found.setdefault(row["clip"], []).append(float(row[metric]))
    return {clip: float(np.mean(values)) for clip, values in found.items()}


def _interval(values: Mapping[str, float]) -> dict[str, Any]:
    array = np.array(list(values.values()))
    if len(array) < 2:
        return {"mean": float(array.mean()), "low": None, "high": None, "clips": len(array)}
    found = statistics.bootstrap_mean(array)
    return {"mean": found.mean, "low": found.low, "high": found.high, "clips": found.count}


def _ratio(rows: Sequence[Mapping[str, Any]], above: str, below: str, *, by_kind: bool) -> dict[str, Any] | None:
    """Mean over mean; None where the denominator has no sign or there are no clips."""
    top, bottom = by_clip(rows, above), by_clip(rows, below)
    kinds = {row["clip"]: row["kind"] if by_kind else "" for row in rows}
    pairs: dict[str, list[tuple[float, float]]] = {}
    for clip in top:
        if not by_kind or bottom[clip] > _STILL:
            pairs.setdefault(kinds[clip], []).append((top[clip], bottom[clip]))
    groups = [np.array(some) for some in pairs.values()]
    if not groups or any(group[:, 1].mean() <= _STILL for group in groups):
        return None
    found = statistics.ratio_of_means(groups, extra=_STILL if by_kind else 0.0)
    ends = {"low": found.low, "high": found.high} if found.count > 1 else {"low": None, "high": None}
    return {"mean": found.mean, **ends, "clips": found.count, "seeds": len({row["seed"] for row in rows})}


def is_error(metric: str) -> bool:
    """Whether lower values of a metric are better. Gains and ranges are better when higher, whatever they are of."""
    if metric.endswith(("_gain", "_range")) or metric.startswith("nmr_"):
        return False
    return any(word in metric for word in LOWER_IS_BETTER)


def worst(rows: Sequence[Mapping[str, Any]], protocol: str, method: str, metric: str, count: int = 10) -> list[str]:
    """The clips on which a method did worst, worst first."""
    values = by_clip([row for row in rows if row["protocol"] == protocol and row["method"] == method], metric)
    return sorted(values, key=lambda clip: -values[clip] if is_error(metric) else values[clip])[:count]


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """All rows as CSV, a column for every name that occurs."""
    text = text_io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(dict.fromkeys(name for row in rows for name in row)))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def columns(table: Mapping[str, Mapping[str, Any]], metrics: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of a table of methods, for the metrics that some method has."""
    some = [name for name in metrics if any(name in row for row in table.values())]
    lines = [[method, *(cell(row.get(name)) for name in some)] for method, row in table.items()]
    return ["method", *some], lines


def differences(table: Mapping[str, Mapping[str, Any]], metrics: Sequence[str]) -> dict[str, dict[str, Any]]:
    """method -> metric -> its paired difference to the latent memory, of methods that have one in these metrics."""
    found = {
        method: {
            name: entry["latent_minus_this"]
            for name, entry in row.items()
            if isinstance(entry, Mapping) and "latent_minus_this" in entry
        }
        for method, row in table.items()
    }
    return {method: row for method, row in found.items() if any(name in row for name in metrics)}


def cell(entry: Mapping[str, Any] | float | None) -> str:
    """`mean [low, high] (clips x seeds)`, or a number as it is."""
    if not isinstance(entry, Mapping):
        return "-" if entry is None else f"{entry:.3f}" if isinstance(entry, float) else str(entry)
    interval = "" if entry["low"] is None else f" [{entry['low']:.3f}, {entry['high']:.3f}]"
    seeds = f" x {entry['seeds']}" if "seeds" in entry else ""
    return f"{entry['mean']:.3f}{interval} ({entry['clips' if 'clips' in entry else 'count']}{seeds})"

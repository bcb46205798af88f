"""The report of a folder of results (`runner`): numbers, plots, videos, failures, `report.md` and `report.html`."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mirage_jax import io
from mirage_jax.errors import UserError
from mirage_jax.evaluation.report import films as report_films
from mirage_jax.evaluation.report import plots as report_plots
from mirage_jax.evaluation.report import published
from mirage_jax.evaluation.report import summary as tables
from mirage_jax.evaluation.report.about import PHASES, PROTOCOLS
from mirage_jax.evaluation.report.page import Block, Code, Heading, Link, Picture, Table, Text, markdown, to_html
from mirage_jax.evaluation.report.summary import Summary

LIMITS = (
    "A small model on small worlds: what is measured here need not transfer to photographs, to large resolutions or to "
    "models of billions of parameters.",
    "Intervals are over clips of this data set; they say nothing about other worlds.",
    "PSNR rewards a blur of the right colours. LPIPS and the pictures of failures are the check on it.",
    "Frames in which the camera cannot be found are too poor to be aligned; the medians are over the others.",
    "Published figures are of other data and another model: compare relations between rows, not values.",
)


def write(
    out: Path,
    results: Sequence[Mapping[str, Any]],
    *,
    about: Sequence[str],
    commands: Sequence[str],
    efficiency: Mapping[str, Any] | None = None,
    segment: int | None = None,
    fps: float = 16.0,
    videos: Mapping[str, Path] | None = None,
    page: Path | None = None,
    page_failures: bool = True,
    ablations: Mapping[str, str] | None = None,
) -> Summary:
    """Writes everything that a reader needs into `out`.

    Args:
      out: folder of results.
      results: of all clips.
      about: sentences on data, number of clips, model, commit and device.
      commands: that made it.
      efficiency: of `experiments.bench.readout_cost`.
      segment: frames of a segment, for plots.
      fps: of the side-by-side videos.
      videos: system -> folder of its videos, where they are not in `out/videos/rollout`.
      ablations: method -> what differs in it from `latent`; they are shown in tables of their own only.
      page: also a Markdown page for a repository, with its pictures and `summary.json` in a folder of the same name.
      page_failures: whether that page shows what goes wrong: films, and the worst clips.

    Raises:
      UserError: if there are no results.
    """
    if not results:
        raise UserError(f"{out}: no clip has been scored, so there is nothing to report")
    rows = tables.rows_of(results)
    summary = tables.summarise(rows)
    io.write_json(out / "summary.json", summary)
    io.write_text(out / "clips.csv", tables.to_csv(rows))
    films = report_films.Films(out, videos or {}, fps)
    blocks: list[Block] = [Heading("Evaluation", 1), *map(Text, about)]
    blocks += [Text("Every figure is a mean over clips [95 % bootstrap interval] (clips x seeds).")]
    ablated = ablations or {}
    headline = tables.without(summary, ablated)
    blocks += _results(out, [tables.rows_without(one, ablated) for one in results], headline, segment)
    blocks += _ablations(summary, ablated)
    if efficiency is not None:
        blocks += _cost(out, headline, efficiency)
    blocks += _published(headline)
    shown = [*blocks, *_limits(), *_commands(commands)]
    wrong = report_films.wrong(out, rows, headline, films)
    failures = report_films.failures(out, rows, headline, films)
    blocks += [*films.side_by_side(results, headline), *wrong, *failures, *_limits(), *_commands(commands)]
    blocks.append(Link(out / "clips.csv", "clips.csv: every clip, protocol, method and seed"))
    io.write_text(out / "report.md", markdown(blocks, out))
    io.write_text(out / "report.html", to_html(blocks, out))
    if page is not None:
        _copy(page, out, *(([*shown, *wrong], failures) if page_failures else (shown, [])))
    return summary


def headlines(summary: Summary) -> str:
    """A line for every protocol and method with its first metric."""
    lines = []
    for name, protocol in PROTOCOLS.items():
        for method, row in summary.get(name, {}).items():
            metric = next((m for m in protocol.primary if m in row), None)
            if metric is not None:
                lines.append(f"{name:15} {method:10} {metric} {tables.cell(row[metric])}")
    return "\n".join(lines)


def _results(out: Path, results, summary: Summary, segment: int | None) -> list[Block]:
    blocks: list[Block] = []
    for name, protocol in PROTOCOLS.items():
        if name not in summary:
            continue
        blocks += [Heading(protocol.title), Text(protocol.about)]
        table = summary[name]
        metrics = protocol.metrics
        classes = [key for key in summary if key.startswith(f"{name}[")] or [name]
        for key in classes:
            if key != name:
                blocks.append(Heading(f"Moving pixels in %: {key.partition('[')[2].rstrip(']')}", 3))
            blocks += [Table(*tables.flatter(summary[key], metrics)), *_paired(summary[key], metrics)]
        if name == "objects":
            for phase, when in PHASES.items():
                shown = tuple(f"{phase}_{metric}" for metric in metrics)
                if any(metric in row for row in table.values() for metric in shown):
                    blocks += [Heading(f"{when}, all clips", 3), Table(*tables.flatter(table, shown))]
            for metric in ("background_psnr", "object_psnr", "detected", "ghosting"):
                if not any(metric in row for row in table.values()):
                    continue
                path = out / "figures" / f"objects_{metric}.png"
                report_plots.bars(path, summary, classes, metric, list(table))
                blocks.append(Picture(path, f"{metric} by share of moving pixels, with 95 % intervals."))
        for curve, ylabel in (("psnr", "PSNR, dB"), ("lpips", "LPIPS"), ("rotation", "rotation error, degrees")):
            curves = report_plots.mean_curves(results, name, curve)
            if not curves:
                continue
            path = out / "figures" / f"{name}_{curve}.png"
            lines = None if name in ("closed_loop", "returns") else segment
            report_plots.curves(
                path,
                curves,
                xlabel={"closed_loop": "frame i, against frame T-1-i", "returns": "frame of the segment"}.get(
                    name, "frame"
                ),
                ylabel=ylabel,
                first=1 if name == "memory" else 0,
                segment=lines,
            )
            blocks.append(Picture(path, f"{protocol.title}: mean {ylabel} by frame."))
    return blocks


def _paired(table: Mapping[str, Mapping[str, Any]], metrics: Sequence[str]) -> list[Block]:
    differences = {
        method: {name: entry["latent_minus_this"] for name, entry in row.items() if "latent_minus_this" in entry}
        for method, row in table.items()
    }
    differences = {method: row for method, row in differences.items() if any(name in row for name in metrics)}
    if not differences:
        return []
    return [
        Text("Latent memory minus each method, paired by clip:"),
        Table(*tables.flatter(differences, metrics)),
    ]


def _ablations(summary: Summary, about: Mapping[str, str]) -> list[Block]:
    """Each variant, and in every protocol that has some of them its paired difference to the latent memory."""
    if not about:
        return []
    blocks: list[Block] = [
        Heading("Ablations"),
        Text(
            "The latent memory with one thing changed, on the same clips and seeds. A variant is missing where nothing "
            "would differ."
        ),
        Table(["method", "what differs"], [list(row) for row in about.items()]),
    ]
    for name, protocol in PROTOCOLS.items():
        table = summary.get(name, {})
        some = {m: row for m, row in table.items() if m in about or m == tables.PAIRED_AGAINST}
        if set(some) & set(about):
            blocks += [
                Heading(f"{protocol.title}: ablations", 3),
                Table(*tables.flatter(some, protocol.metrics)),
                *_paired(some, protocol.metrics),
            ]
    return blocks


def _cost(out: Path, summary: Summary, efficiency: Mapping[str, Any]) -> list[Block]:
    methods = efficiency["methods"]
    figures = out / "figures"
    report_plots.cost(figures / "readout_cost.png", efficiency)
    count = len(methods["latent"])
    lines = []
    for method, rows in methods.items():
        lines.append([f"{method}: readout, ms per frame", *(f"{1e3 * row['seconds_per_frame']:.2f}" for row in rows)])
        lines.append([f"{method}: cache, MiB", *(f"{row['bytes'] / 2**20:.3f}" for row in rows)])
    blocks: list[Block] = [
        Heading("Cost of a readout"),
        Text(
            f"At the size of this model, on one clip: median of {efficiency['repeats']} reads after two that warm up, "
            f"the methods in turn; per pixel frame, of {efficiency['frames']} that one read serves. The RGB readout "
            "includes the VAE encoder that it needs."
        ),
        Table(["segment", *map(str, range(1, count + 1))], lines),
        Picture(
            figures / "readout_cost.png", "Readout time (10th to 90th percentile) and size of the cache by segment."
        ),
    ]
    for protocol, metric, label in (
        ("closed_loop", "psnr_c", "PSNR of the returned frame, dB"),
        ("returns", "psnr_revisit", "PSNR of returning frames, dB"),
    ):
        points = {}
        for method, rows in methods.items():
            entry = summary.get(protocol, {}).get(method, {}).get(metric)
            if entry is not None:
                ends = (entry[k] if entry[k] is not None else entry["mean"] for k in ("low", "high"))
                points[method] = (rows[-1]["seconds_per_frame"], entry["mean"], *ends)
        if points:
            path = figures / f"pareto_{protocol}.png"
            report_plots.pareto(path, points, label)
            blocks.append(Picture(path, f"{label}, against the time of a readout at the last segment."))
    return blocks


def _published(summary: Summary) -> list[Block]:
    columns = published.REALESTATE10K["columns"]
    lines = []
    for method in dict.fromkeys([*summary.get("reconstruction", {}), *summary.get("closed_loop", {})]):
        entries = [summary.get("reconstruction", {}).get(method, {}).get(name) for name in columns[:3]]
        entries += [summary.get("closed_loop", {}).get(method, {}).get(name) for name in columns[3:]]
        lines.append([f"{method} (here)", *("-" if e is None else f"{e['mean']:.3f}" for e in entries)])
    for system, values in published.REALESTATE10K.items():
        if system != "columns":
            lines.append([f"{system}, RealEstate10K", *(f"{value:.3f}" for value in values)])
    costs = (
        ("readout, s per frame", published.READOUT_SECONDS_PER_FRAME),
        ("cache, MiB", published.CACHE_MIB),
    )
    return [
        Heading("Published figures beside ours"),
        Text(
            f"Rows below the first ones are of {published.SOURCE}: RealEstate10K at 704x1280, one H100, a model of 5 "
            "billion parameters, one run. The data differ from ours: compare relations between rows, not values."
        ),
        Table(["", *columns], lines),
        Table(
            ["published, by segment", "1", "2", "3", "4", "5"],
            [[f"{system}: {what}", *(f"{v:g}" for v in values)] for what, t in costs for system, values in t.items()],
        ),
    ]


def _limits() -> list[Block]:
    return [Heading("Limits"), *map(Text, LIMITS)]


def _commands(commands: Sequence[str]) -> list[Block]:
    return [Heading("Commands"), Code("\n".join(commands))]


def _copy(page: Path, out: Path, blocks: list[Block], failures: list[Block]) -> None:
    """The page for a repository: tables, plots, films of what goes wrong, and the worst clip of every protocol."""
    folder = page.parent / page.stem
    for old in [*folder.glob("failures-*.png"), *folder.glob("wrong-*.mp4")]:
        old.unlink()  # of clips that were the worst once
    firsts = [block for block in failures if isinstance(block, Picture) and block.path.name.startswith("00-")]
    if firsts:
        blocks = [*blocks, Heading("Failures"), Text("The worst clip of each protocol."), *firsts]
    copied: list[Block] = []
    for block in blocks:
        if isinstance(block, Picture | Link):
            parts = block.path.relative_to(out).parts
            target = folder / "-".join(parts[1:] if parts[0] == "figures" else parts)
            with io.atomic_path(target) as temporary:
                shutil.copyfile(block.path, temporary)
            block = dataclasses.replace(block, path=target)
        copied.append(block)
    io.write_text(page, markdown(copied, page.parent))
    with io.atomic_path(folder / "summary.json") as temporary:
        shutil.copyfile(out / "summary.json", temporary)

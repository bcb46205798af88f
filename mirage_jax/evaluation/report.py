"""The report of a folder of results (`suite`): numbers, plots, videos, failures, `report.md` and `report.html`."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mirage_jax import io, viz
from mirage_jax.errors import UserError
from mirage_jax.evaluation import published, report_plots, report_tables, suite
from mirage_jax.evaluation.report_page import Block, Code, Heading, Link, Picture, Table, Text, markdown, to_html
from mirage_jax.evaluation.report_tables import Summary

_SHOWN = 5  # side-by-side videos
_WRONG = {
    "ghosting": "leaves an earlier appearance of an object behind where none is any more",
    "reappeared_found": "has lost the object when it is back in view",
    "centroid_error": "has the object in the wrong place",
    "object_psnr": "gets the look of the object wrong",
    "background_psnr": "gets the background wrong",
}
"""What can go wrong with moving objects: the metric that says where it is worst, and what is seen there."""
_WORST = 10


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a protocol is shown.

    Attributes:
      title, about: for someone who has not seen the code.
      metrics: columns of its table.
      primary: the metric that says which clips are the worst; the first that exists counts.
      videos: kind of video that shows its failures; None: nothing to see.
    """

    title: str
    about: str
    metrics: tuple[str, ...]
    primary: tuple[str, ...]
    videos: str | None = "rollout"


_OBJECTS = (
    *("background_psnr", "background_lpips", "object_psnr", "object_lpips"),
    *("detected", "found", "centroid_error", "look", "ghosting"),
)
_PHASES = {
    "visible": "Until an object leaves the view",
    "disappeared": "While it is away",
    "reappeared": "From its return on",
}

PROTOCOLS = {
    "reconstruction": Protocol(
        "Reconstruction",
        "The first frame and the true cameras are given; every later frame is compared with the true frame. `vae` is "
        "the truth coded and decoded, the ceiling of every method that ends in this decoder.",
        ("psnr", "ssim", "lpips"),
        ("psnr",),
    ),
    "closed_loop": Protocol(
        "Closed loop",
        "The camera comes back to where it began: that frame against the first one (`_c`). Where the path returns "
        "the way it came, also every frame against its return (`_there_and_back`). A video that never changes scores "
        "well here: read it together with reconstruction.",
        ("psnr_c", "ssim_c", "lpips_c", "psnr_there_and_back", "ssim_there_and_back", "lpips_there_and_back"),
        ("psnr_c", "psnr_there_and_back"),
    ),
    "revisit": Protocol(
        "Revisit memory",
        "How much more alike are two views of one place than two unrelated views the same time apart (`_gain`), and as "
        "a part of what views a moment apart reach (`nmr_`: 1 is perfect memory, 0 none; R2M-Bench). A still video "
        "gains nothing.",
        ("nmr_psnr", "nmr_ssim", "nmr_lpips", "psnr_gain", "ssim_gain", "lpips_gain", "psnr_range"),
        ("psnr_gain",),
    ),
    "camera_control": Protocol(
        "Camera control",
        "Each frame is aligned with the true render, whose depth is known: the motion between the two is the error of "
        "the camera. Medians over frames in which it is `found`; `worldscore`"
        " counts the others as 0; `vae` is the floor.",
        ("rotation", "translation", "relative_translation", "found", "worldscore"),
        ("worldscore",),
    ),
    "objects": Protocol(
        "Moving objects",
        "Background and moving objects apart. `detected`: the object is where it is now, not where it was; `found`: "
        "there or near by, `centroid_error` object sizes away; `look`: its LPIPS; `ghosting`: an earlier appearance is "
        "left where no object is any more. What needs the scene without objects is left out where data do not have it.",
        _OBJECTS,
        ("object_psnr", "background_psnr"),
    ),
    "returns": Protocol(
        "Coming back",
        "All frames but those of the last segment are given with their true depth; the last segment is generated. "
        "Scored on frames of which half or more was seen before and was out of sight for a segment (`_revisit`).",
        ("psnr_revisit", "ssim_revisit", "lpips_revisit", "psnr_returned_cells", "psnr"),
        ("psnr_revisit",),
        "returns",
    ),
    "memory": Protocol(
        "Memory alone",
        "No generator: true frames are written, and read at true later poses. `avoidable_holes` is the share of cells "
        "whose surface was written that show nothing; `feature_error` is in units of the variance of the true latents.",
        ("avoidable_holes", "visible", "feature_error", "decode_psnr", "decode_psnr_visible", "decode_lpips"),
        ("decode_psnr",),
        "memory",
    ),
    "heads": Protocol(
        "Depth and masks on latents",
        "The heads against the truth, on latents of true frames.",
        ("depth_median_relative_error", "actor_iou", "sky_iou"),
        ("depth_median_relative_error",),
        None,
    ),
}

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
    ablations: Mapping[str, str] | None = None,
) -> Summary:
    """Writes everything that a reader needs into `out`.

    Args:
      out: folder of results.
      results: of all clips.
      about: sentences on data, number of clips, model, commit and device.
      commands: that made it.
      efficiency: of `readout_cost.measure`.
      segment: frames of a segment, for plots.
      fps: of the side-by-side videos.
      videos: system -> folder of its videos, where they are not in `out/videos/rollout`.
      ablations: method -> what differs in it from `latent`; they are shown in tables of their own only.
      page: also a Markdown page for a repository, with its pictures and `summary.json` in a folder of the same name.

    Raises:
      UserError: if there are no results.
    """
    if not results:
        raise UserError(f"{out}: no clip has been scored, so there is nothing to report")
    rows = report_tables.rows_of(results)
    summary = report_tables.summarise(rows)
    io.write_json(out / "summary.json", summary)
    io.write_text(out / "clips.csv", report_tables.to_csv(rows))
    films = _Films(out, videos or {}, fps)
    blocks: list[Block] = [Heading("Evaluation", 1), *map(Text, about)]
    blocks += [Text("Every figure is a mean over clips [95 % bootstrap interval] (clips x seeds).")]
    ablated = ablations or {}
    headline = report_tables.without(summary, ablated)
    blocks += _results(out, [report_tables.rows_without(one, ablated) for one in results], headline, segment)
    blocks += _ablations(summary, ablated)
    if efficiency is not None:
        blocks += _cost(out, headline, efficiency)
    blocks += _published(headline)
    shown = [*blocks, *_limits(), *_commands(commands)]
    wrong = _wrong(out, rows, headline, films)
    failures = _failures(out, rows, headline, films)
    blocks += [*films.side_by_side(results, headline), *wrong, *failures, *_limits(), *_commands(commands)]
    blocks.append(Link(out / "clips.csv", "clips.csv: every clip, protocol, method and seed"))
    io.write_text(out / "report.md", markdown(blocks, out))
    io.write_text(out / "report.html", to_html(blocks, out))
    if page is not None:
        _copy(page, out, [*shown, *wrong], failures)
    return summary


def headlines(summary: Summary) -> str:
    """A line for every protocol and method with its first metric."""
    lines = []
    for name, protocol in PROTOCOLS.items():
        for method, row in summary.get(name, {}).items():
            metric = next((m for m in protocol.primary if m in row), None)
            if metric is not None:
                lines.append(f"{name:15} {method:10} {metric} {report_tables.cell(row[metric])}")
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
            blocks += [Table(*report_tables.flatter(summary[key], metrics)), *_paired(summary[key], metrics)]
        if name == "objects":
            for phase, when in _PHASES.items():
                shown = tuple(f"{phase}_{metric}" for metric in metrics)
                if any(metric in row for row in table.values() for metric in shown):
                    blocks += [Heading(f"{when}, all clips", 3), Table(*report_tables.flatter(table, shown))]
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
        Table(*report_tables.flatter(differences, metrics)),
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
        some = {m: row for m, row in table.items() if m in about or m == report_tables.PAIRED_AGAINST}
        if set(some) & set(about):
            blocks += [
                Heading(f"{protocol.title}: ablations", 3),
                Table(*report_tables.flatter(some, protocol.metrics)),
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


class _Films:
    """Where the videos are, and films and sheets made of them."""

    def __init__(self, out: Path, systems: Mapping[str, Path], fps: float):
        self._out, self._systems, self._fps = out, systems, fps

    def read(self, kind: str, clip: str, methods: Sequence[str]) -> dict[str, Any]:
        """method -> frames, of those that have a video of the clip, cut to the shortest."""
        found = {}
        for method in methods:
            folder = self._systems.get(method, self._out / "videos" / kind / method)
            path = folder / f"{suite.clip_id(clip)}.mp4"
            if path.is_file():
                found[method] = viz.read_video(path)
        length = min(map(len, found.values()), default=0)
        return {method: frames[:length] for method, frames in found.items()}

    def write(self, path: Path, shown: Mapping[str, Any]) -> None:
        """One video of several, beside each other."""
        viz.write_video(path, viz.side_by_side(shown), fps=self._fps)

    def side_by_side(self, results, summary: Summary) -> list[Block]:
        """Films of one clip of each class of motion, then of the first clips."""
        picked = {result["motion"]: result["clip"] for result in reversed(results)}
        clips = list(dict.fromkeys([*picked.values(), *(result["clip"] for result in results)]))[:_SHOWN]
        methods = ["truth", *dict.fromkeys(summary.get("reconstruction", {}))]
        blocks: list[Block] = []
        for clip in clips:
            shown = self.read("rollout", clip, methods)
            if len(shown) < 2:
                continue
            path = self._out / "side_by_side" / f"{suite.clip_id(clip)}.mp4"
            self.write(path, shown)
            blocks.append(Link(path, f"{clip}: {', '.join(shown)}"))
        return [Heading("Side by side"), *blocks] if blocks else []


def _judged(table: Mapping[str, Any]) -> str | None:
    """The method whose failures are shown: the latent memory or, where there is none, the first that makes videos."""
    methods = [method for method in table if method not in ("truth", "vae")]
    return report_tables.PAIRED_AGAINST if report_tables.PAIRED_AGAINST in methods else next(iter(methods), None)


def _wrong(out: Path, rows, summary: Summary, films: _Films) -> list[Block]:
    """Films of the clips where moving objects go wrong most, one for each way in which they can."""
    table = summary.get("objects", {})
    method = _judged(table)
    mine = [r for r in rows if (r["protocol"], r["method"]) == ("objects", method) and r["motion"] != "none"]
    blocks: list[Block] = []
    clips: set[str] = set()
    for metric, about in _WRONG.items() if method else ():
        for clip in report_tables.worst(mine, "objects", method, metric, len(mine)):
            shown = {} if clip in clips else films.read("rollout", clip, ["truth", *table])
            if method not in shown or len(shown) < 2:
                continue
            clips.add(clip)
            path = out / "wrong" / f"{metric}-{suite.clip_id(clip)}.mp4"
            films.write(path, shown)
            value = report_tables.by_clip(mine, metric)[clip]
            blocks.append(Link(path, f"{method} {about}: {clip}, {metric} {value:.3f} ({', '.join(shown)})"))
            break
    about = "Films of the clips with moving objects that are the worst, each in another way; no clip is shown twice."
    return [Heading("What goes wrong with moving objects"), Text(about), *blocks] if blocks else []


def _failures(out: Path, rows, summary: Summary, films: _Films) -> list[Block]:
    """The worst clips of every protocol, of the latent memory or, where there is none, of the first method."""
    blocks: list[Block] = [Heading("Failures"), Text(f"The worst {_WORST} clips of each protocol, worst first.")]
    for name, protocol in PROTOCOLS.items():
        table = summary.get(name, {})
        method = _judged(table)
        if method is None or protocol.videos is None:
            continue
        metric = next((m for m in protocol.primary if m in table[method]), next(iter(table[method]), None))
        if metric is None:
            continue
        blocks.append(Heading(f"{protocol.title}: {method} by {metric}", 3))
        for rank, clip in enumerate(report_tables.worst(rows, name, method, metric, _WORST)):
            others = [m for m in ("rgb", "none") if m in table and m != method]
            shown = films.read(protocol.videos, clip, ["truth", method, *others[:1]])
            if not shown:
                continue
            path = out / "failures" / name / f"{rank:02d}-{suite.clip_id(clip)}.png"
            viz.contact_sheet(path, shown, cell_width=128)
            mine = report_tables.by_clip([r for r in rows if r["protocol"] == name and r["method"] == method], metric)
            blocks.append(Picture(path, f"{rank + 1}. {clip}: {metric} {mine[clip]:.3f}", photo=True))
    return blocks


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

"""The report of a folder of results (`runner`): numbers, plots, videos, failures, `report.md` and `report.html`.

What it says stands in the templates beside this file (`report.jinja`; `markdown.jinja` and `html.jinja` say how a
heading or a table is written) and in `protocols.toml`.
"""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.evaluation import summary as tables
from experiments.evaluation.summary import Summary
from experiments.report import films, page, plots
from mirage_jax import io
from mirage_jax.errors import UserError

_DATA = {
    name: tomllib.loads(Path(__file__).with_name(f"{name}.toml").read_text("utf-8"))
    for name in ("protocols", "published")
}

PROTOCOLS: dict[str, dict[str, Any]] = _DATA["protocols"]
"""protocol -> how it is shown, in order."""

PUBLISHED: dict[str, Any] = _DATA["published"]
"""Figures of the paper: `source`, `quality` (`columns`, `systems`), `cost` (figure -> system -> by segment)."""

PHASES = {
    "visible": "Until an object leaves the view",
    "disappeared": "While it is away",
    "reappeared": "From its return on",
}


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
    repository_page: Path | None = None,
    page_failures: bool = True,
    ablations: Mapping[str, str] | None = None,
) -> Summary:
    """Writes everything that a reader needs into `out`.

    Args:
      out: folder of results.
      results: of all clips.
      about: sentences on data, number of clips, model, commit and device.
      commands: that made it.
      efficiency: what readouts cost, by `experiments.bench.readout_cost`.
      segment: frames of a segment, for plots.
      fps: of the side-by-side videos.
      videos: system -> folder of its videos, where they are not in `out/videos/rollout`.
      repository_page: also a Markdown page for a repository, with its pictures and `summary.json` in a folder of the
        same name.
      page_failures: whether that page shows what goes wrong: films, and the worst clip of each protocol.
      ablations: method -> what differs in it from `latent`; they are shown in tables of their own only.

    Raises:
      UserError: if there are no results.
    """
    if not results:
        raise UserError(f"{out}: no clip has been scored, so there is nothing to report")
    rows, ablated = tables.rows_of(results), dict(ablations or {})
    summary = tables.summarise(rows)
    io.write_json(out / "summary.json", summary)
    io.write_text(out / "clips.csv", tables.to_csv(rows))
    headline = tables.without(summary, ablated)
    theirs = [{**one, "rows": [row for row in one["rows"] if row["method"] not in ablated]} for one in results]
    figures = {
        name: plots.of_protocol(
            out / "figures", name, protocol["title"], theirs, headline, _classes(headline, name), segment
        )
        for name, protocol in PROTOCOLS.items()
        if name in headline
    }
    cost = None
    if efficiency is not None:
        figures["cost"] = plots.of_cost(out / "figures", headline, efficiency["methods"])
        cost = {**efficiency, "table": _cost(efficiency["methods"])}
    film = films.Films(out, videos or {}, fps)
    content = {
        "about": about,
        "commands": commands,
        "protocols": PROTOCOLS,
        "phases": PHASES,
        "phase_metrics": lambda phase: [f"{phase}_{metric}" for metric in PROTOCOLS["objects"]["metrics"]],
        "classes": lambda name: _classes(headline, name),
        "summary": headline,
        "figures": figures,
        "ablated": ablated,
        "with_ablations": {name: _with_ablations(summary.get(name, {}), ablated) for name in PROTOCOLS},
        "cost": cost,
        "published": {"source": PUBLISHED["source"], "quality": _quality(headline), "cost": published_cost()},
        "side_by_side": film.side_by_side(results, headline),
        "wrong": film.wrong(rows, headline),
        "failures": film.failures(rows, headline, PROTOCOLS),
        "csv": page.Shown(out / "clips.csv", "clips.csv: every clip, protocol, method and seed"),
    }
    io.write_text(out / "report.md", page.render("report", "markdown", out, content))
    io.write_text(out / "report.html", page.render("report", "html", out, content))
    if repository_page is not None:
        content |= {"side_by_side": [], "csv": None}
        if page_failures:
            content["failures"] = {title: sheets[:1] for title, sheets in content["failures"].items() if sheets}
        else:
            content |= {"wrong": [], "failures": {}}
        _write_page(repository_page, out, content)
    return summary


def write_one(out: Path, protocol: str, rows: Sequence[Mapping[str, Any]], *, split: str, data: str) -> str:
    """Writes CSV, JSON and Markdown of rows that are all of one protocol; the text of the page.

    Args:
      out: folder for `PROTOCOL.csv` and so on.
      protocol: its name.
      rows: `clip`, `seed`, `method` and metrics.
      split, data: of the clips.
    """
    table = tables.of_one_protocol(rows)
    io.write_text(out / f"{protocol}.csv", tables.to_csv(rows))
    io.write_json(out / f"{protocol}.json", {"protocol": protocol, "split": split, "methods": table})
    clips, seeds = (len({row[name] for row in rows}) for name in ("clip", "seed"))
    about = (
        f"{clips} clips, {seeds} seed(s), split {split} of {data}; mean [95 % bootstrap interval over clips] (clips)."
    )
    metrics = list(dict.fromkeys(name for row in table.values() for name in row))
    content = {"title": protocol, "about": about, "table": table, "metrics": metrics}
    text = page.render("protocol", "markdown", out, content)
    io.write_text(out / f"{protocol}.md", text)
    return text


def headlines(summary: Summary) -> str:
    """A line for every protocol and method with its first metric."""
    lines = []
    for name, protocol in PROTOCOLS.items():
        for method, row in summary.get(name, {}).items():
            metric = next((m for m in protocol["primary"] if m in row), None)
            if metric is not None:
                lines.append(f"{name:15} {method:10} {metric} {tables.cell(row[metric])}")
    return "\n".join(lines)


def _classes(summary: Summary, name: str) -> list[str]:
    """The classes of motion that a protocol is shown by; itself where it has none."""
    return [key for key in summary if key.startswith(f"{name}[")] or [name]


def _with_ablations(table: Mapping[str, Any], ablated: Mapping[str, str]) -> dict[str, Any]:
    """The rows of the ablations, and of the method that they vary; nothing where there are none."""
    some = {m: row for m, row in table.items() if m in ablated or m == tables.PAIRED_AGAINST}
    return some if set(some) & set(ablated) else {}


def _cost(methods: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[list[str], list[list[str]]]:
    lines = []
    for method, rows in methods.items():
        lines.append([f"{method}: readout, ms per frame", *(f"{1e3 * row['seconds_per_frame']:.2f}" for row in rows)])
        lines.append([f"{method}: cache, MiB", *(f"{row['bytes'] / 2**20:.3f}" for row in rows)])
    return ["segment", *(str(1 + number) for number in range(len(lines[0]) - 1))], lines


def _quality(summary: Summary) -> tuple[list[str], list[list[str]]]:
    """Our methods, then the published systems, in the columns of the latter."""
    columns, systems = PUBLISHED["quality"]["columns"], PUBLISHED["quality"]["systems"]
    ours = {**summary.get("reconstruction", {}), **summary.get("closed_loop", {})}
    lines = []
    for method in ours:
        found = {**summary.get("reconstruction", {}).get(method, {}), **summary.get("closed_loop", {}).get(method, {})}
        cells = (f"{found[name]['mean']:.3f}" if name in found else "-" for name in columns)
        lines.append([f"{method} (here)", *cells])
    for system, values in systems.items():
        lines.append([f"{system}, RealEstate10K", *(f"{value:.3f}" for value in values)])
    return ["", *columns], lines


def published_cost() -> tuple[list[str], list[list[str]]]:
    """Header and lines of what readouts cost the published systems."""
    costs = PUBLISHED["cost"]
    lines = [[f"{system}: {what}", *(f"{v:g}" for v in row)] for what, t in costs.items() for system, row in t.items()]
    return ["published, by segment", "1", "2", "3", "4", "5"], lines


def _write_page(target: Path, out: Path, content: dict[str, Any]) -> None:
    """The page for a repository, with the files that it shows beside it."""
    folder = target.parent / target.stem
    for old in [*folder.glob("failures-*.png"), *folder.glob("wrong-*.mp4")]:
        old.unlink()  # of clips that were the worst once

    def beside(path: Path) -> Path:
        parts = path.relative_to(out).parts
        return _copy(path, folder / "-".join(parts[1:] if parts[0] == "figures" else parts))

    io.write_text(target, page.render("report", "markdown", target.parent, content, beside))
    _copy(out / "summary.json", folder / "summary.json")


def _copy(source: Path, target: Path) -> Path:
    with io.atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)
    return target

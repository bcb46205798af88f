"""The videos of a report: methods side by side, what goes wrong with moving objects, the worst clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mirage_jax import viz
from mirage_jax.evaluation import runner
from mirage_jax.evaluation.report import summary as tables
from mirage_jax.evaluation.report.about import PROTOCOLS
from mirage_jax.evaluation.report.page import Block, Heading, Link, Picture, Text
from mirage_jax.evaluation.report.summary import Summary

_SHOWN = 5  # side-by-side videos
_WORST = 10
_WRONG = {
    "ghosting": "leaves an earlier appearance of an object behind where none is any more",
    "reappeared_found": "has lost the object when it is back in view",
    "centroid_error": "has the object in the wrong place",
    "object_psnr": "gets the look of the object wrong",
    "background_psnr": "gets the background wrong",
}
"""What can go wrong with moving objects: the metric that says where it is worst, and what is seen there."""


class Films:
    """Where the videos are, and films and sheets made of them."""

    def __init__(self, out: Path, systems: Mapping[str, Path], fps: float):
        self._out, self._systems, self._fps = out, systems, fps

    def read(self, kind: str, clip: str, methods: Sequence[str]) -> dict[str, Any]:
        """method -> frames, of those that have a video of the clip, cut to the shortest."""
        found = {}
        for method in methods:
            folder = self._systems.get(method, self._out / "videos" / kind / method)
            path = folder / f"{runner.clip_id(clip)}.mp4"
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
            path = self._out / "side_by_side" / f"{runner.clip_id(clip)}.mp4"
            self.write(path, shown)
            blocks.append(Link(path, f"{clip}: {', '.join(shown)}"))
        return [Heading("Side by side"), *blocks] if blocks else []


def _judged(table: Mapping[str, Any]) -> str | None:
    """The method whose failures are shown: the latent memory or, where there is none, the first that makes videos."""
    methods = [method for method in table if method not in ("truth", "vae")]
    return tables.PAIRED_AGAINST if tables.PAIRED_AGAINST in methods else next(iter(methods), None)


def wrong(out: Path, rows, summary: Summary, films: Films) -> list[Block]:
    """Films of the clips where moving objects go wrong most, one for each way in which they can."""
    table = summary.get("objects", {})
    method = _judged(table)
    mine = [r for r in rows if (r["protocol"], r["method"]) == ("objects", method) and r["motion"] != "none"]
    blocks: list[Block] = []
    clips: set[str] = set()
    for metric, about in _WRONG.items() if method else ():
        for clip in tables.worst(mine, "objects", method, metric, len(mine)):
            shown = {} if clip in clips else films.read("rollout", clip, ["truth", *table])
            if method not in shown or len(shown) < 2:
                continue
            clips.add(clip)
            path = out / "wrong" / f"{metric}-{runner.clip_id(clip)}.mp4"
            films.write(path, shown)
            value = tables.by_clip(mine, metric)[clip]
            blocks.append(Link(path, f"{method} {about}: {clip}, {metric} {value:.3f} ({', '.join(shown)})"))
            break
    about = "Films of the clips with moving objects that are the worst, each in another way; no clip is shown twice."
    return [Heading("What goes wrong with moving objects"), Text(about), *blocks] if blocks else []


def failures(out: Path, rows, summary: Summary, films: Films) -> list[Block]:
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
        for rank, clip in enumerate(tables.worst(rows, name, method, metric, _WORST)):
            others = [m for m in ("rgb", "none") if m in table and m != method]
            shown = films.read(protocol.videos, clip, ["truth", method, *others[:1]])
            if not shown:
                continue
            path = out / "failures" / name / f"{rank:02d}-{runner.clip_id(clip)}.png"
            viz.contact_sheet(path, shown, cell_width=128)
            mine = tables.by_clip([r for r in rows if r["protocol"] == name and r["method"] == method], metric)
            blocks.append(Picture(path, f"{rank + 1}. {clip}: {metric} {mine[clip]:.3f}", photo=True))
    return blocks

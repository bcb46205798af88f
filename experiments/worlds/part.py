"""Renders one part of a data set, with a report of what became of its clips."""

from __future__ import annotations

import collections
import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from experiments.worlds import batch, verify
from experiments.worlds.batch import Rendered, World
from experiments.worlds.builder import write_part
from mirage_jax.data.clip import PosedClip
from mirage_jax.errors import UserError

_UNUSABLE_SHARE = 0.1  # a build that loses more of its clips than this fails
_LEAST = {"clips": 1, "workers": 1, "size": 16, "seed": 0}


def build(
    world: World,
    out: str | pathlib.Path,
    split: str,
    *,
    clips: int,
    seed: int,
    frames: int = 65,
    size: int = 128,
    workers: int = 1,
    progress: Callable[[Rendered], None] = lambda rendered: None,
    **settings: Any,
) -> pathlib.Path:
    """Renders one part of one split.

    Args:
      world: what renders.
      out: folder of the data set.
      split: name of the split.
      clips: how many.
      seed: decides everything random, and numbers the part.
      frames: of a clip, 4k + 1.
      size: side of the square frames, pixels.
      workers: processes that render.
      progress: gets the outcome of every clip.
      settings: those of `world.settings` that are not as usual.

    Returns:
      The folder of the part.

    Raises:
      UserError: if a value is not usable, the part exists, too many clips failed, or the renderer does not run here.
    """
    sizes = {"split": split, "clips": clips, "frames": frames, "size": size, "seed": seed}
    settings = {**world.settings, **settings}
    config = sizes | settings | {"workers": workers}
    _check_sizes(config)
    jobs = world.jobs(split, clips, seed=seed, frames=frames, size=size, **settings)
    outcomes: list[Rendered] = []

    def rejected() -> collections.Counter[str]:
        return sum((collections.Counter(outcome.rejected) for outcome in outcomes), collections.Counter())

    def rendered(_scratch: pathlib.Path) -> Iterator[tuple[str, PosedClip]]:
        for one in batch.render_all(jobs, workers=workers):
            # Without its megabytes of pixels: enough for the report.
            outcomes.append(dataclasses.replace(one, clip=None if one.clip is None else one.clip[:0]))
            progress(one)
            if one.clip is not None:
                yield f"{one.job.index:06d}", one.clip
        failed = sum(outcome.clip is None for outcome in outcomes)
        if failed > _UNUSABLE_SHARE * clips:
            reasons = ", ".join(f"{number} x {reason}" for reason, number in rejected().most_common())
            raise UserError(f"{failed} of {clips} clips failed every try: {reasons}")

    def report(seconds: float) -> dict[str, Any]:
        good = [outcome for outcome in outcomes if outcome.clip is not None]
        tries = len(good) + rejected().total()
        found = {"written": len(good), "failed": len(outcomes) - len(good), "tries": tries}
        return {
            "config": config,
            "clips": found | world.counts(good),
            "rejected": dict(rejected().most_common()),
            "rejected_share": round(rejected().total() / max(tries, 1), 4),
            "residual_percentiles": verify.percentiles([outcome.residuals for outcome in good]),
            "bounds": dataclasses.asdict(verify.Bounds()),
            "seconds": round(seconds, 1),
            "licence": world.licence,
        }

    shape = (frames, size, size)
    return write_part(
        out, split, seed, world.name, shape, rendered, report, world.licence, world.description, world.objects
    )


def _check_sizes(config: Mapping[str, Any]) -> None:
    frames = config["frames"]
    if frames < 9 or frames % 4 != 1:
        raise UserError(f"--frames is {frames}, expected 4k + 1 and at least 9 (for example 65)")
    if any(config[name] < value for name, value in _LEAST.items()):
        raise UserError(", ".join(f"--{name} {config[name]}" for name in _LEAST) + ": too small")

"""One part of a data set of rooms."""

from __future__ import annotations

import collections
import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mirage_jax.data import builder, verify
from mirage_jax.data.clip import PosedClip
from mirage_jax.data.miniworld import batch
from mirage_jax.data.miniworld.scenes import KINDS, MOTION, MOVERS
from mirage_jax.errors import UserError

LICENCE = "Frames are rendered with MiniWorld (Apache-2.0), with the textures and meshes of that package."
DESCRIPTION = "Posed video of random rooms with moving objects and exact depth."
_UNUSABLE_SHARE = 0.1  # a build that loses more of its clips than this fails


def build_miniworld(
    out: str | pathlib.Path,
    split: str,
    *,
    clips: int,
    seed: int,
    frames: int = 65,
    size: int = 128,
    kinds: Sequence[str] = KINDS,
    motions: Sequence[str] = tuple(MOTION),
    workers: int = 1,
    progress: Callable[[batch.Rendered], None] = lambda rendered: None,
) -> pathlib.Path:
    """Renders one part of one split of random rooms.

    Returns:
      The folder of the part.

    Raises:
      UserError: if the sizes are not usable, the part exists, too many clips failed, or OpenGL is missing.
    """
    if frames < 9 or frames % 4 != 1:
        raise UserError(f"--frames is {frames}, expected 4k + 1 and at least 9 (for example 65)")
    if clips < 1 or workers < 1 or size < 16 or seed < 0:
        raise UserError(f"--clips {clips}, --workers {workers}, --size {size}, --seed {seed}: too small")
    jobs = batch.jobs(split, clips, seed=seed, frames=frames, size=size, kinds=kinds, motions=motions)
    outcomes: list[batch.Rendered] = []

    def rendered_clips(_scratch: pathlib.Path) -> Iterator[tuple[str, PosedClip]]:
        for rendered in batch.render_all(jobs, workers=workers):
            outcomes.append(dataclasses.replace(rendered, clip=rendered.clip and rendered.clip[:0]))
            progress(rendered)
            if rendered.clip is not None:
                yield f"{rendered.job.index:06d}", rendered.clip
        failed = sum(outcome.clip is None for outcome in outcomes)
        if failed > _UNUSABLE_SHARE * clips:
            counted = sum((collections.Counter(o.rejected) for o in outcomes), collections.Counter())
            reasons = ", ".join(f"{count} x {reason}" for reason, count in counted.most_common())
            raise UserError(f"{failed} of {clips} clips failed every try: {reasons}")

    config = {"split": split, "clips": clips, "frames": frames, "size": size, "seed": seed}
    config |= {"kinds": list(kinds), "motions": list(motions), "workers": workers}
    return builder.write_part(
        out,
        split,
        seed,
        "miniworld",
        (frames, size, size),
        rendered_clips,
        lambda seconds: _report(config, outcomes, seconds),
        LICENCE,
        DESCRIPTION,
        objects=MOVERS,
    )


def _report(config: dict[str, Any], outcomes: list[batch.Rendered], seconds: float) -> dict[str, Any]:
    """What a build did, as JSON."""
    good = [o for o in outcomes if o.clip is not None]
    rejected = sum((collections.Counter(o.rejected) for o in outcomes), collections.Counter())
    tries = len(good) + rejected.total()
    return {
        "config": config,
        "clips": {
            "written": len(good),
            "failed": len(outcomes) - len(good),
            "tries": tries,
            "by_kind": dict(sorted(collections.Counter(o.clip.source.split("/")[-1] for o in good).items())),
            "by_motion": dict(sorted(collections.Counter(o.job.motion for o in good).items())),
        },
        "rejected": dict(rejected.most_common()),
        "rejected_share": round(rejected.total() / max(tries, 1), 4),
        "residual_percentiles": builder.percentiles([o.residuals for o in good]),
        "bounds": dataclasses.asdict(verify.Bounds()),
        "seconds": round(seconds, 1),
        "licence": LICENCE,
    }

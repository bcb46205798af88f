"""One part of a data set of rooms."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence

from experiments.worlds import part
from experiments.worlds.miniworld import batch
from experiments.worlds.miniworld.scenes import KINDS, MOTION, MOVERS
from experiments.worlds.rendering import Rendered

LICENCE = "Frames are rendered with MiniWorld (Apache-2.0), with the textures and meshes of that package."


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
    progress: Callable[[Rendered], None] = lambda rendered: None,
) -> pathlib.Path:
    """Renders one part of one split of random rooms.

    Returns:
      The folder of the part.

    Raises:
      UserError: if the sizes are not usable, the part exists, too many clips failed, or OpenGL is missing.
    """
    config = {"split": split, "clips": clips, "frames": frames, "size": size, "seed": seed}
    config |= {"kinds": list(kinds), "motions": list(motions), "workers": workers}
    part.check_sizes(config)
    jobs = batch.jobs(split, clips, seed=seed, frames=frames, size=size, kinds=kinds, motions=motions)
    return part.render_part(
        out,
        "miniworld",
        config,
        batch.render_all(jobs, workers=workers),
        progress=progress,
        counts=lambda good: {
            "by_kind": part.count(outcome.clip.source.split("/")[-1] for outcome in good if outcome.clip is not None),
            "by_motion": part.count(outcome.job.motion for outcome in good),
        },
        licence=LICENCE,
        description="Posed video of random rooms with moving objects and exact depth.",
        objects=MOVERS,
    )

"""One part of a data set of Doom's maps."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence

from experiments.worlds import part
from experiments.worlds.doom import batch, engine, paths
from experiments.worlds.rendering import Rendered

LICENCE = (
    "Frames are rendered from Freedoom (https://freedoom.github.io), copyright the Freedoom contributors, under the "
    "3-clause BSD licence; the engine is ViZDoom (MIT)."
)


def build_doom(
    out: str | pathlib.Path,
    split: str,
    *,
    clips: int,
    seed: int,
    frames: int = 65,
    size: int = 128,
    kinds: Sequence[str] = paths.KINDS,
    game: str = "freedoom",
    restyled: bool = False,
    stretched: bool = False,
    workers: int = 1,
    progress: Callable[[Rendered], None] = lambda rendered: None,
) -> pathlib.Path:
    """Renders one part of one split of Freedoom's maps, or of FreeDM's (`game="freedm"`).

    With `restyled` they have other textures and light (`restyle.py`), with `stretched` other proportions
    (`stretch.py`): those that `seed` numbers.

    Returns:
      The folder of the part.

    Raises:
      UserError: if the sizes are not usable, the game is not there, the part exists, or too many clips failed.
    """
    config = {"split": split, "clips": clips, "frames": frames, "size": size, "seed": seed}
    config |= {"kinds": list(kinds), "game": game, "restyled": restyled, "stretched": stretched, "workers": workers}
    part.check_sizes(config)
    jobs = batch.jobs(
        split,
        clips,
        seed=seed,
        frames=frames,
        size=size,
        kinds=kinds,
        game=game,
        restyled=restyled,
        stretched=stretched,
    )
    engine.iwad(jobs[0].map_name)  # says now, not in a worker, if the game is not installed
    return part.render_part(
        out,
        "doom",
        config,
        batch.render_all(jobs, workers=workers),
        progress=progress,
        counts=lambda good: {
            "by_kind": part.count(outcome.job.kind for outcome in good),
            "by_map": part.count(outcome.clip.source.split("/")[1] for outcome in good if outcome.clip is not None),
            "with_monsters": sum(outcome.job.moving for outcome in good),
        },
        licence=LICENCE,
        description="Posed video of Freedoom maps with exact depth.",
    )

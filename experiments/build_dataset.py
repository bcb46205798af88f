"""Builds a data set: rendered clips, clips of one's own posed video, or clips of either coded by a trained VAE.

    python -m experiments.build_dataset --dataset doom --out data/doom --split train --clips 450
    python -m experiments.build_dataset --dataset miniworld --out data/miniworld --split train --clips 450
    python -m experiments.build_dataset --dataset evaluation --out data/evaluation
    python -m experiments.build_dataset --dataset posed --source my_scenes --out data/mine --split train --stride 2
    python -m experiments.build_dataset --dataset latents --source data/doom --checkpoint runs/vae/model \\
        --out data/latents --split train --mirrored

Each call for `doom`, `miniworld` or `posed` adds one part, named by its seed, to a split; parts are read together.
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys
import time
from collections.abc import Iterator

import tqdm
from absl import flags

from experiments.recipes import coding
from experiments.shared import cli
from experiments.worlds import heldout_set, part, paths, posed_folder, verify
from experiments.worlds.doom import jobs as doom
from experiments.worlds.doom import splits
from experiments.worlds.miniworld import jobs as rooms
from experiments.worlds.miniworld import scenes
from mirage_jax.errors import UserError

_DATASET = flags.DEFINE_enum(
    "dataset", "doom", ["doom", "miniworld", "posed", "latents", "evaluation"], "Which data set to build."
)
_OUT = flags.DEFINE_string("out", None, "Folder of the data set; splits and parts are made below it.", required=True)
_SPLIT = flags.DEFINE_string(
    "split", "train", "train, validation or test (not for posed): splits differ in their scenes."
)
_GAME = flags.DEFINE_enum(
    "game",
    "freedoom",
    list(splits.GAMES),
    "For doom: whose maps; freedm, Debian's package of that name, has a training split only.",
)
_RESTYLED = flags.DEFINE_bool(
    "restyled", False, "For doom: walls, floors and ceilings in other textures and light, which --seed decides."
)
_STRETCHED = flags.DEFINE_bool(
    "stretched", False, "For doom: rooms longer or shorter, and higher or lower, by factors that --seed decides."
)
_CLIPS = flags.DEFINE_integer("clips", 100, "For doom and miniworld: how many clips to render in this part.")
_FRAMES = flags.DEFINE_integer("frames", 65, "Frames of a clip, 4k + 1.")
_SIZE = flags.DEFINE_integer("size", 128, "Side of square frames in pixels.")
_HEIGHT = flags.DEFINE_integer("height", None, "For posed: rows of a frame; default: --size.")
_WIDTH = flags.DEFINE_integer("width", None, "For posed: columns of a frame; default: --size.")
_SEED = flags.DEFINE_integer("seed", 0, "For doom and miniworld, decides everything random; it numbers the part.")
_KINDS = flags.DEFINE_list(
    "kinds",
    None,
    f"For doom and miniworld: kinds of camera path, spread evenly; default: {','.join(paths.KINDS)} for doom, "
    f"{','.join(scenes.KINDS)} for miniworld (doom has {','.join(paths.RETURNING)} too).",
)
_MOTIONS = flags.DEFINE_list(
    "motions", list(scenes.MOTION), "For miniworld: classes of motion by percent of moving pixels, spread evenly."
)
_WORKERS = flags.DEFINE_integer(
    "workers", 2, "For doom, miniworld and evaluation: processes that render; the result is the same."
)
_FREEZE = flags.DEFINE_bool(
    "freeze",
    False,
    "For evaluation: first choose the clips anew and write them to experiments/worlds/evaluation_set.json.",
)

_SOURCE = flags.DEFINE_string(
    "source", None, "For posed: folder of scenes. For latents: data set of clips to code; default: data/doom."
)
_STRIDE = flags.DEFINE_integer("stride", 1, "For posed: from one frame of a clip to the next, in frames of the scene.")
_BAD_SCENES = flags.DEFINE_integer("bad_scenes", 10, "For posed: so many that cannot be used are skipped and named.")
_VALIDATION_SHARE = flags.DEFINE_float("validation_share", 0.05, "For posed: share of the scenes, by hash of the name.")
_BOUNDS = flags.DEFINE_list(
    "bounds",
    [f"{name}={value:g}" for name, value in dataclasses.asdict(posed_folder.BOUNDS).items()],
    "For posed, where there is depth: largest residuals of a clip, and the least overlap of frames that are compared.",
)
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "For latents: model folder with the VAE; default: the shipped one."
)
_MIRRORED = flags.DEFINE_bool("mirrored", False, "For latents: also code every clip left-right mirrored.")
_PIXELS = flags.DEFINE_bool("pixels", False, "For latents: also keep frames, to train with an RGB memory.")
_SHARDS = flags.DEFINE_integer("shards", 1, "For latents: parts of the data set, which are coded one by one.")
_SHARD = flags.DEFINE_integer("shard", None, "For latents: code this shard only (0 to shards - 1); default: all.")


def main(_) -> None:
    """Builds one part or split and prints where it is."""
    cli.prepare_output(_OUT.value)
    if _DATASET.value == "latents":
        for folder in _code():
            print(f"wrote {folder}")
    elif _DATASET.value == "evaluation":
        found = _held_out()
        print(f"wrote {_OUT.value}: {found.exact} clips to the bit as recorded, {found.close} within tolerances")
    else:
        print(f"wrote {_cut() if _DATASET.value == 'posed' else _render()}")


def _cut() -> pathlib.Path:
    """Cuts one part from the scenes in `--source`."""
    if _SOURCE.value is None:
        raise UserError("--source: --dataset posed needs the folder that holds the scenes")
    return posed_folder.build_posed(
        _SOURCE.value,
        _OUT.value,
        _SPLIT.value,
        frames=_FRAMES.value,
        height=_SIZE.value if _HEIGHT.value is None else _HEIGHT.value,
        width=_SIZE.value if _WIDTH.value is None else _WIDTH.value,
        stride=_STRIDE.value,
        part=_SEED.value,
        bad_scenes=_BAD_SCENES.value,
        validation_share=_VALIDATION_SHARE.value,
        bounds=_bounds(),
        progress=lambda scenes: tqdm.tqdm(scenes, "scenes", unit="scene", mininterval=5, dynamic_ncols=True),
    )


def _bounds() -> verify.Bounds:
    """The values of `--bounds` in place of the usual ones."""
    known = dataclasses.asdict(posed_folder.BOUNDS)
    for word in _BOUNDS.value:
        name, _, value = word.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if name not in known or not number >= 0:
            raise UserError(f"--bounds: found {word!r}, expected NAME=NUMBER with a name of {', '.join(known)}")
        known[name] = number
    return verify.Bounds(**known)


def _code() -> Iterator[pathlib.Path]:
    """Codes a split of `--source` with the VAE of `--checkpoint`, shard by shard; those that are there stay."""
    return coding.code(
        _CHECKPOINT.value,
        _SOURCE.value or "data/doom",
        _OUT.value,
        _SPLIT.value,
        mirrored=_MIRRORED.value,
        pixels=_PIXELS.value,
        count=_SHARDS.value,
        only=_SHARD.value,
    )


def _render() -> pathlib.Path:
    """Renders one part."""
    begin, done = time.time(), 0

    def progress(rendered) -> None:
        nonlocal done
        done += 1
        rate = done / (time.time() - begin)
        outcome = "failed" if rendered.clip is None else rendered.clip.source
        print(
            f"{done}/{_CLIPS.value} {outcome}, {(_CLIPS.value - done) / rate:.0f} s left", file=sys.stderr, flush=True
        )

    if _DATASET.value == "miniworld":
        world, settings = rooms.WORLD, {"motions": _MOTIONS.value}
    else:
        changes = {"restyled": _RESTYLED.value, "stretched": _STRETCHED.value}
        world, settings = doom.WORLD, {"game": _GAME.value, **changes}
    return part.build(
        world,
        _OUT.value,
        _SPLIT.value,
        clips=_CLIPS.value,
        seed=_SEED.value,
        frames=_FRAMES.value,
        size=_SIZE.value,
        workers=_WORKERS.value,
        progress=progress,
        **settings | ({} if _KINDS.value is None else {"kinds": _KINDS.value}),
    )


def _held_out() -> heldout_set.Agreement:
    """Renders and checks the held-out set."""
    if _WORKERS.value < 1:
        raise UserError(f"--workers {_WORKERS.value}: expected at least 1")
    if _FREEZE.value:
        total = sum(plan.doom + sum(plan.rooms.values()) for plan in heldout_set.PLANS.values())
        with tqdm.tqdm(total=total, desc="choosing", unit="clip", mininterval=5) as bar:
            heldout_set.choose(heldout_set.LISTING, workers=_WORKERS.value, progress=lambda name: bar.update())
    listing = heldout_set.load_listing()
    with tqdm.tqdm(total=len(heldout_set.items(listing)), desc="rendering", unit="clip", mininterval=5) as bar:
        return heldout_set.build(_OUT.value, listing, workers=_WORKERS.value, progress=lambda name: bar.update())


if __name__ == "__main__":
    cli.run(main)

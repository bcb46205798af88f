"""What a recipe is made of: steps that can be done, each once, below one folder.

    OUT/data/NAME      clips that `Render` made      OUT/runs/NAME     runs of `Train`, each with its model/
    OUT/latents/NAME   clips that `Code` coded       OUT/NAME          files that `Export` wrote

A step that was done is passed over; one that was stopped goes on where it was.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from experiments.recipes import coding, shipping
from experiments.shared import cli
from experiments.worlds import part
from experiments.worlds.doom import jobs as doom
from mirage_jax.training import loop, stages

SPLIT = "train"


class Step(Protocol):
    """One thing that is done once."""

    @property
    def name(self) -> str:
        """For messages."""
        ...

    def done(self, out: pathlib.Path) -> bool:
        """Whether it is."""
        ...

    def run(self, out: pathlib.Path) -> None:
        """Does it."""
        ...


@dataclasses.dataclass(frozen=True)
class Render:
    """Clips of Doom's training maps.

    Attributes:
      name: of the data set, which may have several parts.
      seed: decides everything random, and numbers the part.
      clips: how many.
      frames: of a clip, 4k + 1.
      size: pixels of a side.
      game: of `splits.GAMES`.
      restyled, stretched: maps in other textures and light; of other proportions.
    """

    name: str
    seed: int
    clips: int
    frames: int
    size: int = 128
    game: str = "freedoom"
    restyled: bool = False
    stretched: bool = False

    def done(self, out: pathlib.Path) -> bool:
        """Whether the part is there."""
        return (out / "data" / self.name / SPLIT / f"part-{self.seed:04d}").exists()

    def run(self, out: pathlib.Path) -> None:
        """Renders the part."""
        count = 0

        def progress(rendered: Any) -> None:
            nonlocal count
            count += 1
            outcome = "failed" if rendered.clip is None else rendered.clip.source
            print(f"{self.name} {count}/{self.clips} {outcome}", file=sys.stderr, flush=True)

        part.build(
            doom.WORLD,
            out / "data" / self.name,
            SPLIT,
            clips=self.clips,
            seed=self.seed,
            frames=self.frames,
            size=self.size,
            workers=2,
            progress=progress,
            game=self.game,
            restyled=self.restyled,
            stretched=self.stretched,
        )


@dataclasses.dataclass(frozen=True)
class Code:
    """A data set coded by the VAE of a run, with every clip mirrored too.

    Attributes:
      name: of the data set, before and after.
      model: name of the run.
      pixels: whether the frames are kept beside their latents, for an RGB memory and for terms that look at pictures.
    """

    name: str
    model: str
    pixels: bool = True

    def done(self, out: pathlib.Path) -> bool:
        """Whether it is there."""
        return any((out / "latents" / self.name / SPLIT).glob("part-*-of-*"))

    def run(self, out: pathlib.Path) -> None:
        """Codes it."""
        model, target = _model(out, self.model), out / "latents" / self.name
        for _ in coding.code(model, out / "data" / self.name, target, SPLIT, mirrored=True, pixels=self.pixels):
            pass


@dataclasses.dataclass(frozen=True)
class Train:
    """A run of `experiments.train`.

    Attributes:
      name: of the run.
      config: makes its numbers (`get_config` of a file in `experiments/configs`).
      data: names of the data sets.
      start: the run whose model it goes on from; "" for nothing.
      changes: of fields of the config, `augmentation.drop_reference` for one inside another.
    """

    name: str
    config: Callable[[], Any]
    data: tuple[str, ...]
    start: str = ""
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def done(self, out: pathlib.Path) -> bool:
        """Whether there is a model."""
        return _model(out, self.name).exists()

    def run(self, out: pathlib.Path) -> None:
        """Trains, from the last checkpoint if there is one."""
        config = self.config()
        kind = "data" if config.stage == "vae" else "latents"
        config.data = ",".join(str(out / kind / name) for name in self.data)
        config.init_from = str(_model(out, self.start)) if self.start else ""
        for field, value in self.changes.items():
            *inside, last = field.split(".")
            functools.reduce(lambda node, key: node[key], inside, config)[last] = value
        workdir = cli.prepare_output(out / "runs" / self.name)
        cli.write_run_config(workdir, config)
        loop.check(config)
        loop.train(stages.make(config), config, workdir)


@dataclasses.dataclass(frozen=True)
class Export:
    """The model of a run as one file, in half precision.

    Attributes:
      name: of the file.
      model: name of the run.
    """

    name: str
    model: str

    def done(self, out: pathlib.Path) -> bool:
        """Whether the file is there."""
        return (out / self.name).exists()

    def run(self, out: pathlib.Path) -> None:
        """Writes it."""
        shipping.export(_model(out, self.model), out / self.name)


def follow(steps: list[Step], out: pathlib.Path) -> None:
    """Does the steps in their order, but those that are done."""
    for number, step in enumerate(steps, start=1):
        title = f"step {number} of {len(steps)}: {type(step).__name__.lower()} {step.name}"
        if step.done(out):
            print(f"{title}: done before", flush=True)
            continue
        print(title, flush=True)
        step.run(out)


def _model(out: pathlib.Path, name: str) -> pathlib.Path:
    return out / "runs" / name / "model"

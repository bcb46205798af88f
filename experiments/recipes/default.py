"""Makes the default model from nothing: data, VAE, heads, generator; and what it is compared with, on equal terms.

    python -m experiments.recipes.default --out out/recipe                two CPU cores, about a day
    python -m experiments.recipes.default --out out/recipe --preset gpu   more clips, steps and larger batches
    python -m experiments.recipes.default --out out/recipe --preset tiny  every step, as small as it can be

Given again, it goes on where it was stopped. It leaves `default.safetensors`, and `rgb.safetensors` and
`none.safetensors` with a generator that reads an RGB memory, or none, trained for as many steps on the same clips. Part
of the maps are FreeDM's (Debian's package `freedm`).
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import sys
from typing import Any

from absl import flags

from experiments.configs import default_generator, default_heads, default_vae
from experiments.recipes.steps import Code, Export, Render, Step, Train, follow
from experiments.shared import cli
from mirage_jax.errors import Stopped
from mirage_jax.models import config as model_config
from mirage_jax.models.heads import LatentHeadsConfig

PLACES = ("doom", "freedm", "restyled", "stretched")
"""Data sets of the VAE: pictures of as many places as can be."""

LONG = ("long", "long_restyled")
"""Of the generator: clips in which one comes back."""

VIEWS = ("views", "views_stretched")
"""Of the heads: short clips from many places; frames of a long one look much the same."""


@dataclasses.dataclass(frozen=True)
class Preset:
    """How much of everything.

    Attributes:
      clips, steps, batch: times those of two CPU cores.
      frames: of the clips of VAE, heads and generator.
      size: pixels of a side.
      seeds: parts of the data that are made; none are all.
      changes: of fields of the configs, by stage ('vae', 'heads', 'generator').
    """

    clips: float = 1.0
    steps: float = 1.0
    batch: int = 1
    frames: tuple[int, int, int] = (17, 9, 33)
    size: int = 128
    seeds: tuple[int, ...] = ()
    changes: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)


def _tiny() -> Preset:
    """64x64 pixels, two steps of training."""
    whole = model_config.default()
    segment = dataclasses.replace(whole.segment, latents=2, lengths=(2,))
    model = dataclasses.replace(
        whole,
        height=64,
        width=64,
        recipe="paper",  # which remembers no things that move: they take long to compile
        vae=dataclasses.replace(whole.vae, latent_channels=3, encoder_dim=4, decoder_dim=4, blocks=1),
        dit=dataclasses.replace(whole.dit, dim=8, ffn_dim=8, heads=2, layers=1, in_channels=3, paint=4),
        side=dataclasses.replace(whole.side, control_channels=segment.control_channels(3), refine=4),
        heads=LatentHeadsConfig(in_channels=3, widths=(4, 4, 4), blocks=(1, 1, 1), attention_heads=2),
        segment=segment,
    )
    every = {
        "model": dataclasses.asdict(model),
        "steps": 2,
        "warmup_steps": 1,
        "batch_size": 2,
        "log_every": 1,
        "checkpoint_every": 2,
        "preview_every": 0,
    }
    return Preset(
        clips=0.0,
        frames=(9, 9, 9),
        size=64,
        seeds=(7, 10, 20),
        changes={
            "vae": every | {"crop": 40, "statistics_batches": 1},
            "heads": every,
            "generator": every | {"cuts": ((2, 1),), "perceptual_crop": 40, "own_output": 0.0},
        },
    )


PRESETS = {"cpu": Preset, "gpu": functools.partial(Preset, clips=4.0, steps=4.0, batch=8), "tiny": _tiny}


def steps(preset: Preset) -> list[Step]:
    """The whole recipe."""
    return [*data(preset), *runs(preset), *(Export(f"{name}.safetensors", run) for name, run in SHIPPED.items())]


SHIPPED = {"default": "generator_second", "rgb": "rgb_second", "none": "none_second"}
"""Files, and the runs that they are of."""


def data(preset: Preset) -> list[Render]:
    """Clips of training maps; each part of a data set has a seed of its own."""

    def render(name: str, seed: int, clips: int, kind: int, **changes: Any) -> Render:
        return Render(name, seed, max(2, round(preset.clips * clips)), preset.frames[kind], preset.size, **changes)

    parts = [
        render("doom", 7, 130, 0),
        render("doom", 9, 130, 0),
        render("freedm", 5, 60, 0, game="freedm"),
        render("restyled", 60, 70, 0, restyled=True),
        render("stretched", 70, 70, 0, stretched=True, restyled=True),
        render("views", 10, 300, 1),
        render("views", 50, 150, 1, game="freedm"),
        render("views_stretched", 110, 200, 1, stretched=True, restyled=True),
        render("long", 20, 150, 2),
        render("long", 45, 60, 2, game="freedm"),
        render("long_restyled", 64, 60, 2, restyled=True),
    ]
    return [part for part in parts if not preset.seeds or part.seed in preset.seeds]


def runs(preset: Preset) -> list[Step]:
    """Training, and the coding of clips that it needs."""
    train = functools.partial(_train, preset)
    there = {part.name for part in data(preset)}
    places, views, long = (tuple(name for name in names if name in there) for names in (PLACES, VIEWS, LONG))
    first, second = default_generator.get_config, functools.partial(default_generator.get_config, "second")
    alone = {"trainable": ("dit",), "augmentation.drop_reference": 1.0}
    return [
        train("vae", default_vae.get_config, places),
        *(Code(name, "vae", pixels=False) for name in views),
        train("heads", default_heads.get_config, views, "vae"),
        *(Code(name, "vae") for name in long),
        train("generator", first, long, "heads"),
        train("generator_second", second, long, "generator"),
        train("rgb", first, long, "heads", memory="rgb"),
        train("rgb_second", second, long, "rgb", memory="rgb"),
        train("none", first, long, "heads", **alone),
        train("none_second", second, long, "none", **alone),
    ]


def _train(preset: Preset, name: str, config: Any, places: tuple[str, ...], start: str = "", **changes: Any) -> Train:
    """A run at the preset's size."""
    base = config()
    scaled = {"steps": round(preset.steps * base.steps), "batch_size": preset.batch * base.batch_size}
    return Train(name, config, places, start, scaled | preset.changes.get(base.stage, {}) | changes)


_OUT = flags.DEFINE_string("out", None, "Folder for data, runs and the files of the models.", required=True)
_PRESET = flags.DEFINE_enum("preset", "cpu", list(PRESETS), "How much of everything.")


def main(_) -> None:
    """Follows the recipe."""
    out = cli.prepare_output(_OUT.value)
    try:
        follow(steps(PRESETS[_PRESET.value]()), out)
    except Stopped as stopped:
        print(stopped, flush=True)
        sys.exit(cli.STOPPED)
    print("wrote " + ", ".join(str(pathlib.Path(out) / f"{name}.safetensors") for name in SHIPPED))


if __name__ == "__main__":
    cli.run(main)

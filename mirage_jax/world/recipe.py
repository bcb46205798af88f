"""How the method is run: the paper's way, the PyTorch release's, and that of the model that ships, each one value.

A model names its recipe (`ModelConfig.recipe`). An ablation is a recipe with one field replaced:

    dataclasses.replace(recipe.DEFAULT, name="nearest cell", footprint=1)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from mirage_jax import io
from mirage_jax.diffusion import samplers
from mirage_jax.errors import UserError
from mirage_jax.memory.merge import RULES
from mirage_jax.models.codec import OVERLAPS
from mirage_jax.models.config import ModelConfig

PRECEDING = ("as_made", "again")

ALIGNMENTS = ("none", "scale", "surfaces")

MOST_STEPS = 1000
"""Sampling steps: as many as there are timesteps."""

MOST_GUIDANCE = 100.0

MOST_STEP_CACHE = 1.0


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What differs between runs of one method.

    Attributes:
      name: for messages and reports.
      steps: sampling steps.
      grid: of noise levels, of `samplers.SCHEDULES`.
      guidance: scale of classifier-free guidance; 1 is none, as in the paper.
      step_cache: error up to which sampling steps take the generator's output of the step before (`step_cache`); 0
        runs it in every step, as in the paper.
      overlap: where a segment begins: at the latent that is carried, or the last frame encoded again (`codec.Codec`).
      footprint: how many cells of a side a remembered point may cover when read; 1 is the paper's nearest cell.
      merge: what becomes of what a segment shows again of the memory, of `merge.RULES`: 'all' enters, as in the paper,
        or a place stays as it was 'first' seen, so that the memory grows with what was seen of the world, not with
        time; and others, to compare.
      preceding: what the generator is shown of the memory at preceding frames: what they were generated from,
        'as_made', as in the release, or what the memory shows there now that they are in it, 'again'.
      alignment: how new depth is brought to what the memory shows (`align`): not at all ('none', as in the paper), by
        one factor for a segment ('scale'), or, where it is guessed, so that it follows the memory's surfaces over a
        picture too ('surfaces').
      dynamic_filter: whether, in a model without a keep head, new content that disagrees with the memory is left out,
        and points that are seen through are retired (`remember`).
      entities: things that move that are remembered at a time, and shown where they should be by now
        (`memory.things`); 0 forgets them, as in the paper.
      moving_threshold: probability above which a cell is taken to move by the keep head, and not remembered.
    """

    name: str
    steps: int = 20
    grid: str = "wan"
    guidance: float = 1.0
    step_cache: float = 0.0
    overlap: str = "carry"
    footprint: int = 1
    merge: str = "all"
    preceding: str = "again"
    alignment: str = "none"
    dynamic_filter: bool = True
    entities: int = 0
    moving_threshold: float = 0.5

    def __post_init__(self):
        for field, known in (
            ("grid", tuple(samplers.SCHEDULES)),
            ("overlap", OVERLAPS),
            ("merge", tuple(RULES)),
            ("preceding", PRECEDING),
            ("alignment", ALIGNMENTS),
        ):
            if (found := getattr(self, field)) not in known:
                raise UserError(f"recipe {self.name!r}: {field} must be one of {', '.join(known)}, found {found!r}")
        if not 1 <= self.steps <= MOST_STEPS:
            raise UserError(f"recipe {self.name!r}: steps must be 1 to {MOST_STEPS}, found {self.steps}")
        if self.steps != samplers.FIXED_STEPS.get(self.grid, self.steps):
            wanted = samplers.FIXED_STEPS[self.grid]
            raise UserError(f"recipe {self.name!r}: grid {self.grid!r} has {wanted} steps, found {self.steps}")
        if not 0.0 <= self.guidance <= MOST_GUIDANCE:  # NaN is not
            raise UserError(f"recipe {self.name!r}: guidance must be 0 to {MOST_GUIDANCE:g}, found {self.guidance}")
        if not 0.0 <= self.step_cache <= MOST_STEP_CACHE:  # NaN is not
            raise UserError(
                f"recipe {self.name!r}: step_cache must be 0 to {MOST_STEP_CACHE:g}, found {self.step_cache}"
            )
        if self.step_cache and (self.steps < 4 or self.grid in samplers.FIXED_STEPS):
            raise UserError(
                f"recipe {self.name!r}: step_cache needs at least 4 steps of one path to the end, found {self.steps} "
                f"of grid {self.grid!r}"
            )
        if self.entities < 0:
            raise UserError(f"recipe {self.name!r}: entities must be at least 0, found {self.entities}")
        if self.footprint < 1 or self.footprint % 2 == 0:
            raise UserError(f"recipe {self.name!r}: footprint must be odd and at least 1, found {self.footprint}")

    def held(self) -> dict[str, Any]:
        """The fields that say what the state of a world means: one that is saved goes on only with the same."""
        return {name: getattr(self, name) for name in ("overlap", "preceding", "entities")}


PAPER = Recipe("paper", steps=40)
"""As arXiv 2606.09828 describes it: one frame of overlap, nearest cell, everything static written, 40 steps."""

RELEASE = Recipe("release", overlap="reencode", preceding="as_made", alignment="surfaces")
"""What released Wan weights and side branches of the public code expect; its faults are not carried over."""

DEFAULT = Recipe(
    "default",
    steps=1,
    grid="diffusers",
    footprint=3,
    merge="first",
    alignment="surfaces",
    entities=8,
)
"""That of the model that ships, which also remembers what moves."""

RECIPES = {recipe.name: recipe for recipe in (PAPER, RELEASE, DEFAULT)}

SAMPLINGS: dict[str, dict[str, Any]] = {
    "wan": {"grid": "wan", "steps": 50, "guidance": 5.0},
    "fastwan": {"grid": "fastwan", "steps": 3, "guidance": 1.0},
    "turbo": {"grid": "turbo", "steps": 4, "guidance": 1.0},
}
"""Published ways to sample Wan2.2-TI2V-5B, as fields of any recipe: its own, and those of models distilled from it."""


def of(model: ModelConfig) -> Recipe:
    """The recipe that a model was trained for.

    Raises:
      UserError: if it names one that there is not.
    """
    if model.recipe not in RECIPES:
        raise UserError(f"model {model.name!r}: recipe must be one of {', '.join(RECIPES)}, found {model.recipe!r}")
    return RECIPES[model.recipe]


def from_values(values: Mapping[str, Any], source: str) -> Recipe:
    """The recipe with such fields, as a file that was made by it names them.

    Raises:
      UserError: naming `source`, if fields are missing, unknown or of values that they cannot have.
    """
    defaults = dataclasses.asdict(DEFAULT)
    for name in [*defaults, *values]:
        if type(values.get(name)) is not type(defaults.get(name)):
            found = io.shown(repr(values.get(name, "nothing")))
            raise UserError(f"{source}: its recipe has {name} {found}, which is none of this version")
    return Recipe(**values)

"""Ablations that need no training: the latent memory with one thing changed, run by `methods.generate` as a method.

Each is a row of `TABLE`. The world offers what they change (its recipe, depth from outside, the decoder's cache in its
state), so none of them has code of its own there. A variant that would be `latent` itself where the depth of the
observed frames is given, or where it is not, is left out there (`Ablation.applies`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mirage_jax import world
from mirage_jax.data.clip import PosedClip
from mirage_jax.errors import UserError
from mirage_jax.models.config import ModelConfig
from mirage_jax.world import recipe as recipes

NOISE = 0.1
"""Standard deviation of the logarithm of noised depth: of a factor for each frame, and of a smooth one over it."""

_PATCHES = 5  # nodes of a side of the grid that the smooth factor is interpolated from

Depth = Callable[[PosedClip, int], np.ndarray | None]
"""Depth `[T, H, W]` of all frames of a clip, for a seed; None asks the model."""


@dataclasses.dataclass(frozen=True)
class Ablation:
    """How a variant differs from the method `latent`.

    Attributes:
      about: one sentence for the report.
      recipe: changes of the model's recipe.
      references: whether the generator is shown earlier frames that see the same.
      depth: that the observed frames are given; None: as `latent`.
      always: whether they are given it also where `latent` is given none.
      later: whether generated frames are written with it too, and not with what the model guesses.
      given: that the variant differs from `latent` only where the observed frames' depth is given (True) or is not
        (False); None: in both.
      moving: whether what moves is remembered.
    """

    about: str
    recipe: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    references: bool = True
    depth: Depth | None = None
    always: bool = False
    later: bool = False
    given: bool | None = None
    moving: bool = False

    def applies(self, true_depth: bool) -> bool:
        """Whether it differs from `latent` where the observed frames come with their true depth, or without."""
        return self.given is None or self.given == true_depth

    def changed(self, model: ModelConfig) -> ModelConfig:
        """The model as this variant runs it."""
        if self.references:
            return model
        return dataclasses.replace(model, segment=dataclasses.replace(model.segment, reference=0))

    def observed(
        self, clip: PosedClip, count: int, true_depth: bool, seed: int
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Depth and moving pixels of the first `count` frames, as `world.observe` takes them."""
        depth = clip.depth[:count] if true_depth else None
        dynamic = clip.dynamic[:count] if true_depth else None
        if self.depth is not None and (true_depth or self.always):
            depth = self.depth(clip, seed)
            depth = None if depth is None else depth[:count]
        return depth, np.zeros_like(dynamic) if self.moving and dynamic is not None else dynamic

    def generated(self, model: ModelConfig, clip: PosedClip, count: int, seed: int) -> world.KnownGeometry | None:
        """Depth of the frames after the first `count`, by segment, or None where the model guesses it."""
        depth = self.depth(clip, seed) if self.depth is not None and self.later else None
        if depth is None:
            return None
        return world.KnownGeometry(depth=jnp.asarray(depth[count:].reshape(-1, model.segment_frames, *depth.shape[1:])))


def check(name: str, model: ModelConfig) -> None:
    """Checks that a model has what a variant changes; other names pass.

    Raises:
      UserError: saying what it lacks.
    """
    ablation, lacks = TABLE.get(name, NOTHING), None
    if ablation.moving and model.heads is None:
        lacks = "no keep head, which this variant switches off"
    elif "entities" in ablation.recipe and not recipes.of(model).entities:
        lacks = "no memory of things that move, which this variant switches off"
    elif not ablation.references and not model.segment.reference:
        lacks = "no reference frames, which this variant leaves out"
    elif ablation.depth is _guessed and model.heads is None and model.depth is None:
        lacks = "no part that guesses depth"
    if lacks:
        raise UserError(f"--methods {name}: model {model.name!r} has {lacks}")


def _true(clip: PosedClip, seed: int) -> np.ndarray:
    del seed
    return clip.depth


def _guessed(clip: PosedClip, seed: int) -> None:
    del clip, seed


def _noised(clip: PosedClip, seed: int) -> np.ndarray:
    """True depth times a factor for each frame and a smooth one over each frame, both log-normal."""
    random, count = np.random.default_rng(seed), len(clip)
    nodes = random.normal(size=(count, _PATCHES, _PATCHES)).astype(np.float32)
    smooth = np.asarray(jax.image.resize(nodes, clip.depth.shape, "linear"))
    noise = NOISE * (smooth / smooth.std() + random.normal(size=(count, 1, 1)))
    return (clip.depth * np.exp(noise)).astype(np.float32)


def _first(clip: PosedClip, seed: int) -> np.ndarray:
    """True depth of the first frame, unknown in every other one: nothing of them is remembered."""
    del seed
    return np.concatenate([clip.depth[:1], np.zeros_like(clip.depth[1:])])


NOTHING = Ablation("The latent memory as it is.")

TABLE: dict[str, Ablation] = {
    "nearest": Ablation(
        "A remembered point covers the one cell it projects into, as in the paper, and no larger footprint.",
        recipe={"footprint": 1},
    ),
    "write_all": Ablation(
        "All of generated frames is remembered, as in the paper, also what the memory shows already (`memory.merge`).",
        recipe={"merge": "all"},
        given=False,
    ),
    "write_newest": Ablation(
        "What is seen again takes the place of what was remembered of it.", recipe={"merge": "newest"}, given=False
    ),
    "write_mean": Ablation(
        "What is seen again and what was remembered of it become their mean.", recipe={"merge": "average"}, given=False
    ),
    "no_bend": Ablation(
        "Guessed depth is brought to the memory's by one factor a segment, and does not follow its "
        "surfaces over a picture (`align.follow_surfaces`).",
        recipe={"alignment": "scale"},
        given=False,
    ),
    "no_keep": Ablation("No keep filter: what moves is remembered too.", recipe={"moving_threshold": 1.0}, moving=True),
    "true_depth": Ablation(
        "Depth source: all frames are written with true depth at their cameras, aligned with the memory as ever.",
        depth=_true,
        always=True,
        later=True,
        given=False,
    ),
    "head_depth": Ablation(
        "Depth source: depth and masks of the observed frames are guessed on their latents.", depth=_guessed, given=True
    ),
    "noised_depth": Ablation(
        f"Depth source: as `true_depth`, times log-normal noise: {NOISE:g} a frame, and {NOISE:g} smooth over it.",
        depth=_noised,
        always=True,
        later=True,
    ),
    "one_frame": Ablation(
        "Only the first frame is remembered, in the memory and among the references.", depth=_first, later=True
    ),
    "reencode": Ablation(
        "A segment starts at the code of the last frame, encoded again, and is decoded as a clip of its own.",
        recipe={"overlap": "reencode"},
    ),
    "no_references": Ablation("The generator is shown no earlier frames beside the memory.", references=False),
    "paper": Ablation(
        "The paper's way: nearest cell, all is written, depth as it is guessed, what moves is forgotten.",
        recipe={"footprint": 1, "merge": "all", "alignment": "none", "entities": 0},
    ),
    "no_things": Ablation("Things that move are forgotten, as in the paper.", recipe={"entities": 0}),
}

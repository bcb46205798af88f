"""What a rollout needs to know before anything is traced."""

from __future__ import annotations

import dataclasses
import math

from mirage_jax.errors import UserError
from mirage_jax.memory import kinds
from mirage_jax.models.codec import Codec
from mirage_jax.models.config import ModelConfig
from mirage_jax.world import recipe as recipes
from mirage_jax.world.recipe import Recipe

DEPTH_SOURCES = ("heads", "pixels", "given")


@dataclasses.dataclass(frozen=True)
class WorldConfig:
    """A model, how it is run, and the static sizes of its world.

    Attributes:
      model: with all parts that it runs (`runs_side`).
      memory: 'latent' (the paper's), 'rgb' (coloured points, rendered and encoded for every segment), 'none' (the
        overlap and the preceding frames alone are seen, and no references retrieved), or any other kind that is
        registered (`memory.kinds`).
      capacity: points the memory can hold.
      bank: latent frames kept to choose references from; the oldest are overwritten.
      recipe: how the method is run; None is what the model was trained for.
      depth_source: where depth comes from: 'heads' (of the model, on latents), 'pixels' (its depth network, on decoded
        frames) or 'given' (with every segment, from outside); '' is the first of these that the model has.
      vae_tile: latent cells of a side of the VAE's tiles; 0 gives it whole clips, None what fits the size of the
        picture (`codec.Codec`).
      vae_dtype: in which the VAE computes, 'float32' or 'bfloat16'.
    """

    model: ModelConfig
    memory: str = "latent"
    capacity: int = 0
    bank: int = 32
    recipe: Recipe | None = None
    depth_source: str = ""
    vae_tile: int | None = None
    vae_dtype: str = "float32"

    def __post_init__(self):
        kinds.of(self.memory)
        if self.recipe is None:
            object.__setattr__(self, "recipe", recipes.of(self.model))
        if self.depth_source not in ("", *DEPTH_SOURCES):
            raise UserError(f"depth source must be one of {', '.join(DEPTH_SOURCES)}, found {self.depth_source!r}")
        needed = ["dit"] + ["side"] * self.runs_side
        needed += {"heads": ["heads"], "pixels": ["depth"], "given": []}[self.depth_from]
        if missing := [part for part in needed if getattr(self.model, part) is None]:
            raise UserError(f"model {self.model.name!r} has no {' and no '.join(missing)}: it cannot run a world yet")
        relative = self.depth_from == "pixels" and not self.model.depth.metric
        if relative and self.recipe.alignment == "none":
            raise UserError(f"recipe {self.recipe.name!r} aligns no depth, which that of a relative network needs")
        if self.capacity < (least := frame_points(self.model, self.memory)):
            raise UserError(
                f"memory capacity {self.capacity} cannot hold even the first frame: at least {least} points"
            )
        if self.bank < 1:
            raise UserError(f"bank must be at least 1, found {self.bank}")
        if self.guided and not self.model.dit.text_dim:
            raise UserError(
                f"recipe {self.recipe.name!r} has guidance {self.recipe.guidance:g}: it leads away from a negative "
                f"prompt, and the model {self.model.name!r} reads no text"
            )
        assert self.codec  # which checks the tile

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the latent grid."""
        return self.model.grid

    @property
    def conditions(self) -> bool:
        """Whether the generator is shown what is remembered."""
        return kinds.of(self.memory).CONDITIONS

    @property
    def runs_side(self) -> bool:
        """Whether the side branch is run, and the LoRA that goes with it.

        Without a memory it is left out, and the backbone is as it was before it got one; but where both were trained
        as one, from the readout on (`SideBranchConfig.identity`), the backbone alone was never trained: there the side
        branch is run on an empty memory, as in those examples of training that had none.
        """
        return self.conditions or (self.model.side is not None and self.model.side.identity)

    @property
    def guided(self) -> bool:
        """Whether the generator is led away from a negative prompt."""
        assert self.recipe is not None
        return self.recipe.guidance != 1.0

    @property
    def codec(self) -> Codec:
        """How the VAE is run."""
        assert self.recipe is not None
        return Codec(self.model.vae, self.recipe.overlap, self.vae_tile, self.vae_dtype)

    @property
    def depth_from(self) -> str:
        """The depth source in force."""
        if self.depth_source:
            return self.depth_source
        return "heads" if self.model.heads is not None else "pixels" if self.model.depth is not None else "given"

    @property
    def filters_moving(self) -> bool:
        """Whether what moves is told by its disagreement with the memory: a model with heads has a better judge."""
        assert self.recipe is not None
        return self.recipe.dynamic_filter and self.model.heads is None

    @property
    def remembers_moving(self) -> bool:
        """Whether things that move are remembered: by a memory that conditions the generator, if the recipe says so."""
        assert self.recipe is not None
        return self.conditions and self.recipe.entities > 0

    @property
    def frames_at_once(self) -> int:
        """Latent frames that enter the memory at once: of a model with segments of several lengths, what divides all.

        A place that a frame shows is then known to the next ones, however long the segment is.
        """
        layout = self.model.segment
        return math.gcd(layout.latents, *layout.lengths)

    @property
    def token_dtype(self) -> str:
        """Dtype of the tokens in a latent memory: the one in which the parts that read them compute."""
        return self.model.dit.dtype


def frame_points(model: ModelConfig, memory: str) -> int:
    """Points that one frame can add to a kind of memory."""
    return kinds.of(memory).frame_points(model.grid, (model.height, model.width))


def full_capacity(model: ModelConfig, memory: str, segments: int) -> int:
    """Points that hold everything `segments` segments can write, first frame included."""
    return (1 + segments * model.segment.latents) * frame_points(model, memory)


def bucket(count: int) -> int:
    """The least power of two that is no less: paths of many lengths share a program where sizes are given so."""
    return 1 << (count - 1).bit_length()

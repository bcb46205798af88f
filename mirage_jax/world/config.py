"""What a rollout needs to know before anything is traced."""

from __future__ import annotations

import dataclasses

from mirage_jax.errors import UserError
from mirage_jax.models.config import ModelConfig

MEMORIES = ("latent", "rgb", "none")


@dataclasses.dataclass(frozen=True)
class WorldConfig:
    """A model and the static sizes of the world it runs.

    Attributes:
      model: with all parts but, for memory 'none', the side branch.
      memory: 'latent' (the paper's), 'rgb' (coloured points, rendered and encoded for every segment) or 'none' (the
        backbone alone, which sees the overlap and the preceding frames and retrieves no references).
      capacity: points the memory can hold.
      bank: latent frames kept to choose references from; the oldest are overwritten.
      steps: sampling steps; 0 means what the model's config says.
      moving_threshold: probability above which a cell is taken to move, and not remembered.
      near: metres; nothing nearer is written or read.
    """

    model: ModelConfig
    memory: str = "latent"
    capacity: int = 0
    bank: int = 32
    steps: int = 0
    moving_threshold: float = 0.5
    near: float = 0.05

    def __post_init__(self):
        if self.memory not in MEMORIES:
            raise UserError(f"memory must be one of {', '.join(MEMORIES)}, found {self.memory!r}")
        if self.model.dit is None or self.model.heads is None or (self.memory != "none" and self.model.side is None):
            missing = [part for part in ("dit", "side", "heads") if getattr(self.model, part) is None]
            raise UserError(f"model {self.model.name!r} has no {' and no '.join(missing)}: it cannot run a world yet")
        if self.capacity < self.frame_points:
            raise UserError(
                f"memory capacity {self.capacity} cannot hold even the first frame: at least {self.frame_points} points"
            )
        if self.bank < 1 or self.steps < 0:
            raise UserError(f"bank must be at least 1 and steps at least 0, found {self.bank} and {self.steps}")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the latent grid."""
        stride = self.model.vae.stride_space
        return self.model.height // stride, self.model.width // stride

    @property
    def frame_points(self) -> int:
        """Points that one frame can add to the memory."""
        if self.memory == "rgb":
            return self.model.height * self.model.width
        return self.grid[0] * self.grid[1]

    @property
    def sampling_steps(self) -> int:
        """Steps of the sampler."""
        return self.steps or self.model.segment.steps


def full_capacity(model: ModelConfig, memory: str, segments: int) -> int:
    """Points that hold everything `segments` segments can write, first frame included."""
    frames = 1 + segments * model.segment.latents
    pixels = model.height * model.width
    return frames * (pixels if memory == "rgb" else pixels // model.vae.stride_space**2)

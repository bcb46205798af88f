"""What a rollout needs to know before anything is traced."""

from __future__ import annotations

import dataclasses

from mirage_jax.errors import UserError
from mirage_jax.models import vae_tiling
from mirage_jax.models.config import WRITES, ModelConfig

MEMORIES = ("latent", "rgb", "none")

DEPTH_SOURCES = ("heads", "pixels", "given")


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
      depth_source: where depth comes from: 'heads' (of the model, on latents), 'pixels' (its depth network, on decoded
        frames) or 'given' (with every segment, from outside); '' is the first of these that the model has.
      bend: whether depth that is guessed follows the memory's surfaces over a picture (`align.bend`), and not by one
        factor only, as in the paper. Depth from outside is taken as it is, but for its scale.
      dynamic_filter: whether new content that disagrees with the memory is left out, and points that are seen through
        retired (`world.dynamic`).
      write: what a segment adds to the memory, of `WRITES`; '' means what the model's config says.
      vae_tile: latent cells of a side of the tiles that the VAE works in, one latent frame at a time (`vae_tiling`), so
        that it takes less memory; as large as the grid cuts nothing. 0 gives it whole clips.
    """

    model: ModelConfig
    memory: str = "latent"
    capacity: int = 0
    bank: int = 32
    steps: int = 0
    moving_threshold: float = 0.5
    near: float = 0.05
    depth_source: str = ""
    bend: bool = True
    dynamic_filter: bool = False
    write: str = ""
    vae_tile: int = 0

    def __post_init__(self):
        if self.memory not in MEMORIES:
            raise UserError(f"memory must be one of {', '.join(MEMORIES)}, found {self.memory!r}")
        if self.depth_source not in ("", *DEPTH_SOURCES):
            raise UserError(f"depth source must be one of {', '.join(DEPTH_SOURCES)}, found {self.depth_source!r}")
        if self.write not in ("", *WRITES):
            raise UserError(f"write must be one of {', '.join(WRITES)}, found {self.write!r}")
        needed = ["dit"] + ["side"] * (self.memory != "none")
        needed += {"heads": ["heads"], "pixels": ["depth"], "given": []}[self.depth_from]
        if missing := [part for part in needed if getattr(self.model, part) is None]:
            raise UserError(f"model {self.model.name!r} has no {' and no '.join(missing)}: it cannot run a world yet")
        if self.capacity < self.frame_points:
            raise UserError(
                f"memory capacity {self.capacity} cannot hold even the first frame: at least {self.frame_points} points"
            )
        if self.bank < 1 or self.steps < 0:
            raise UserError(f"bank must be at least 1 and steps at least 0, found {self.bank} and {self.steps}")
        if self.vae_tile and self.vae_tile <= vae_tiling.OVERLAP:
            raise UserError(f"vae_tile must be 0 or above {vae_tiling.OVERLAP} cells, found {self.vae_tile}")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the latent grid."""
        stride = self.model.vae.stride_space
        return self.model.height // stride, self.model.width // stride

    @property
    def depth_from(self) -> str:
        """The depth source in force."""
        if self.depth_source:
            return self.depth_source
        return "heads" if self.model.heads is not None else "pixels" if self.model.depth is not None else "given"

    @property
    def writes(self) -> str:
        """What a segment adds to the memory."""
        return self.write or self.model.segment.write

    @property
    def token_dtype(self) -> str:
        """Dtype of the tokens in a latent memory: the one in which the parts that read them compute."""
        return self.model.dit.dtype

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

"""What a world asks of a memory. A kind of memory is a module with the functions of `Kind`, and a name.

kinds.register("first_frame", module)      # a world runs it as WorldConfig(memory="first_frame")
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import chex
import jax
from flax import struct

from mirage_jax.errors import UserError
from mirage_jax.geometry import Camera
from mirage_jax.memory.points import PointMemory, Readout

Encode = Callable[[chex.Array], jax.Array]
"""Video `[1 + r k, H, W, 3]` in [-1, 1] to latents `[1 + k, h, w, C]`."""


@struct.dataclass
class Observation:
    """New latent frames and what is known of them.

    Attributes:
      latents: `[n, h, w, C]` by which a latent memory remembers them.
      frames: `[n, H, W, 3]` in [-1, 1], the pixel frames that they end at.
      depth: `[n, h, w]` z-depth, scene units; inf the sky, 0 unknown.
      keep: bool `[n, h, w]`, what is to be remembered (static, not sky).
      sky: bool `[n, h, w]`, the sky to be remembered.
      latent_cameras, frame_cameras: `Camera[n]`, on the latent grid and on that of the frames.
      pixel_depth: `[n, H, W]`, where it is known in more detail than `depth`.
    """

    latents: chex.Array  # [n, h, w, C]
    frames: chex.Array  # [n, H, W, 3]
    depth: chex.Array  # [n, h, w]
    keep: chex.Array  # [n, h, w]
    sky: chex.Array  # [n, h, w]
    latent_cameras: Camera  # [n]
    frame_cameras: Camera  # [n]
    pixel_depth: chex.Array | None = None  # [n, H, W]


@struct.dataclass
class Views:
    """From where a segment looks at the memory.

    Attributes:
      context: `Camera[P + 1]` on the latent grid, of the preceding latent frames and, last, of the overlap.
      frame_cameras: `Camera[F]` of the new frames, at pixel resolution.
      stride: video frames a latent frame, `r`.
    """

    context: Camera  # [P + 1]
    frame_cameras: Camera  # [F]
    stride: int = struct.field(pytree_node=False)


class Kind(Protocol):
    """A kind of memory, as a world uses it. All but `CONDITIONS` are pure functions.

    Attributes:
      CONDITIONS: whether the generator is shown what is remembered, by its side branch and by references.
    """

    CONDITIONS: bool

    def frame_points(self, grid: tuple[int, int], size: tuple[int, int]) -> int:
        """Points that one frame of `size` pixels, `grid` latent cells, can add."""
        ...

    def create(self, capacity: int, channels: int, dtype: Any) -> PointMemory:
        """An empty memory, for tokens of so many channels."""
        ...

    def remember(self, memory: PointMemory, observed: Observation) -> PointMemory:
        """The memory with new frames in it."""
        ...

    def recall(self, memory: PointMemory, views: Views, footprint: int, encode: Encode) -> Readout:
        """What is seen at the latent frames of target and preceding, `[1 + n + P, h, w, ..]`."""
        ...


_KINDS: dict[str, Kind] = {}


def register(name: str, kind: Any) -> None:
    """Makes a module with the functions of `Kind` known under a name."""
    _KINDS[name] = kind


def names() -> tuple[str, ...]:
    """Of all kinds of memory that are known."""
    return tuple(_KINDS)


def of(name: str) -> Kind:
    """The kind of that name.

    Raises:
      UserError: naming those that there are.
    """
    if name not in _KINDS:
        raise UserError(f"memory must be one of {', '.join(_KINDS)}, found {name!r}")
    return _KINDS[name]

"""What the explorer asks of a world, whichever makes it: the model (`model_engine`), or the mock (`mock`)."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from mirage_jax.geometry import Camera

AHEAD = 16
"""Latent frames that paths of moving things are predicted for."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a world is made; empty and 0 are the model's own.

    Attributes:
      memory: kind of memory.
      steps: sampling steps.
      capacity: points of its memory.
      bank: latent frames that it keeps.
      recipe: how the method is run, its values as JSON.
    """

    memory: str = ""
    steps: int = 0
    capacity: int = 0
    bank: int = 0
    recipe: str = ""


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a page is told of a model.

    Attributes:
      name: of it.
      height, width: of its pictures.
      fps: of its videos.
      segment_frames: pictures of one segment.
      stride: pictures a latent frame.
      text: whether it takes prompts.
      memories: kinds that it can run.
      steps: sampling steps of its recipe.
      scene_depth: typical depth, scene units.
      note: on what it was trained on.
    """

    name: str
    height: int
    width: int
    fps: int
    segment_frames: int
    stride: int
    text: bool
    memories: tuple[str, ...]
    steps: int
    scene_depth: float
    note: str


@dataclasses.dataclass(frozen=True)
class Thing:
    """A thing that moves.

    Attributes:
      path: float32 `[K, 3]`, where it should be now and in the next latent frames.
      size: its extent.
      age: seconds since it was seen.
    """

    path: np.ndarray
    size: float
    age: float


@dataclasses.dataclass(frozen=True)
class Seen:
    """What a segment, or a beginning, gives to look at; host arrays.

    Attributes:
      frames: uint8 `[F, H, W, 3]`.
      cameras: `Camera[F]`.
      kind: uint8 `[n, h, w]` of the latent frames, as `protocol.NEW` and so on.
      age: float32 `[n, h, w]` seconds since what is remembered was last seen; 0 elsewhere.
      things: that move, after it.
      points: that the memory holds.
      overflow: points that had to go for others.
      notes: sentences.
    """

    frames: np.ndarray
    cameras: Camera
    kind: np.ndarray
    age: np.ndarray
    things: tuple[Thing, ...] = ()
    points: int = 0
    overflow: int = 0
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Begun:
    """A world that begins: its state, what it looks like, and the camera that one walks on from."""

    state: Any
    seen: Seen
    camera: Camera


class Engine(Protocol):
    """Makes worlds of one kind of memory and number of steps. States are values and are never changed.

    Attributes:
      facts: of the model.
      settings: of it, none left open.
    """

    facts: Facts
    settings: Settings

    def picture(self, path: pathlib.Path, fov: float, seed: int) -> Begun:
        """A world that begins with a picture; `fov` degrees across, 0 if not known. Raises `UserError`."""
        ...

    def pictures(self, path: pathlib.Path, seed: int, scale: float | None = None) -> Begun:
        """A world that begins with posed pictures, `scale` metres a unit of theirs. Raises `UserError`."""
        ...

    def step(self, state: Any, cameras: Camera, prompt: str) -> tuple[Any, Seen]:
        """One segment. Raises `UserError` where what comes out is no picture."""
        ...

    def points(self, state: Any) -> tuple[np.ndarray, np.ndarray | None]:
        """`[N, 3]` float32 points of the memory, and their colours `[N, 3]` uint8 where it knows them."""
        ...

    def save_colours(self, path: pathlib.Path) -> None:
        """Writes the colours of all points that it knows, which no state holds."""
        ...

    def load_colours(self, path: pathlib.Path) -> None:
        """Adds what `save_colours` wrote. Raises `UserError` if it is missing or damaged."""
        ...

    def save(self, path: pathlib.Path, state: Any) -> None:
        """Writes a world file."""
        ...

    @property
    def like(self) -> Any:
        """A state, or its shapes."""
        ...


class Engines(Protocol):
    """Gives engines, and begins worlds that were saved."""

    facts: Facts

    def get(self, settings: Settings) -> Engine:
        """The engine of such settings. Raises `UserError` if there is none."""
        ...

    def load(self, path: pathlib.Path) -> tuple[Engine, Begun]:
        """A world from a file, and the engine that goes on with it. Raises `UserError`."""
        ...

    def warm(self, progress: Callable[[str, float], None]) -> None:
        """Loads and compiles what walking needs, and says how far it is, 0 to 1."""
        ...

    @property
    def digest(self) -> str:
        """Of what decides all results."""
        ...

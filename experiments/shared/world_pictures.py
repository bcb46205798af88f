"""Pictures that a saved world still holds, its kept latent frames decoded in their order; colours of its points."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from mirage_jax import io, world
from mirage_jax.geometry import Camera
from mirage_jax.memory.points import PointMemory

UNKNOWN = 128
"""Grey of points that no frame tells of."""

_MOST = 2_000_000  # points that a chart knows before it begins anew


def kept(config: world.WorldConfig, params: Any, state: Any) -> tuple[np.ndarray, Camera]:
    """The latent frames of the bank as pictures, the latest last.

    They are decoded as one video from the oldest on, one latent frame at a time, and of each the frame that it ends at
    is taken. Where older ones were overwritten, the first few are as a decoder without their past makes them.

    Args:
      config: of the world.
      params: of the model; of them, the VAE's.
      state: of the world.

    Returns:
      uint8 `[n, H, W, 3]` and `Camera[n]` of numpy arrays at pixel resolution.
    """
    bank = state.bank
    count, size = int(bank.count), len(bank.latents)
    order = np.arange(max(count - size, 0), count) % size
    cache, frames = None, []
    for slot in order:
        decoded, cache = config.codec.decode_stream(params["vae"], bank.latents[slot][None], cache)
        frames.append(np.asarray(jnp.round((decoded[-1] + 1.0) * 127.5).astype(jnp.uint8)))
    cameras = jax.tree.map(lambda x: np.asarray(x)[order], bank.cameras).resized(
        config.model.height, config.model.width
    )
    cameras = jax.tree.map(lambda x: np.asarray(x, np.float32), cameras)
    return np.stack(frames), cameras


def places(memory: PointMemory) -> tuple[np.ndarray, np.ndarray]:
    """float32 `[N, 3]` points of a memory that are no directions (sky), and their slots."""
    size = int(memory.size)
    x, y, z, w = (np.asarray(column)[:size] for column in (memory.x, memory.y, memory.z, memory.w))
    slot = np.flatnonzero(w == 1)
    return np.stack([x, y, z], axis=-1)[slot], slot


def pixel_colours(memory: PointMemory, slot: np.ndarray) -> np.ndarray:
    """uint8 `[N, 3]` of points of an RGB memory, which are colours."""
    colours = np.asarray(memory.features)[slot, :3].astype(np.float32)
    return np.round(np.clip(colours * 127.5 + 127.5, 0, 255)).astype(np.uint8)


def coloured_points(
    config: world.WorldConfig, state: Any, frames: np.ndarray, cameras: Camera
) -> tuple[np.ndarray, np.ndarray]:
    """Points `[N, 3]` and colours uint8 `[N, 3]` of a world of which these pictures are left (`kept`)."""
    points, slot = places(state.memory)
    if config.memory == "rgb":
        return points, pixel_colours(state.memory, slot)
    chart = Chart()
    chart.learn(points, frames, cameras, config.grid)
    return points, chart.colours(points)[0]


class Chart:
    """Colours of points by their place.

    A point is written at the centre of a cell of a latent frame; that cell's mean colour is the point's. Points are
    known by the bits of their place, which stay when others go, so that one chart serves all branches of a world.
    """

    def __init__(self):
        """Empty."""
        self._names = np.zeros(0, np.uint64)
        self._colours = np.zeros((0, 3), np.uint8)

    def __len__(self) -> int:
        return len(self._names)

    def colours(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 `[N, 3]` of float32 points `[N, 3]`, and which of them are known, bool `[N]`."""
        names = _names(points)
        if not len(self._names):
            return np.full((len(points), 3), UNKNOWN, np.uint8), np.zeros(len(points), bool)
        at = np.minimum(np.searchsorted(self._names, names), len(self._names) - 1)
        known = self._names[at] == names
        return np.where(known[:, None], self._colours[at], UNKNOWN).astype(np.uint8), known

    def learn(self, points: np.ndarray, frames: np.ndarray, cameras: Camera, grid: tuple[int, int]) -> None:
        """Takes the colours of points that are not known yet.

        Args:
          points: float32 `[N, 3]`.
          frames: uint8 `[n, H, W, 3]`, of the latent frames that may have written them.
          cameras: `Camera[n]` of these, on any grid.
          grid: rows and columns of the cells.
        """
        points = points[~self.colours(points)[1]]
        if not len(points):
            return
        if len(self) > _MOST:
            self.__init__()
        rows, columns = grid
        count, height, width, _ = frames.shape
        cells = frames.reshape(count, rows, height // rows, columns, width // columns, 3).mean((2, 4))
        best, colours = np.full(len(points), np.inf), np.full((len(points), 3), float(UNKNOWN))
        for frame in range(count):
            world2cam = np.linalg.inv(np.asarray(cameras.cam2world[frame], np.float64))
            local = points @ world2cam[:3, :3].T + world2cam[:3, 3]
            z = np.where(local[:, 2] > 1e-6, local[:, 2], np.nan)
            lens = np.asarray(cameras.intrinsics[frame], np.float64)
            u = (lens[0, 0] * local[:, 0] / z + lens[0, 2]) * columns / cameras.width
            v = (lens[1, 1] * local[:, 1] / z + lens[1, 2]) * rows / cameras.height
            off = np.hypot(u % 1 - 0.5, v % 1 - 0.5)
            inside = (u >= 0) & (u < columns) & (v >= 0) & (v < rows) & (off < best)
            best = np.where(inside, off, best)
            at = (np.where(inside, v, 0).astype(int), np.where(inside, u, 0).astype(int))
            colours = np.where(inside[:, None], cells[frame][at], colours)
        self._add(_names(points), np.round(colours).astype(np.uint8))

    def save(self, path: pathlib.Path) -> None:
        """Writes it as safetensors, atomically."""
        with io.atomic_path(path) as temporary:
            safetensors.numpy.save_file({"names": self._names, "colours": self._colours}, temporary)

    def load(self, path: pathlib.Path) -> None:
        """Adds what `save` wrote; a colour that is known stays. Raises `UserError` if it is damaged."""
        with io.foreign(path, "colours of points"):
            stored = safetensors.numpy.load_file(path)
            self._add(stored["names"], stored["colours"])

    def _add(self, names: np.ndarray, colours: np.ndarray) -> None:
        self._names, first = np.unique(np.concatenate([self._names, names]), return_index=True)
        self._colours = np.concatenate([self._colours, colours])[first]


def _names(points: np.ndarray) -> np.ndarray:
    """A number for each place: a mixture of its 96 bits."""
    bits = np.ascontiguousarray(points, np.float32).view(np.uint32).astype(np.uint64).reshape(-1, 3)
    name = bits[:, 0] * np.uint64(0x9E3779B97F4A7C15)
    name = (name ^ bits[:, 1] ^ (name >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    return (name ^ bits[:, 2] ^ (name >> np.uint64(32))) * np.uint64(0x94D049BB133111EB)

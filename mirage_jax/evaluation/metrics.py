"""PSNR, SSIM and LPIPS of one video against another, frame by frame.

Videos are `[T, H, W, 3]`, uint8 or float in 0..255; each metric returns `[T]` float32.
PSNR and SSIM are similarities (higher is closer), LPIPS is a distance.
"""

from __future__ import annotations

import collections
import hashlib
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mirage_jax.models import lpips as lpips_network

# Two identical frames have no noise; a finite value keeps means and JSON usable. One step of one colour value in one
# pixel of a 1280x704 frame scores 112 dB.
PSNR_OF_EQUAL_FRAMES = 120.0

_PAIRS_AT_ONCE, _FRAMES_AT_ONCE = 16, 8  # of LPIPS

_SSIM_WINDOW = 7
_SSIM_C1 = (0.01 * 255) ** 2
_SSIM_C2 = (0.03 * 255) ** 2


@jax.jit
def psnr(a: chex.Array, b: chex.Array) -> jax.Array:
    """Peak signal-to-noise ratio in dB, peak 255.

    Args:
      a, b: `[T, H, W, 3]` in 0..255.

    Returns:
      `[T]` float32, at most `PSNR_OF_EQUAL_FRAMES`.
    """
    a, b = _as_float(a, b)
    mean_squared_error = jnp.mean((a - b) ** 2, axis=(1, 2, 3))
    floor = 255.0**2 / 10 ** (PSNR_OF_EQUAL_FRAMES / 10)
    return 10 * jnp.log10(255.0**2 / jnp.maximum(mean_squared_error, floor))


@jax.jit
def ssim(a: chex.Array, b: chex.Array) -> jax.Array:
    """Structural similarity as scikit-image computes it by default (Wang et al. 2004, uniform window).

    Window 7x7, sample covariance, data range 255, mean over channels and over the windows that lie inside the frame.

    Args:
      a, b: `[T, H, W, 3]` in 0..255, at least 7x7.

    Returns:
      `[T]` float32 in -1..1.

    Raises:
      ValueError: if the frames are smaller than the window.
    """
    a, b = _as_float(a, b)
    if min(a.shape[1:3]) < _SSIM_WINDOW:
        raise ValueError(f"SSIM needs frames of at least 7x7, got {a.shape[1]}x{a.shape[2]}")
    # Around mid-grey the squares are four times smaller, and with them what float32 loses in E[x^2] - E[x]^2.
    a, b = a - 127.5, b - 127.5
    mean_a, mean_b = _window_mean(a), _window_mean(b)
    unbiased = _SSIM_WINDOW**2 / (_SSIM_WINDOW**2 - 1)
    variance_a = unbiased * (_window_mean(a * a) - mean_a**2)
    variance_b = unbiased * (_window_mean(b * b) - mean_b**2)
    covariance = unbiased * (_window_mean(a * b) - mean_a * mean_b)
    mean_a, mean_b = mean_a + 127.5, mean_b + 127.5
    luminance = (2 * mean_a * mean_b + _SSIM_C1) / (mean_a**2 + mean_b**2 + _SSIM_C1)
    structure = (2 * covariance + _SSIM_C2) / (variance_a + variance_b + _SSIM_C2)
    return jnp.mean(luminance * structure, axis=(1, 2, 3))


def lpips(a: chex.Array, b: chex.Array) -> jax.Array:
    """Learned perceptual distance, AlexNet, version 0.1 (Zhang et al. 2018), with the weights that ship with us.

    What the network makes of a frame is remembered for a while: protocols compare each frame with many others.

    Args:
      a, b: `[T, H, W, 3]` in 0..255, at least 31x31; on the host, not traced.

    Returns:
      `[T]` float32, 0 for equal frames.

    Raises:
      ValueError: if the frames are smaller.
    """
    a, b = np.asarray(a), np.asarray(b)
    chex.assert_rank([a, b], 4)
    chex.assert_equal_shape([a, b])
    found = []
    for begin in range(0, len(a), _PAIRS_AT_ONCE):
        block = slice(begin, begin + _PAIRS_AT_ONCE)
        count = len(a[block])
        seen = _seen.features([*a[block], *b[block]])
        halves = (_filled(half, _PAIRS_AT_ONCE) for half in (seen[:count], seen[count:]))
        pair = (jax.tree.map(lambda *x: np.stack(x), *half) for half in halves)
        found.append(lpips_network.feature_distance(*pair)[:count])
    return jnp.concatenate(found)


class _Seen:
    """LPIPS features of the frames met last, by what the frames hold; shared by threads."""

    def __init__(self, most_bytes: int):
        self._most_bytes, self._bytes = most_bytes, 0
        self._found: collections.OrderedDict[tuple, lpips_network.Features] = collections.OrderedDict()
        self._lock = threading.Lock()

    def features(self, frames: Sequence[np.ndarray]) -> list[lpips_network.Features]:
        """Of each frame `[H, W, 3]`, as `lpips_network.features`, without the axis of time; on the host."""
        keys = [(x.shape, x.dtype.str, hashlib.sha256(np.ascontiguousarray(x)).digest()) for x in frames]
        with self._lock:
            known = {key: self._found[key] for key in keys if key in self._found}
        new = {key: frame for key, frame in zip(keys, frames, strict=True) if key not in known}
        todo = list(new.items())
        for begin in range(0, len(todo), _FRAMES_AT_ONCE):
            some = todo[begin : begin + _FRAMES_AT_ONCE]
            batch = np.stack(_filled([frame for _, frame in some], _FRAMES_AT_ONCE)).astype(np.float32)
            layers = jax.tree.map(np.asarray, lpips_network.features(lpips_network.load_parameters(), batch))
            known |= {key: tuple(layer[i].copy() for layer in layers) for i, (key, _) in enumerate(some)}
        with self._lock:
            for key in keys:
                if key not in self._found:
                    self._bytes += sum(layer.nbytes for layer in known[key])
                self._found[key] = known[key]
                self._found.move_to_end(key)
            while self._bytes > self._most_bytes:
                _, oldest = self._found.popitem(last=False)
                self._bytes -= sum(layer.nbytes for layer in oldest)
        return [known[key] for key in keys]


_seen = _Seen(most_bytes=2**29)


def _filled(items: Sequence[Any], count: int) -> list[Any]:
    """The items, the last one repeated up to `count`, so that one compiled program serves all numbers of frames."""
    return [*items, *[items[-1]] * (count - len(items))]


def all_metrics(a: chex.Array, b: chex.Array) -> dict[str, np.ndarray]:
    """`{"psnr", "ssim", "lpips"}`, each `[T]` float32 on the host, of `[T, H, W, 3]` in 0..255."""
    return {name: np.asarray(metric(a, b)) for name, metric in (("psnr", psnr), ("ssim", ssim), ("lpips", lpips))}


def lpips_vgg(judge: Mapping[str, chex.Array], frames: Mapping[str, np.ndarray], truth: np.ndarray) -> dict:
    """LPIPS with VGG16 of several videos against one: a measure that no loss here has seen.

    Args:
      judge: weights of `lpips_network.VGG`.
      frames: method -> uint8 `[T, H, W, 3]`.
      truth: likewise.

    Returns:
      method -> `[T]` float32.
    """

    def seen(some: np.ndarray) -> lpips_network.Features:
        return lpips_network.features(judge, np.stack(_filled(list(some), _FRAMES_AT_ONCE)).astype(np.float32))

    found: dict[str, list[np.ndarray]] = {name: [] for name in frames}
    for begin in range(0, len(truth), _FRAMES_AT_ONCE):
        block = slice(begin, begin + _FRAMES_AT_ONCE)
        wanted = seen(truth[block])  # once for all methods
        for name, video in frames.items():
            found[name].append(np.asarray(lpips_network.feature_distance(seen(video[block]), wanted)))
    return {name: np.concatenate(parts)[: len(truth)] for name, parts in found.items()}


def sharpness(frames: np.ndarray, truth: np.ndarray, cells: np.ndarray | None = None) -> float | None:
    """Gradient energy, as a share of the truth's: 1 is as much detail as there should be, 0 is one colour.

    The energy is the mean squared difference of neighbouring pixels' brightness. It says nothing about whether the
    detail is the right one.

    Args:
      frames, truth: uint8 `[T, H, W, 3]`.
      cells: bool `[T, h, w]`, which to look at; None is all.

    Returns:
      The share over all frames together; None where no cell is marked.
    """

    def energy(video: np.ndarray) -> np.ndarray:
        grey = video.astype(np.float32).mean(-1)
        right, down = (np.diff(grey, axis=axis, append=grey.take([-1], axis)) ** 2 for axis in (2, 1))
        return right + down

    shown, true = energy(frames), energy(truth)
    if cells is None:
        return float(shown.mean() / max(true.mean(), 1e-9))
    scale = truth.shape[1] // cells.shape[1], truth.shape[2] // cells.shape[2]
    mask = np.repeat(np.repeat(cells, scale[0], axis=1), scale[1], axis=2)
    return float(shown[mask].sum() / max(true[mask].sum(), 1e-9)) if mask.any() else None


def masked_psnr(a: np.ndarray, b: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """PSNR over the pixels of marked cells, per frame; NaN where a frame has none.

    Args:
      a, b: uint8 `[T, H, W, 3]`.
      cells: bool `[T, h, w]`.
    """
    scale = a.shape[1] // cells.shape[1], a.shape[2] // cells.shape[2]
    mask = np.repeat(np.repeat(cells, scale[0], axis=1), scale[1], axis=2)[..., None]
    error = (a.astype(np.float64) - b.astype(np.float64)) ** 2
    count = mask.sum((1, 2, 3)) * 3
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = (error * mask).sum((1, 2, 3)) / count
        return np.where(count > 0, 10 * np.log10(255.0**2 / np.maximum(mean, 1e-10)), np.nan)


def _as_float(a: chex.Array, b: chex.Array) -> tuple[jax.Array, jax.Array]:
    chex.assert_rank([a, b], 4)
    chex.assert_equal_shape([a, b])
    return jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)


def _window_mean(x: jax.Array) -> jax.Array:
    """`[T, H, W, 3]` -> `[T, H-6, W-6, 3]`: the mean over each whole window, rows first, then columns."""
    rows = lax.reduce_window(x, 0.0, lax.add, (1, _SSIM_WINDOW, 1, 1), (1, 1, 1, 1), "VALID")
    return lax.reduce_window(rows, 0.0, lax.add, (1, 1, _SSIM_WINDOW, 1), (1, 1, 1, 1), "VALID") / _SSIM_WINDOW**2

"""Depth of one picture: Depth Anything V2 (Yang et al. 2024), a DINOv2 backbone with a DPT neck and head.

Relative heads give inverse depth up to a scale and a shift, metric heads give metres. The whole picture is always seen:
it is stretched to sides that patches divide, never cropped, and the map is brought back to the grid of the picture, so
that its camera holds for the map as it is.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mirage_jax.errors import UserError
from mirage_jax.models.nn.attention import attention

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the colours the backbone was trained on."""

SKY_INVERSE = 0.01
"""A relative head calls sky what has less than this share of the largest inverse depth of its picture."""

SKY_SATURATION = 0.95
"""A metric head calls sky what lies beyond this share of the largest depth it can say."""


@dataclasses.dataclass(frozen=True)
class DepthAnythingConfig:
    """Sizes of a depth network.

    Attributes:
      dim, layers, heads: of the backbone.
      taken: the four layers (from 1) whose tokens the neck reads.
      neck: channels of these four maps.
      fusion: channels in which the maps are joined.
      max_depth: metres a metric head reaches (released: 20 indoors, 80 outdoors); None: a relative head.
      short_side: pixels to which the shorter side of a picture is brought.
      positions: side of the square table of learned positions.
      patch: pixels of a side of a patch.
      head_dim: channels of the last hidden layer.
    """

    dim: int
    layers: int
    heads: int
    taken: tuple[int, int, int, int]
    neck: tuple[int, int, int, int]
    fusion: int
    max_depth: float | None = None
    short_side: int = 518
    positions: int = 37
    patch: int = 14
    head_dim: int = 32

    def __post_init__(self):
        if self.dim % self.heads or not all(1 <= layer <= self.layers for layer in self.taken):
            raise UserError(
                f"depth config: {self.heads} heads must divide dim {self.dim}, and layers taken {list(self.taken)} be "
                f"within 1..{self.layers}"
            )

    @property
    def metric(self) -> bool:
        """Whether the head gives metres."""
        return self.max_depth is not None


SMALL = DepthAnythingConfig(384, 12, 6, (3, 6, 9, 12), (48, 96, 192, 384), 64)
BASE = DepthAnythingConfig(768, 12, 12, (3, 6, 9, 12), (96, 192, 384, 768), 128)
LARGE = DepthAnythingConfig(1024, 24, 16, (5, 12, 18, 24), (256, 512, 1024, 1024), 256)

PRESETS: dict[str, DepthAnythingConfig] = {
    f"{size}_{kind}": dataclasses.replace(config, max_depth=max_depth)
    for size, config in (("small", SMALL), ("base", BASE), ("large", LARGE))
    for kind, max_depth in (("relative", None), ("indoor", 20.0), ("outdoor", 80.0))
}
"""The released networks: 'small', 'base', 'large', each 'relative', 'indoor' (20 m) and 'outdoor' (80 m)."""


def predict(config: DepthAnythingConfig, params: Any, image: chex.Array) -> jax.Array:
    """What the network says of a picture, on the picture's own grid.

    Args:
      config: sizes.
      params: the 'depth' part of a model.
      image: `[H, W, 3]`, uint8 or in [0, 1].

    Returns:
      float32 `[H, W]`: inverse depth >= 0 up to scale and shift, or metres in 0..max_depth.
    """
    height, width = image.shape[:2]
    prepared = prepare(config, image)
    out = DepthAnything(config).apply({"params": params}, prepared)
    return resize_linear(out[..., None], height, width, corners=False)[..., 0]


def predict_depth(config: DepthAnythingConfig, params: Any, image: chex.Array) -> jax.Array:
    """`predict` as depth `[H, W]`, inf at the sky: metres, or for a relative head `1 / inverse` in units of its own."""
    out = predict(config, params, image)
    if config.metric:
        return jnp.where(out >= SKY_SATURATION * config.max_depth, jnp.inf, out)
    sky = out <= SKY_INVERSE * jnp.max(out)
    return jnp.where(sky, jnp.inf, 1.0 / jnp.where(sky, 1.0, out))


def prepare(config: DepthAnythingConfig, image: chex.Array) -> jax.Array:
    """The whole picture in [0, 1] at the size the network looks at it, `prepared_size`: stretched, not cropped."""
    chex.assert_shape(image, (None, None, 3))
    wide = jnp.asarray(image, jnp.float32) / (255.0 if image.dtype == jnp.uint8 else 1.0)
    size = prepared_size(config, *image.shape[:2])
    if size == tuple(image.shape[:2]):
        return wide
    return jnp.clip(jax.image.resize(wide, (*size, 3), "cubic", antialias=True), 0.0, 1.0)


def prepared_size(config: DepthAnythingConfig, height: int, width: int) -> tuple[int, int]:
    """Rows and columns nearest to the picture's shape with `short_side` pixels that patches divide."""
    scale = config.short_side / min(height, width)
    rows, columns = (max(1, round(side * scale / config.patch)) * config.patch for side in (height, width))
    return rows, columns


class DepthAnything(nn.Module):
    """A prepared picture to its map."""

    config: DepthAnythingConfig

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """`[H, W, 3]` in [0, 1], sides multiples of the patch -> `[H, W]`, as in `predict`.

        Raises `ValueError` if patches do not divide a side.
        """
        config = self.config
        height, width = image.shape[:2]
        if height % config.patch or width % config.patch:
            raise ValueError(f"picture of {height}x{width} pixels: sides must be multiples of {config.patch}")
        tokens = Backbone(config, name="backbone")((image - jnp.array(MEAN)) / jnp.array(DEVIATION))
        x = Neck(config, name="neck")(tokens)
        x = _conv(config.fusion // 2, "head_in")(x)
        x = resize_linear(x, height, width, corners=True)
        x = nn.relu(_conv(config.head_dim, "head_hidden")(x))
        x = _conv(1, "head_out", size=1)(x)[..., 0]
        return nn.relu(x) if config.max_depth is None else nn.sigmoid(x) * config.max_depth


class Backbone(nn.Module):
    """DINOv2 (Oquab et al. 2023)."""

    config: DepthAnythingConfig

    @nn.compact
    def __call__(self, image: jax.Array) -> list[jax.Array]:
        """Normalised `[H, W, 3]` -> the maps `[H / patch, W / patch, dim]` of the four layers taken."""
        config = self.config
        patch = (config.patch, config.patch)
        patches = nn.Conv(config.dim, patch, strides=patch, padding="VALID", name="patch_embedding")(image)
        rows, columns = patches.shape[:2]
        normal = nn.initializers.normal(0.02)
        first = self.param("class_token", normal, (1, config.dim))
        # For training only; kept so that a checkpoint goes out as it came in.
        self.param("mask_token", nn.initializers.zeros, (1, config.dim))
        positions = self.param("positions", normal, (config.positions**2 + 1, config.dim))
        table = positions[1:].reshape(config.positions, config.positions, config.dim)
        x = (patches + resize_cubic(table, rows, columns)).reshape(-1, config.dim)
        x = jnp.concatenate([first + positions[:1], x])
        norm = _norm("norm")
        taken = {}
        for layer in range(config.layers):
            x = _Layer(config, name=f"blocks_{layer}")(x)
            if layer + 1 in config.taken:
                taken[layer + 1] = norm(x)[1:].reshape(rows, columns, config.dim)
        return [taken[layer] for layer in config.taken]


class _Layer(nn.Module):
    config: DepthAnythingConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        config = self.config
        ones = nn.initializers.ones

        inner = _norm("norm1")(x)
        query, key, value = (nn.Dense(config.dim, name=name)(inner).reshape(len(x), config.heads, -1) for name in "qkv")
        y = nn.Dense(config.dim, name="o")(attention(query, key, value).reshape(x.shape))
        x = x + y * self.param("scale1", ones, (config.dim,))

        y = nn.gelu(nn.Dense(4 * config.dim, name="up")(_norm("norm2")(x)), approximate=False)
        return x + nn.Dense(config.dim, name="down")(y) * self.param("scale2", ones, (config.dim,))


class Neck(nn.Module):
    """DPT (Ranftl et al. 2021): maps of four layers at 4, 2, 1 and 1/2 times the patch grid, joined coarse to fine."""

    config: DepthAnythingConfig

    @nn.compact
    def __call__(self, maps: list[jax.Array]) -> jax.Array:
        """Four `[h, w, dim]` -> `[8 h, 8 w, fusion]`."""
        config = self.config
        levels = []
        for i, (x, channels, factor) in enumerate(zip(maps, config.neck, (4, 2, 1, None), strict=True)):
            x = _conv(channels, f"project_{i}", size=1)(x)
            if factor is None:
                x = _conv(channels, f"resize_{i}", stride=2)(x)
            elif factor > 1:
                x = _Enlarge(factor, name=f"resize_{i}")(x)
            levels.append(_conv(config.fusion, f"level_{i}", bias=False)(x))

        fused = None
        for i, level in enumerate(reversed(levels)):
            skip = _Residual(name=f"fuse_{i}_skip")
            # The first has nothing to join, but checkpoints hold its weights.
            added = skip(level if fused is not None else jnp.zeros((1, 1, config.fusion)))
            x = level if fused is None else fused + added
            x = _Residual(name=f"fuse_{i}_out")(x)
            rows, columns = levels[-2 - i].shape[:2] if i + 1 < len(levels) else (2 * x.shape[0], 2 * x.shape[1])
            fused = _conv(config.fusion, f"fuse_{i}_project", size=1)(resize_linear(x, rows, columns, corners=True))
        return fused


class _Residual(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = _conv(x.shape[-1], "first")(nn.relu(x))
        return x + _conv(x.shape[-1], "second")(nn.relu(y))


class _Enlarge(nn.Module):
    """A transposed convolution whose stride is its size: every cell becomes `factor x factor` of its own."""

    factor: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        factor, (rows, columns, channels) = self.factor, x.shape
        init = nn.initializers.lecun_normal()
        kernel = self.param("kernel", init, (factor, factor, channels, channels))
        y = jnp.einsum("hwi,abio->hawbo", x, kernel).reshape(rows * factor, columns * factor, channels)
        return y + self.param("bias", nn.initializers.zeros, (channels,))


def _conv(channels: int, name: str, *, size: int = 3, stride: int = 1, bias: bool = True) -> nn.Conv:
    padding = size // 2  # on both sides also where the stride is 2
    return nn.Conv(channels, (size, size), strides=stride, padding=padding, use_bias=bias, name=name)


def _norm(name: str) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=1e-6, use_fast_variance=False, name=name)


def resize_cubic(grid: chex.Array, rows: int, columns: int) -> jax.Array:
    """Bicubic with the kernel of PyTorch (a = -0.75, edges repeated), `[h, w, C]` -> `[rows, columns, C]`."""
    return _separable(grid, _cubic(grid.shape[0], rows), _cubic(grid.shape[1], columns))


def resize_linear(grid: chex.Array, rows: int, columns: int, *, corners: bool) -> jax.Array:
    """Bilinear `[h, w, C]` -> `[rows, columns, C]`, edges repeated, no low-pass.

    Args:
      grid: values.
      rows, columns: of the result.
      corners: whether the centres of the corner cells coincide, or the outer edges do.
    """
    return _separable(grid, _linear(grid.shape[0], rows, corners), _linear(grid.shape[1], columns, corners))


def _separable(grid: chex.Array, down: np.ndarray, across: np.ndarray) -> jax.Array:
    exact = jax.lax.Precision.HIGHEST
    return jnp.einsum("ij,jkc,lk->ilc", down, grid, across, precision=exact)


def _cubic(old: int, new: int) -> np.ndarray:
    position = (np.arange(new) + 0.5) * (old / new) - 0.5
    before = np.floor(position).astype(int)
    a, weights = -0.75, np.zeros((new, old))
    for tap in range(-1, 3):
        x = np.abs(position - (before + tap))
        inner, outer = ((a + 2) * x - (a + 3)) * x * x + 1, ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        np.add.at(weights, (np.arange(new), np.clip(before + tap, 0, old - 1)), np.where(x <= 1, inner, outer))
    return weights.astype(np.float32)


def _linear(old: int, new: int, corners: bool) -> np.ndarray:
    aligned, plain = np.arange(new) * ((old - 1) / max(1, new - 1)), (np.arange(new) + 0.5) * (old / new) - 0.5
    position = np.clip(aligned if corners else plain, 0, old - 1)
    return np.maximum(0.0, 1.0 - np.abs(position[:, None] - np.arange(old))).astype(np.float32)

"""LPIPS, version 0.1, with an AlexNet or VGG16 backbone: the networks, and the weights of the first.

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", 2018, eq. 1. Five layers of a
network for recognition see both images; the squared difference of their unit-normalised features is weighted by
channel, averaged over space and summed over layers. The weights of AlexNet ship with us; NOTICE says whose they are;
their kernels are rounded to float16. Those of VGG16 are too large for that: they are given.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import safetensors.numpy
from jax import lax

import mirage_jax
from mirage_jax.errors import UserError

ASSET = Path(mirage_jax.__file__).parent / "assets" / "lpips_alex.safetensors"
ASSET_SHA256 = "fdead4ac76b9fde890137c9f97a825c199e378fcfa37dc779caa6bbb30b81f20"

# name: (stride, padding, window of the max-pool before it or 0); the layers that have a `head` are compared
ALEX = {"conv1": (4, 2, 0), "conv2": (1, 2, 3), "conv3": (1, 1, 3), "conv4": (1, 1, 0), "conv5": (1, 1, 0)}
VGG = {
    f"conv{stage}_{layer}": (1, 1, 2 if layer == 1 and stage > 1 else 0)
    for stage, layers in enumerate((2, 2, 3, 3, 3), 1)
    for layer in range(1, layers + 1)
}
MINIMUM_SIZE = 31  # below it nothing is left after the second pooling of AlexNet

_SHIFT = (-0.030, -0.088, -0.188)  # of images in [-1, 1]
_SCALE = (0.458, 0.448, 0.450)
_FRAMES_AT_ONCE = 8  # bounds memory for long videos
_TINY = 1e-30

Features = tuple[jax.Array, ...]
"""One array a layer."""


@functools.cache
def load_parameters() -> Mapping[str, jax.Array]:
    """The shipped weights as float32.

    Returns:
      for each layer `NAME` of `ALEX`: `NAME.kernel` `[kh, kw, in, out]`, `NAME.bias` `[out]`, `NAME.head` `[out]`.

    Raises:
      UserError: if the file is missing or not the one that this version ships.
    """
    try:
        content = ASSET.read_bytes()
    except OSError as error:
        raise UserError(f"{ASSET}: cannot read the weights of LPIPS ({error.strerror})") from error
    found = hashlib.sha256(content).hexdigest()
    if found != ASSET_SHA256:
        raise UserError(f"{ASSET}: damaged weights of LPIPS, found sha256 {found}, expected {ASSET_SHA256}")
    return {name: jnp.asarray(value, jnp.float32) for name, value in safetensors.numpy.load(content).items()}


@jax.jit
def distance(parameters: Mapping[str, chex.Array], a: chex.Array, b: chex.Array) -> jax.Array:
    """Perceptual distance of each frame of `a` to the same frame of `b`.

    Args:
      parameters: as `load_parameters` returns them, or of `VGG` by the same names.
      a, b: `[T, H, W, 3]` float32 in 0..255.

    Returns:
      `[T]` float32, 0 for equal frames.

    Raises:
      ValueError: if the frames are smaller than `MINIMUM_SIZE` on a side.
    """
    chex.assert_equal_shape([a, b])
    return feature_distance(features(parameters, a), features(parameters, b))


@jax.jit
def features(parameters: Mapping[str, chex.Array], frames: chex.Array) -> Features:
    """What the distance compares, so that a frame compared with several others is seen once.

    Args:
      parameters: as `load_parameters` returns them.
      frames: `[T, H, W, 3]` float32 in 0..255.

    Returns:
      for each layer `[T, h, w, c]` float32: unit-normalised, times the square root of the channels' weights.

    Raises:
      ValueError: if the frames are smaller than `MINIMUM_SIZE` on a side.
    """
    chex.assert_shape(frames, (*frames.shape[:3], 3))
    if min(frames.shape[1:3]) < MINIMUM_SIZE:
        raise ValueError(f"LPIPS needs frames of at least 31x31, got {frames.shape[1]}x{frames.shape[2]}")
    batch = min(_FRAMES_AT_ONCE, len(frames))
    return lax.map(lambda frame: _frame_features(parameters, frame), frames, batch_size=batch)


@jax.jit
def feature_distance(a: Features, b: Features) -> jax.Array:
    """The distance of frames by their `features`: `[T]` float32."""
    layers = [jnp.mean(((x - y) ** 2).sum(-1), axis=(1, 2)) for x, y in zip(a, b, strict=True)]
    return jnp.stack(layers).sum(0)


def _frame_features(parameters: Mapping[str, chex.Array], frame: jax.Array) -> Features:
    """`[H, W, 3]` -> for each layer that is compared `[h, w, c]`."""
    x = (frame[None] / 127.5 - 1 - jnp.array(_SHIFT)) / jnp.array(_SCALE)
    found = []
    for name, (stride, padding, pooled) in (VGG if "conv1_1.kernel" in parameters else ALEX).items():
        if pooled:
            x = lax.reduce_window(x, -jnp.inf, lax.max, (1, pooled, pooled, 1), (1, 2, 2, 1), "VALID")
        kernel = parameters[f"{name}.kernel"]
        x = lax.conv_general_dilated(
            x, kernel, (stride, stride), [(padding, padding)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.nn.relu(x + parameters[f"{name}.bias"])
        if f"{name}.head" not in parameters:
            continue
        # The square root inside has no gradient at a pixel where every channel is 0: the small number is below it.
        length = jnp.sqrt(jnp.sum(x**2, axis=-1, keepdims=True) + _TINY)
        found.append((x / (length + 1e-10) * jnp.sqrt(parameters[f"{name}.head"]))[0])
    return tuple(found)

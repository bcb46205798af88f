"""The state of a running world: one immutable pytree, which can be saved, forked, replayed, vmapped and sharded."""

from __future__ import annotations

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import struct

from mirage_jax import geometry
from mirage_jax.errors import UserError
from mirage_jax.geometry import Camera
from mirage_jax.memory import latent, resample, rgb
from mirage_jax.memory.latent import LatentMemory
from mirage_jax.models import depth_anything, heads, vae, vae_tiling
from mirage_jax.world import pixels as world_pixels
from mirage_jax.world import reference
from mirage_jax.world.config import WorldConfig

FIRST_DEPTH = 5.0
"""Metres of the median depth of a first image that only a relative depth network has seen; the unit of its world."""


@struct.dataclass
class RolloutState:
    """Everything that a world is between two segments.

    Attributes:
      memory: what has been seen, in 3D.
      decoder: cache of the VAE decoder, so that segments join without a seam; None where each is a clip of its own.
      context: `[P + 1, h, w, C]` the latest clean latents; the last one is where the next segment begins.
      context_cameras: `Camera[P + 1]` on the latent grid.
      context_valid: bool `[P + 1]`; False before the video has that many frames.
      bank: earlier latent frames, to choose references from.
      key: random key of the next segment.
      segments: int32 `[]`, segments made so far.
    """

    memory: LatentMemory
    decoder: Any
    context: chex.Array
    context_cameras: Camera
    context_valid: chex.Array
    bank: reference.Bank
    key: chex.PRNGKey
    segments: chex.Array


@struct.dataclass
class Scene:
    """What is seen in latent frames, `[T, h, w]` each.

    Attributes:
      depth: metres.
      keep: bool, static and not sky.
      sky: bool.
    """

    depth: chex.Array
    keep: chex.Array
    sky: chex.Array


def init(
    config: WorldConfig,
    params: Any,
    image: chex.Array,
    depth: chex.Array | None,
    camera: Camera,
    key: chex.PRNGKey,
) -> RolloutState:
    """A world that has seen one image.

    Args:
      config: the static sizes.
      params: of all parts of the model.
      image: uint8 `[H, W, 3]`.
      depth: `[H, W]` metres, inf at the sky, 0 where unknown; None asks the model (`WorldConfig.depth_source`).
      camera: one camera on the `H x W` grid.
      key: decides everything random that follows.

    Raises:
      UserError: if the image, depth or camera has another size than the model, or depth is None and nobody to ask.
    """
    cameras = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32)[None], camera)
    return observe(config, params, jnp.asarray(image)[None], None if depth is None else depth[None], cameras, key)


def observe(
    config: WorldConfig,
    params: Any,
    frames: chex.Array,
    depth: chex.Array | None,
    cameras: Camera,
    key: chex.PRNGKey,
    dynamic: chex.Array | None = None,
) -> RolloutState:
    """A world that has seen a posed video; the next segment goes on from its last frame.

    Args:
      config, params, key: as in `init`.
      frames: uint8 `[T, H, W, 3]`, `T = r k + 1`.
      depth: `[T, H, W]` as in `init`, or None.
      cameras: `Camera[T]` on the `H x W` grid.
      dynamic: bool `[T, H, W]`, what moves and is not to be remembered; None asks the keep head, if there is one.

    Raises:
      UserError: if sizes differ from the model's, `T` is not `r k + 1`, or depth is None and cannot be found out.
    """
    model = config.model
    size = (model.height, model.width)
    given = {"image": frames, "depth": depth, "dynamic mask": dynamic}
    found = {name: jnp.shape(value)[1:3] for name, value in given.items() if value is not None}
    for name, shape in (found | {"camera": (cameras.height, cameras.width)}).items():
        if tuple(shape) != size:
            raise UserError(f"{name} has size {tuple(shape)}, the model {model.name!r} works at {size}")
    model.vae.latent_frames(len(frames))
    if depth is None and config.depth_from == "given":
        raise UserError(f"model {model.name!r} does not guess depth here: the depth of the first view must be given")
    if depth is None and config.depth_from == "pixels" and not model.depth.metric and len(frames) > 1:
        raise UserError("a relative depth network cannot place several frames in one world: their depth must be given")
    depth = None if depth is None else jnp.asarray(depth, jnp.float32)
    return _observe(config, params, jnp.asarray(frames), depth, cameras, key, dynamic)


@functools.partial(jax.jit, static_argnums=0)
def _observe(config, params, frames, depth, cameras, key, dynamic) -> RolloutState:
    model = config.model
    pixels = frames.astype(jnp.float32) / 127.5 - 1.0
    latents, _ = vae.encode_stream(model.vae, params["vae"], pixels)
    carried = model.segment.overlap == "carry"
    decoder = decode_stream(config, params, latents)[1] if carried else None

    # A latent frame has the camera of its last pixel frame.
    pixels, shown = pixels[:: model.vae.stride_time], cameras[:: model.vae.stride_time]
    cells = shown.resized(*config.grid)
    depth, dynamic = (None if x is None else x[:: model.vae.stride_time] for x in (depth, dynamic))
    asked = depth is None and config.depth_from == "pixels"
    tokens = remembered(config, params, latents, pixels)
    scene = look(config, params, tokens, cells, pixels, depth, dynamic)
    if asked and not model.depth.metric:
        known = jnp.isfinite(scene.depth) & (scene.depth > 0)
        median = jnp.nanmedian(jnp.where(known, scene.depth, jnp.nan))
        scene = scene.replace(depth=scene.depth * jnp.where(known.any(), FIRST_DEPTH / median, 1.0))

    if config.memory == "rgb":
        dense = world_pixels.upsampled(scene.depth, *pixels.shape[1:3]) if depth is None else depth
        sky = world_pixels.upsampled(scene.sky, *dense.shape[1:])
        memory = rgb.create(config.capacity)
        memory = world_pixels.write(memory, pixels, dense, shown, scene.keep, sky, config.near)
    else:
        memory = latent.create(config.capacity, model.vae.latent_channels, config.token_dtype)
        if config.memory == "latent":
            memory = latent.write(memory, tokens, scene.depth, cells, scene.keep, scene.sky, near=config.near)

    past, seen = model.segment.preceding + 1, len(latents)
    recent = jnp.clip(jnp.arange(seen - past, seen), 0)
    context = latents[recent]
    if not carried and seen > 1:  # as in `segment`: the next clip begins at the last frame, encoded alone
        context = context.at[-1].set(encode(config, params, pixels[-1:])[0])
    bank = reference.create(config.bank, latents[0], cells[0])
    for i in range(seen):  # one at a time: a ring smaller than the video keeps the latest
        one = slice(i, i + 1)
        bank = reference.store(bank, latents[one], memorable_depth(scene)[one], cells[one])
    return RolloutState(
        memory=memory,
        decoder=decoder,
        context=context,
        context_cameras=cells[recent],
        context_valid=jnp.arange(seen - past, seen) >= 0,
        bank=bank,
        key=key,
        segments=jnp.zeros((), jnp.int32),
    )


def remembered(config: WorldConfig, params: Any, latents: chex.Array, frames: chex.Array) -> jax.Array:
    """The tokens by which a latent memory remembers latent frames, and heads see them (`SegmentConfig.token`).

    Args:
      config, params: of the world.
      latents: `[T, h, w, C]` normalised.
      frames: `[T, H, W, 3]` in [-1, 1], the pixel frames that they end at.
    """
    model = config.model
    if model.segment.token == "clip":
        return latents
    if not config.vae_tile:
        return vae.encode_still(model.vae, params["vae"], frames)
    return vae_tiling.encode_still(model.vae, params["vae"], frames, tile=config.vae_tile)


def encode(config: WorldConfig, params: Any, frames: chex.Array) -> jax.Array:
    """`vae.encode`, in tiles where the config says so."""
    if not config.vae_tile:
        return vae.encode(config.model.vae, params["vae"], frames)
    return vae_tiling.encode(config.model.vae, params["vae"], frames, tile=config.vae_tile)


def decode_stream(config: WorldConfig, params: Any, latents: chex.Array, cache: vae.Cache = None):
    """`vae.decode_stream`, in tiles where the config says so."""
    if not config.vae_tile:
        return vae.decode_stream(config.model.vae, params["vae"], latents, cache)
    return vae_tiling.decode_stream(config.model.vae, params["vae"], latents, cache, tile=config.vae_tile)


def decode(config: WorldConfig, params: Any, latents: chex.Array) -> jax.Array:
    """`vae.decode`, in tiles where the config says so."""
    if not config.vae_tile:
        return vae.decode(config.model.vae, params["vae"], latents)
    return vae_tiling.decode(config.model.vae, params["vae"], latents, tile=config.vae_tile)


def look(
    config: WorldConfig,
    params: Any,
    tokens: chex.Array,
    cameras: Camera,
    frames: chex.Array,
    depth: chex.Array | None = None,
    dynamic: chex.Array | None = None,
) -> Scene:
    """What is seen in latent frames; depth of a relative network is in units of its own.

    Args:
      config, params: of the world.
      tokens: `[T, h, w, C]`, of `remembered`.
      cameras: `Camera[T]` on the latent grid.
      frames: `[T, H, W, 3]` in [-1, 1], the pixel frames these cameras took.
      depth: `[T, H, W]` from outside, inf at the sky, 0 where unknown; None for what the depth source says.
      dynamic: bool `[T, H, W]`, what moves, to go with `depth`; None asks the keep head, if there is one.
    """
    model, still = config.model, True
    if model.heads is not None:
        out = heads.predict(model.heads, params["heads"], tokens, geometry.rays(cameras))
        keep, sky = heads.decide(out, config.moving_threshold)
        if depth is None and config.depth_from == "heads":
            return Scene(depth=out["depth"], keep=keep, sky=sky)
        still = keep | sky
    if depth is None:
        images = (frames + 1.0) / 2.0
        depth = jax.lax.map(lambda image: depth_anything.predict_depth(model.depth, params["depth"], image), images)
    elif dynamic is not None:
        still = ~resample.mask_to_grid(dynamic, *config.grid, least=0.25)
    known = resample.depth_to_grid(depth, *config.grid)
    return Scene(depth=known, keep=still & jnp.isfinite(known) & (known > 0), sky=jnp.isinf(known) & still)


def memorable_depth(scene: Scene) -> jax.Array:
    """Depth with inf at the sky and 0 where nothing is to be kept, as the reference bank wants it."""
    return jnp.where(scene.sky, jnp.inf, jnp.where(scene.keep, scene.depth, 0.0))

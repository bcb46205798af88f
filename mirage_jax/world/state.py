"""The state of a running world: one immutable pytree, which can be saved, forked, replayed, vmapped and sharded."""

from __future__ import annotations

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import AbstractMesh, Mesh, NamedSharding

from mirage_jax.errors import UserError
from mirage_jax.geometry import Camera
from mirage_jax.memory import kinds, merge, points
from mirage_jax.memory.kinds import Observation
from mirage_jax.memory.points import PointMemory, Readout
from mirage_jax.memory.things import entities
from mirage_jax.memory.things.entities import Entities
from mirage_jax.models import partition
from mirage_jax.models.vae import Cache
from mirage_jax.world import align, conditioning, reference
from mirage_jax.world.config import WorldConfig
from mirage_jax.world.frame_geometry import FrameGeometry, KnownGeometry, estimate_geometry

FIRST_DEPTH = 5.0
"""Metres of the median depth of a first image that only a relative depth network has seen; the unit of its world."""


ENTITY_SHARE = 2
"""A thing that moves has room for one in so many cells of a frame: what is near fills half of the picture."""


def entity_cells(height: int, width: int) -> int:
    """Cells of a thing that are remembered at most, on a grid of that size."""
    return max(height * width // ENTITY_SHARE, 1)


@struct.dataclass
class RolloutState:
    """Everything that a world is between two segments.

    Attributes:
      memory: what has been seen, in 3D.
      decoder: cache of the VAE decoder, the last two frames at each of its convolutions, so that segments join without
        a seam; None where each is a clip of its own.
      context: `[P + 1, h, w, C]` the latest clean latents; the last one is where the next segment begins.
      context_cameras: `Camera[P + 1]` on the latent grid.
      context_valid: bool `[P + 1]`; False before the video has that many frames.
      context_readout: `[P + 1, h, w, ..]` what the memory showed at these frames before they were written; None where
        the recipe looks again.
      bank: earlier latent frames, to choose references from.
      entities: things that move; None where the recipe forgets them.
      key: random key of the next segment.
      segments: int32 `[]`, segments made so far.
    """

    memory: PointMemory  # [N, ..]
    decoder: Cache  # by convolution, [2, .., .., C]
    context: chex.Array  # [P + 1, h, w, C]
    context_cameras: Camera  # [P + 1]
    context_valid: chex.Array  # [P + 1]
    context_readout: Readout | None  # [P + 1, h, w, ..]
    bank: reference.Bank  # [B, ..]
    entities: Entities | None  # [K, ..]
    key: chex.PRNGKey  # []
    segments: chex.Array  # []


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
      depth: `[T, H, W]` as in `init`, or None; guessed depth of later frames is brought to the scale of earlier ones.
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


def shardings(state: RolloutState, mesh: Mesh | AbstractMesh) -> RolloutState:
    """How a state lies on a mesh: points by `partition.WAN_RULES`, the decoder over space, all else whole."""
    found = partition.tree_shardings(partition.rules_for("memory"), state, mesh)
    specs = partition.space_specs(state.decoder, mesh)
    return found.replace(decoder=jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs))


def placed(state: RolloutState) -> RolloutState:
    """A state as it lies on the mesh in use, whatever made it, so that one program serves all segments."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return state
    return jax.tree.map(lambda x, s: jax.lax.with_sharding_constraint(x, s.spec), state, shardings(state, mesh))


@functools.partial(jax.jit, static_argnums=0)
def _observe(config, params, frames, depth, cameras, key, dynamic) -> RolloutState:
    model, memory_kind, time = config.model, kinds.of(config.memory), config.model.vae.stride_time
    pixels = frames.astype(jnp.float32) / 127.5 - 1.0
    latents, begin, decoder = config.codec.begin(params["vae"], pixels)

    # A latent frame has the camera and the geometry of its last pixel frame.
    pixels, frame_cameras = pixels[::time], cameras[::time]
    latent_cameras = frame_cameras.resized(*config.grid)
    known = None if depth is None else KnownGeometry(depth, None if dynamic is None else ~dynamic)[::time]
    scene = estimate_geometry(config, params, latents, latent_cameras, pixels, known)
    if known is None and config.depth_from == "pixels" and not model.depth.metric:
        there = jnp.isfinite(scene.depth) & (scene.depth > 0)
        median = jnp.nanmedian(jnp.where(there, scene.depth, jnp.nan))
        scene = scene.replace(depth=scene.depth * jnp.where(there.any(), FIRST_DEPTH / median, 1.0))

    observed = Observation(
        latents=latents,
        frames=pixels,
        depth=scene.depth,
        keep=scene.keep,
        sky=scene.sky,
        latent_cameras=latent_cameras,
        frame_cameras=frame_cameras,
        pixel_depth=None if known is None else known.depth,
    )
    memory = memory_kind.create(config.capacity, model.vae.latent_channels, config.token_dtype)
    if config.recipe.merge in merge.BY_DIRECTION:
        memory = points.with_directions(memory)
    if known is None and len(latents) > 1:
        memory, scene = _remember_in_turn(config, memory, observed, scene)
    else:
        memory = memory_kind.remember(memory, observed)

    past, seen = model.segment.preceding + 1, len(latents)
    recent = jnp.clip(jnp.arange(seen - past, seen), 0)
    bank = reference.create(config.bank, latents[0], latent_cameras[0])
    for i in range(seen):  # one at a time: a ring smaller than the video keeps the latest
        one = slice(i, i + 1)
        bank = reference.store(bank, latents[one], scene.memorable_depth()[one], latent_cameras[one])
    state = RolloutState(
        memory=memory,
        decoder=decoder,
        context=latents[recent].at[-1].set(begin),
        context_cameras=latent_cameras[recent],
        context_valid=jnp.arange(seen - past, seen) >= 0,
        context_readout=_nothing_shown(config, params, memory, latent_cameras) if _carries(config) else None,
        bank=bank,
        entities=_moving_things(config, memory, observed, scene) if config.remembers_moving else None,
        key=key,
        segments=jnp.zeros((), jnp.int32),
    )
    return placed(state)


def _remember_in_turn(
    config: WorldConfig, memory: PointMemory, observed: Observation, scene: FrameGeometry
) -> tuple[PointMemory, FrameGeometry]:
    """The memory with frames of guessed depth in it, each brought to the scale of those before it, and their geometry.

    Every guess is off by a factor of its own: written side by side, one wall would be many.
    """

    def one(memory: PointMemory, frame: tuple[Observation, FrameGeometry]) -> tuple[PointMemory, FrameGeometry]:
        seen, guess = jax.tree.map(lambda x: x[None], frame)
        shown = points.read(memory, seen.latent_cameras, max_footprint=config.recipe.footprint)
        aligned, _, _ = align.to_memory(config, guess, shown)
        seen = seen.replace(depth=aligned.depth, keep=aligned.keep, sky=aligned.sky)
        memory = kinds.of(config.memory).remember(memory, seen)
        return memory, jax.tree.map(lambda x: x[0], aligned)

    return jax.lax.scan(one, memory, (observed, scene))


def _moving_things(config: WorldConfig, memory: PointMemory, observed: Observation, scene: FrameGeometry) -> Entities:
    """What moves in the first frames."""
    height, width = config.grid
    none = entities.create(
        config.recipe.entities, entity_cells(height, width), config.model.vae.latent_channels, config.token_dtype
    )
    return entities.write(none, memory, observed.latents, scene.depth, observed.latent_cameras, scene.moving)


def _carries(config: WorldConfig) -> bool:
    """Whether the state carries what the memory showed at the context frames."""
    return config.conditions and config.recipe.preceding == "as_made"


def _nothing_shown(config: WorldConfig, params: Any, memory: PointMemory, cameras: Camera) -> Readout:
    """A readout `[P + 1, h, w, ..]` of an empty memory: observed frames were not made from one."""
    past = config.model.segment.preceding + 1
    some = lambda count: cameras[jnp.zeros(count, jnp.int32)]  # noqa: E731
    new = some(config.model.segment_frames).resized(config.model.height, config.model.width)

    def recall(memory: PointMemory) -> Readout:
        encode = functools.partial(config.codec.encode, params["vae"])
        views = conditioning.views(config.model, some(past), new)
        return kinds.of(config.memory).recall(memory, views, config.recipe.footprint, encode)

    return jax.tree.map(lambda x: jnp.zeros((past, *x.shape[1:]), x.dtype), jax.eval_shape(recall, memory))

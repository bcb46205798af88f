"""The stages of a segment, one function each: recall, denoise, decode, see, write. `segment` puts them together."""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import struct

from mirage_jax.diffusion import flow, samplers
from mirage_jax.geometry import Camera
from mirage_jax.memory import latent
from mirage_jax.memory.latent import LatentMemory, Readout
from mirage_jax.models import lora
from mirage_jax.models.generator import Generator
from mirage_jax.world import align, dynamic, held, pixels, reference
from mirage_jax.world import state as world_state
from mirage_jax.world.config import WorldConfig
from mirage_jax.world.control import concatenate, control_latents, look_up, ones_code
from mirage_jax.world.state import RolloutState, Scene


@struct.dataclass
class Given:
    """What is known of a segment's new frames from outside, for depth source 'given'.

    Attributes:
      depth: `[F, H, W]` metres, inf at the sky, 0 where unknown.
      keep: bool `[F, H, W]`, what stands still; None for all.
    """

    depth: chex.Array
    keep: chex.Array | None = None


@struct.dataclass
class Recalled:
    """What memory and reference bank give a segment.

    Attributes:
      readout: what the memory shows at the new latent frames' cameras, `[n, h, w, ..]`.
      control: `[1 + n + P, h, w, Cc]` of target and preceding frames; None without memory.
      references: `[R, h, w, C]` reference frames, or None.
      references_valid: bool `[R]`, or None.
    """

    readout: Readout
    control: chex.Array | None
    references: chex.Array | None
    references_valid: chex.Array | None


@struct.dataclass
class Seen:
    """What is seen in the new latent frames, in the memory's scale.

    Attributes:
      scene: `[n, h, w]`.
      aligned: how its depth was brought to that scale.
      trusted: bool `[n]`, frames that may be written.
    """

    scene: Scene
    aligned: align.Alignment
    trusted: chex.Array


@struct.dataclass
class Written:
    """The memory after a segment.

    Attributes:
      memory: with the new frames.
      scene: what of them may be remembered.
      moving: bool `[n, h, w]`, what the dynamic filter left out.
      remaining: int32 `[]`, points that the filter left of the memory before.
    """

    memory: LatentMemory
    scene: Scene
    moving: chex.Array
    remaining: chex.Array


def recall(config: WorldConfig, params: Any, state: RolloutState, cameras: Camera, cells: Camera) -> Recalled:
    """Reads the memory, and chooses references.

    Args:
      config, params, state: as in `segment`.
      cameras: `Camera[F]` at pixel resolution, of the new frames.
      cells: `Camera[n]` on the latent grid, of the new latent frames.
    """
    layout, count = config.model.segment, config.model.segment.latents
    readout = read(config, params, state, cameras)
    new = jax.tree.map(lambda x: x[1 : 1 + count], readout)
    references, references_valid = None, None
    if layout.reference and config.memory != "none":  # retrieved by geometry: a kind of memory
        slots = jnp.arange(config.bank)
        recent = (state.bank.count - 1 - slots) % config.bank <= layout.preceding  # given as context already
        references, references_valid = reference.select(
            state.bank, cells, new.depth, recent, min(layout.reference, config.bank)
        )
    control = None
    if config.memory != "none":
        control = control_latents(layout.control, readout, ones(config, params) if "ones" in layout.control else None)
    return Recalled(readout=new, control=control, references=references, references_valid=references_valid)


def denoise(
    config: WorldConfig,
    params: Any,
    state: RolloutState,
    recalled: Recalled,
    text: chex.Array | None,
    key: chex.PRNGKey,
) -> jax.Array:
    """The new latents `[n, h, w, C]`."""
    control = recalled.control
    model = config.model
    count = model.segment.latents
    generator = Generator(model.dit, model.side if control is not None else None)
    weights = {"dit": dit_weights(config, params)}
    if control is not None:
        weights["side"] = params["side"]
    known = jnp.concatenate([state.context[-1:], jnp.zeros((count, *state.context.shape[1:]))])
    clean = jnp.arange(1 + count) == 0

    def predict(noisy, sigma, timestep):
        sigmas = flow.frame_sigmas(sigma, clean)
        output = generator.apply(
            {"params": weights},
            noisy,
            flow.frame_sigmas(timestep, clean),
            preceding=state.context[:-1],
            preceding_valid=state.context_valid[:-1],
            reference=recalled.references,
            reference_valid=recalled.references_valid,
            control=control,
            text=text,
        )
        return flow.sample_from_output(output, noisy, sigmas, model.dit.prediction)

    noise = jax.random.normal(key, known.shape)
    grid = "wan" if model.segment.overlap == "reencode" else "diffusers"
    schedule = samplers.SCHEDULES[grid](config.sampling_steps)
    return samplers.unipc(predict, noise, schedule, known=known, clean=clean)[1:]


def decode(config: WorldConfig, params: Any, state: RolloutState, latents: chex.Array) -> tuple[jax.Array, Any]:
    """The new frames `[F, H, W, 3]` in [-1, 1], and the decoder's cache, if it is carried."""
    if config.model.segment.overlap == "carry":
        return world_state.decode_stream(config, params, latents, state.decoder)
    # The segment is a clip of its own, which starts at the overlap.
    return world_state.decode(config, params, jnp.concatenate([state.context[-1:], latents]))[1:], None


def see(
    config: WorldConfig,
    params: Any,
    tokens: chex.Array,
    cells: Camera,
    shown: chex.Array,
    given: Given | None,
    readout: Readout,
) -> Seen:
    """What is seen in new latent frames, in the memory's scale.

    Args:
      config, params: of the world.
      tokens: `[n, h, w, C]`, of `state.remembered`.
      cells: `Camera[n]` on the latent grid.
      shown: `[n, H, W, 3]` in [-1, 1], the frames these cameras took.
      given: of all new frames, for depth source 'given'.
      readout: of `recall`.
    """
    time = config.model.vae.stride_time
    known = None if given is None else given.depth[time - 1 :: time]
    moves = None if given is None or given.keep is None else ~given.keep[time - 1 :: time]
    scene = world_state.look(config, params, tokens, cells, shown, known, moves)
    scene, aligned, trusted = _aligned(config, scene, readout)
    return Seen(scene=scene, aligned=aligned, trusted=trusted)


def write(
    config: WorldConfig,
    memory: LatentMemory,
    seen: Seen,
    latents: chex.Array,
    tokens: chex.Array,
    shown: chex.Array,
    cells: Camera,
    at: Camera,
    readout: Readout,
) -> Written:
    """Adds what is static and valid to the memory.

    Args:
      config, tokens, shown, cells, readout: as in `see`.
      memory: before the segment.
      seen: of `see`.
      latents: `[n, h, w, C]`.
      at: `Camera[n]` at pixel resolution, of `shown`.
    """
    scene, moving = seen.scene, jnp.zeros_like(seen.scene.keep)
    if config.dynamic_filter:
        features = latents if config.memory == "rgb" else tokens  # as the memory shows them
        moving = scene.keep & dynamic.intruding(features, scene.depth, readout)
        sound = jnp.where(seen.trusted[:, None, None], scene.depth, 0.0)
        memory = latent.retire(memory, dynamic.seen_through(memory, sound, cells, near=config.near))
        scene = scene.replace(keep=scene.keep & ~moving)
    remaining = memory.size
    keep, sky = scene.keep, scene.sky
    if config.writes == "new":
        known = held.held(scene.depth, sky, readout)
        keep, sky = keep & ~known, sky & ~known
    if config.memory == "latent":
        memory = latent.write(memory, tokens, scene.depth, cells, keep, sky, near=config.near)
    elif config.memory == "rgb":
        memory = pixels.write(memory, shown, scene.depth, at, keep, sky, config.near)
    return Written(memory=memory, scene=scene, moving=moving, remaining=remaining)


def read(config: WorldConfig, params: Any, state: RolloutState, cameras: Camera) -> Readout:
    """The readout at the latent frames of target and preceding, `[T + P, h, w, ..]`."""
    layout = config.model.segment
    overlap, preceding = state.context_cameras[-1:], state.context_cameras[:-1]
    if config.memory != "rgb":
        new = cameras.resized(*config.grid)
        return look_up(state.memory, config.model, overlap, new, preceding, near=config.near)
    overlap = overlap.resized(cameras.height, cameras.width)
    readout, _ = pixels.read(
        config.model, params, state.memory, concatenate(overlap, cameras), layout.footprint, config.near
    )
    # Rendered video covers the target; the preceding frames, given clean anyway, get no readout.
    return jax.tree.map(lambda x: jnp.pad(x, [(0, layout.preceding), *[(0, 0)] * (x.ndim - 1)]), readout)


def ones(config: WorldConfig, params: Any) -> jax.Array:
    """The constant control channels, prepared or computed."""
    return params["ones"] if "ones" in params else ones_code(config.model, params, config.vae_tile)


def dit_weights(config: WorldConfig, params: Any) -> Any:
    """The DiT as it is run: without memory the backbone, else with the LoRA that goes with the side branch."""
    if config.memory == "none" or "lora" not in params:
        return params["dit"]
    return lora.merge(params["dit"], params["lora"], config.model.lora.alpha)


def _aligned(config: WorldConfig, scene: Scene, readout: Readout) -> tuple[Scene, align.Alignment, jax.Array]:
    """The scene in the memory's scale, how it was brought there, and bool `[n]`: frames that may be written.

    A relative network has a scale and a shift of its own in every frame, and without them its depth says nothing.
    Metric depth stands for itself where the memory shows too little to compare. The heads, which were trained
    together with the model, are never refused.
    """
    if config.depth_from == "pixels" and not config.model.depth.metric:
        one = lambda depth, shown: align.align_inverse(depth[None], jax.tree.map(lambda x: x[None], shown))  # noqa: E731
        aligned = jax.vmap(one)(scene.depth, readout)
        depth, trusted = aligned.depth[:, 0], aligned.ok
    else:
        aligned = align.align_scale(scene.depth, readout)
        depth, trusted = aligned.depth, aligned.ok | ~aligned.enough | (config.depth_from == "heads")
    if config.bend and config.depth_from != "given":
        depth = align.bend(depth, readout)
    trusted = jnp.broadcast_to(trusted, len(depth))
    kept, sky = (mask & trusted[:, None, None] for mask in (scene.keep, scene.sky))
    return Scene(depth=depth, keep=kept & (depth > 0), sky=sky), aligned, trusted

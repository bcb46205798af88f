"""One segment of a world: read the memory, denoise, decode, look, write; and the scan over segments."""

from __future__ import annotations

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import struct

from mirage_jax.diffusion import flow, samplers
from mirage_jax.errors import UserError
from mirage_jax.geometry import Camera
from mirage_jax.memory import latent
from mirage_jax.memory.latent import Readout
from mirage_jax.models import lora, vae
from mirage_jax.models.generator import Generator
from mirage_jax.world import align, dynamic, pixels, reference
from mirage_jax.world.config import WorldConfig
from mirage_jax.world.control import control_latents, ones_code
from mirage_jax.world.state import RolloutState, Scene, decode, decode_stream, look, memorable_depth


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
class Diagnostics:
    """How a segment went.

    Attributes:
      visible: `[n]` share of cells of each new latent frame that the memory showed before the segment was made.
      points: int32 `[]` points the segment added.
      overflow: int32 `[]` points without room, over the whole rollout.
      depth_scale: `[]` factor that brought the new depth (for a relative network, its inverse) to the memory's scale;
        the mean over frames where every frame has its own.
      depth_shift: `[]` what was added to the inverse depth of a relative network, 1 / metres, in the mean; else 0.
      depth_residual: `[]` median absolute log-ratio to the memory's depth that remained (of the worst frame).
      compared: int32 `[]` cells in which new depth and the memory could be compared.
      refused: `[]` share of frames of which nothing was written, because their depth does not fit the memory.
      kept: `[]` share of new cells that were static and not sky.
      moving: `[]` share of new cells that the dynamic filter left out.
      retired: int32 `[]` points the dynamic filter took out of the memory.
      references: int32 `[]` reference frames used.
    """

    visible: chex.Array
    points: chex.Array
    overflow: chex.Array
    depth_scale: chex.Array
    depth_shift: chex.Array
    depth_residual: chex.Array
    compared: chex.Array
    refused: chex.Array
    kept: chex.Array
    moving: chex.Array
    retired: chex.Array
    references: chex.Array


@struct.dataclass
class SegmentOutput:
    """What a segment gives.

    Attributes:
      frames: uint8 `[F, H, W, 3]`, the new frames.
      latents: `[n, h, w, C]`, their latents.
      readout: what the memory showed at the new latent frames' cameras, `[n, h, w, ..]`.
      diagnostics: how it went.
    """

    frames: chex.Array
    latents: chex.Array
    readout: Readout
    diagnostics: Diagnostics


def prepare(config: WorldConfig, params: Any) -> Any:
    """Parameters with everything done that `segment` would otherwise do again every time; the result is the same.

    LoRA is merged into the DiT (for memory 'none', left out with the side branch), and the constant control channels
    are computed. Not differentiable in the LoRA's parts any more.
    """
    prepared = {name: value for name, value in params.items() if name not in ("dit", "side", "lora")}
    prepared["dit"] = _dit_weights(config, params)
    if config.memory != "none":
        prepared["side"] = params["side"]
        if "ones" in config.model.segment.control:
            prepared["ones"] = _ones(config, params)
    return prepared


def segment(
    config: WorldConfig,
    params: Any,
    state: RolloutState,
    cameras: Camera,
    text: chex.Array | None = None,
    given: Given | None = None,
):
    """Generates one segment.

    Args:
      config: the static sizes.
      params: of all parts of the model that a segment runs, or what `prepare` made of them.
      state: the world so far.
      cameras: `Camera[F]` at pixel resolution, of the `F` new frames.
      text: `[text_tokens, text_dim]` embedded prompt, for a model with text (and only for such a model).
      given: depth and masks of the new frames, for depth source 'given' (and only for it).

    Returns:
      The next state, and a `SegmentOutput`.

    Raises:
      UserError: if the number or size of the cameras, the text, or what is given, does not fit the model.
    """
    _check_cameras(config, cameras, 1)
    _check_text(config, text, ())
    _check_given(config, given, ())
    return _compiled_segment(config, params, state, cameras, text, given)


def rollout(
    config: WorldConfig,
    params: Any,
    state: RolloutState,
    cameras: Camera,
    text: chex.Array | None = None,
    given: Given | None = None,
):
    """Generates `S` segments in one compiled `lax.scan`.

    Args:
      config, params, state: as in `segment`.
      cameras: `Camera[S, F]` at pixel resolution.
      text: `[S, text_tokens, text_dim]`, a prompt for each segment.
      given: as in `segment`, with a leading axis `S`.

    Returns:
      The last state, and a `SegmentOutput` with a leading axis `S`.

    Raises:
      UserError: as in `segment`.
    """
    _check_cameras(config, cameras, 2)
    _check_text(config, text, (len(cameras),))
    _check_given(config, given, (len(cameras),))
    return _compiled_rollout(config, params, state, cameras, text, given)


@functools.partial(jax.jit, static_argnums=0)
def _compiled_segment(config, params, state, cameras, text=None, given=None):
    return _segment(config, params, state, cameras, text, given)


@functools.partial(jax.jit, static_argnums=0)
def _compiled_rollout(config, params, state, cameras, text=None, given=None):
    return jax.lax.scan(lambda state, xs: _segment(config, params, state, *xs), state, (cameras, text, given))


def _segment(
    config: WorldConfig,
    params: Any,
    state: RolloutState,
    cameras: Camera,
    text: chex.Array | None,
    given: Given | None,
):
    model = config.model
    layout, time = model.segment, model.vae.stride_time
    count = layout.latents
    key, noise_key = jax.random.split(state.key)

    # Cameras of the latent frames: target (overlap, then new), then preceding.
    cells = cameras[time - 1 :: time].resized(*config.grid)
    target_cameras = _concatenate(state.context_cameras[-1:], cells)
    all_cameras = _concatenate(target_cameras, state.context_cameras[:-1])

    # Read.
    readout = _read(config, params, state, cameras, all_cameras)
    new = jax.tree.map(lambda x: x[1 : 1 + count], readout)

    # Denoise.
    references, references_valid = None, None
    if layout.reference and config.memory != "none":  # retrieved by geometry: a kind of memory
        slots = jnp.arange(config.bank)
        recent = (state.bank.count - 1 - slots) % config.bank <= layout.preceding  # given as context already
        references, references_valid = reference.select(
            state.bank, cells, new.depth, recent, min(layout.reference, config.bank)
        )
    control = None
    if config.memory != "none":
        ones = _ones(config, params) if "ones" in layout.control else None
        control = control_latents(layout.control, readout, ones)
    latents = _denoise(config, params, state, control, references, references_valid, text, noise_key)[1:]

    # Decode.
    if layout.overlap == "carry":
        decoded, decoder = decode_stream(config, params, latents, state.decoder)
    else:  # the segment is a clip of its own, which starts at the overlap
        decoded, decoder = decode(config, params, jnp.concatenate([state.context[-1:], latents]))[1:], None

    # Look and write.
    shown, at = decoded[time - 1 :: time], cameras[time - 1 :: time]
    known = None if given is None else given.depth[time - 1 :: time]
    moves = None if given is None or given.keep is None else ~given.keep[time - 1 :: time]
    scene = look(config, params, latents, cells, shown, known, moves)
    scene, aligned, trusted = _aligned(config, scene, new)
    memory, moving = state.memory, jnp.zeros_like(scene.keep)
    if config.dynamic_filter:
        moving = scene.keep & dynamic.intruding(latents, scene.depth, new)
        sound = jnp.where(trusted[:, None, None], scene.depth, 0.0)
        memory = latent.retire(memory, dynamic.seen_through(memory, sound, cells, near=config.near))
        scene = scene.replace(keep=scene.keep & ~moving)
    remaining = memory.size
    if config.memory == "latent":
        memory = latent.write(memory, latents, scene.depth, cells, scene.keep, scene.sky, near=config.near)
    elif config.memory == "rgb":
        memory = pixels.write(memory, shown, scene.depth, at, scene.keep, scene.sky, config.near)

    past = layout.preceding + 1
    context = jnp.concatenate([state.context, latents])[-past:]
    if layout.overlap == "reencode":
        context = context.at[-1].set(vae.encode(model.vae, params["vae"], decoded[-1:])[0])
    following = RolloutState(
        memory=memory,
        decoder=decoder,
        context=context,
        context_cameras=_concatenate(state.context_cameras, cells)[-past:],
        context_valid=jnp.concatenate([state.context_valid, jnp.ones(count, bool)])[-past:],
        bank=reference.store(state.bank, latents, memorable_depth(scene), cells),
        key=key,
        segments=state.segments + 1,
    )
    diagnostics = Diagnostics(
        visible=new.visible.mean((1, 2)),
        points=memory.size - remaining,
        overflow=memory.overflow,
        depth_scale=aligned.scale.mean(),
        depth_shift=aligned.shift.mean(),
        depth_residual=aligned.residual.max(),
        compared=aligned.compared.sum(),
        refused=1.0 - trusted.mean(),
        kept=scene.keep.mean(),
        moving=moving.mean(),
        retired=state.memory.size - remaining,
        references=jnp.zeros((), jnp.int32) if references_valid is None else references_valid.sum(dtype=jnp.int32),
    )
    frames = jnp.round((decoded + 1.0) * 127.5).astype(jnp.uint8)
    return following, SegmentOutput(frames=frames, latents=latents, readout=new, diagnostics=diagnostics)


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
    trusted = jnp.broadcast_to(trusted, len(depth))
    kept, sky = (mask & trusted[:, None, None] for mask in (scene.keep, scene.sky))
    return Scene(depth=depth, keep=kept & (depth > 0), sky=sky), aligned, trusted


def _read(config: WorldConfig, params: Any, state: RolloutState, cameras: Camera, cells: Camera) -> Readout:
    """The readout at the latent frames of target and preceding, `[T + P, h, w, ..]`."""
    layout = config.model.segment
    if config.memory != "rgb":
        return latent.read(state.memory, cells, max_footprint=layout.footprint, near=config.near)
    overlap = state.context_cameras[-1:].resized(cameras.height, cameras.width)
    readout, _ = pixels.read(
        config.model, params, state.memory, _concatenate(overlap, cameras), layout.footprint, config.near
    )
    # Rendered video covers the target; the preceding frames, given clean anyway, get no readout.
    return jax.tree.map(lambda x: jnp.pad(x, [(0, layout.preceding), *[(0, 0)] * (x.ndim - 1)]), readout)


def _ones(config: WorldConfig, params: Any) -> jax.Array:
    return params["ones"] if "ones" in params else ones_code(config.model, params, config.vae_tile)


def _dit_weights(config: WorldConfig, params: Any) -> Any:
    """The DiT as it is run: without memory the backbone, else with the LoRA that goes with the side branch."""
    if config.memory == "none" or "lora" not in params:
        return params["dit"]
    return lora.merge(params["dit"], params["lora"], config.model.lora.alpha)


def _denoise(config, params, state, control, references, references_valid, text, key) -> jax.Array:
    """The clean target latents `[1 + n, h, w, C]`, the first of which is the overlap."""
    model = config.model
    count = model.segment.latents
    generator = Generator(model.dit, model.side if control is not None else None)
    weights = {"dit": _dit_weights(config, params)}
    if control is not None:
        weights["side"] = params["side"]
    known = jnp.concatenate([state.context[-1:], jnp.zeros((count, *state.context.shape[1:]))])
    clean = jnp.arange(1 + count) == 0

    def denoise(noisy, sigma, timestep):
        sigmas = flow.frame_sigmas(sigma, clean)
        output = generator.apply(
            {"params": weights},
            noisy,
            flow.frame_sigmas(timestep, clean),
            preceding=state.context[:-1],
            preceding_valid=state.context_valid[:-1],
            reference=references,
            reference_valid=references_valid,
            control=control,
            text=text,
        )
        return flow.sample_from_output(output, noisy, sigmas, model.dit.prediction)

    noise = jax.random.normal(key, known.shape)
    schedule = samplers.wan_schedule(config.sampling_steps)
    return samplers.unipc(denoise, noise, schedule, known=known, clean=clean)


def _concatenate(*cameras: Camera) -> Camera:
    return jax.tree.map(lambda *x: jnp.concatenate(x), *cameras)


def _check_text(config: WorldConfig, text: chex.Array | None, leading: tuple[int, ...]) -> None:
    dit = config.model.dit
    wanted = (*leading, dit.text_tokens, dit.text_dim) if dit.text_dim else None
    found = None if text is None else tuple(text.shape)
    if found != wanted:
        takes = "no text" if wanted is None else f"embedded text of shape {list(wanted)} (of the empty prompt, say)"
        given = "none" if found is None else f"shape {list(found)}"
        raise UserError(f"model {config.model.name!r} takes {takes}, found {given}")


def _check_given(config: WorldConfig, given: Given | None, leading: tuple[int, ...]) -> None:
    model = config.model
    if (config.depth_from == "given") != (given is not None):
        found = "no depth" if given is None else "depth"
        raise UserError(f"depth source is {config.depth_from!r}, but {found} was given with the segment")
    if given is None:
        return
    size = (*leading, model.segment_frames, model.height, model.width)
    for name, value in (("depth", given.depth), ("keep masks", given.keep)):
        if value is not None and tuple(value.shape) != size:
            raise UserError(f"given {name} have shape {list(value.shape)}, expected {list(size)}")


def _check_cameras(config: WorldConfig, cameras: Camera, rank: int) -> None:
    model = config.model
    if len(cameras.shape) != rank or cameras.shape[-1] != model.segment_frames:
        wanted = f"[{model.segment_frames}]" if rank == 1 else f"[segments, {model.segment_frames}]"
        raise UserError(f"cameras have shape {list(cameras.shape)}, a segment of {model.name!r} takes {wanted}")
    if (cameras.height, cameras.width) != (model.height, model.width):
        raise UserError(
            f"cameras are for {cameras.height}x{cameras.width} pixels, the model works at {model.height}x{model.width}"
        )

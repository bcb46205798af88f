"""One segment of a world: read the memory, denoise, decode, look, write; and the scan over segments."""

from __future__ import annotations

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import struct

from mirage_jax.errors import UserError
from mirage_jax.geometry import Camera
from mirage_jax.memory.latent import Readout
from mirage_jax.models import vae
from mirage_jax.world import reference, stages
from mirage_jax.world.config import WorldConfig
from mirage_jax.world.control import concatenate
from mirage_jax.world.stages import Given
from mirage_jax.world.state import RolloutState, memorable_depth, remembered


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
      depth_residual: `[]` median absolute log-ratio to the memory's depth that these left (of the worst frame).
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
    prepared["dit"] = stages.dit_weights(config, params)
    if config.memory != "none":
        prepared["side"] = params["side"]
        if "ones" in config.model.segment.control:
            prepared["ones"] = stages.ones(config, params)
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

    cells = cameras[time - 1 :: time].resized(*config.grid)
    recalled = stages.recall(config, params, state, cameras, cells)
    latents = stages.denoise(config, params, state, recalled, text, noise_key)
    decoded, decoder = stages.decode(config, params, state, latents)
    shown, at = decoded[time - 1 :: time], cameras[time - 1 :: time]
    tokens = remembered(config, params, latents, shown)
    seen = stages.see(config, params, tokens, cells, shown, given, recalled.readout)
    written = stages.write(config, state.memory, seen, latents, tokens, shown, cells, at, recalled.readout)
    memory, scene, aligned = written.memory, written.scene, seen.aligned

    past = layout.preceding + 1
    context = jnp.concatenate([state.context, latents])[-past:]
    if layout.overlap == "reencode":
        context = context.at[-1].set(vae.encode(model.vae, params["vae"], decoded[-1:])[0])
    following = RolloutState(
        memory=memory,
        decoder=decoder,
        context=context,
        context_cameras=concatenate(state.context_cameras, cells)[-past:],
        context_valid=jnp.concatenate([state.context_valid, jnp.ones(count, bool)])[-past:],
        bank=reference.store(state.bank, latents, memorable_depth(scene), cells),
        key=key,
        segments=state.segments + 1,
    )
    chosen = recalled.references_valid
    diagnostics = Diagnostics(
        visible=recalled.readout.visible.mean((1, 2)),
        points=memory.size - written.remaining,
        overflow=memory.overflow,
        depth_scale=aligned.scale.mean(),
        depth_shift=aligned.shift.mean(),
        depth_residual=aligned.residual.max(),
        compared=aligned.compared.sum(),
        refused=1.0 - seen.trusted.mean(),
        kept=scene.keep.mean(),
        moving=written.moving.mean(),
        retired=state.memory.size - written.remaining,
        references=jnp.zeros((), jnp.int32) if chosen is None else chosen.sum(dtype=jnp.int32),
    )
    frames = jnp.round((decoded + 1.0) * 127.5).astype(jnp.uint8)
    return following, SegmentOutput(frames=frames, latents=latents, readout=recalled.readout, diagnostics=diagnostics)


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

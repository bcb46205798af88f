"""One segment of a world: read, denoise, decode, estimate geometry, align, write; and the scan over segments."""

from __future__ import annotations

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp

from mirage_jax.diffusion import flow, guidance, samplers
from mirage_jax.geometry import Camera
from mirage_jax.memory.kinds import Observation
from mirage_jax.memory.points import Readout
from mirage_jax.memory.things import entities
from mirage_jax.models.generator import Generator
from mirage_jax.models.nn import blocks, lora
from mirage_jax.world import checks, conditioning, reference
from mirage_jax.world.config import WorldConfig
from mirage_jax.world.frame_geometry import KnownGeometry, estimate_geometry
from mirage_jax.world.outputs import Diagnostics, SegmentOutput
from mirage_jax.world.recall import add_things, choose_references, new_frames, read
from mirage_jax.world.remember import remember
from mirage_jax.world.state import RolloutState, placed


def segment(
    config: WorldConfig,
    params: Any,
    state: RolloutState,
    cameras: Camera,
    text: chex.Array | None = None,
    known: KnownGeometry | None = None,
    *,
    donate: bool = False,
) -> tuple[RolloutState, SegmentOutput]:
    """Generates one segment.

    Args:
      config: the static sizes.
      params: of all parts of the model that a segment runs, or what `prepare` made of them.
      state: the world so far.
      cameras: `Camera[F]` at pixel resolution, of the `F` new frames.
      text: `[text_tokens, text_dim]` embedded prompt, for a model with text (and only for such a model); `[2, ..]`,
        prompt and negative prompt, where the recipe guides.
      known: geometry of the new frames, for depth source 'given' (and only for it).
      donate: whether the memory may be written in place; `state` cannot be used afterwards, nor what it was made of.

    Returns:
      The next state, and a `SegmentOutput`.

    Raises:
      UserError: if the number or size of the cameras, the text, or what is known, does not fit the model.
    """
    checks.check(config, cameras, text, known, ())
    run = compiled_in_place if donate else compiled_segment
    return run(config, params, state, cameras, text, known)


def rollout(
    config: WorldConfig,
    params: Any,
    state: RolloutState,
    cameras: Camera,
    text: chex.Array | None = None,
    known: KnownGeometry | None = None,
) -> tuple[RolloutState, SegmentOutput]:
    """Generates `S` segments in one compiled `lax.scan`.

    Args:
      config, params, state: as in `segment`.
      cameras: `Camera[S, F]` at pixel resolution.
      text: as in `segment`, with a leading axis `S`.
      known: as in `segment`, with a leading axis `S`.

    Returns:
      The last state, and a `SegmentOutput` with a leading axis `S`.

    Raises:
      UserError: as in `segment`.
    """
    checks.check(config, cameras, text, known, (len(cameras),))
    return _compiled_rollout(config, params, state, cameras, text, known)


def prepare(config: WorldConfig, params: Any) -> Any:
    """Parameters with everything done that `segment` would otherwise do again every time; the result is the same.

    LoRA is merged into the DiT (or left out with the side branch), blocks are stacked for their scan, and
    the constant control channels are computed. Not differentiable in the LoRA's parts any more.
    """
    prepared = {name: value for name, value in params.items() if name not in ("dit", "side", "lora")}
    prepared["dit"] = blocks.stacked(_dit_weights(config, params))
    if config.runs_side:
        prepared["side"] = blocks.stacked(params["side"])
        if "ones" in config.model.segment.control:
            prepared["ones"] = _ones(config, params)
    return prepared


@functools.partial(jax.jit, static_argnums=0)
def _compiled_rollout(config, params, state, cameras, text=None, known=None):
    return jax.lax.scan(lambda state, xs: _segment(config, params, state, *xs), state, (cameras, text, known))


def _segment(
    config: WorldConfig,
    params: Any,
    state: RolloutState,
    cameras: Camera,
    text: chex.Array | None,
    known: KnownGeometry | None,
) -> tuple[RolloutState, SegmentOutput]:
    layout, time = config.model.segment, config.model.vae.stride_time
    key, noise_key = jax.random.split(state.key)
    last = slice(time - 1, None, time)  # a latent frame has the camera and the geometry of its last pixel frame
    frame_cameras = cameras[last]
    latent_cameras = frame_cameras.resized(*config.grid)

    # Read (paper eq. 5, 9, 10): what the memory shows at target and preceding frames; which frames saw the same.
    readout = read(config, params, state, cameras)
    shown = new_frames(config, readout)
    with_things = add_things(config, state, readout, cameras)
    references = choose_references(config, state, latent_cameras, shown)

    # Denoise: the overlap, preceding and reference frames are clean (paper section "Generator").
    latents, passes = denoise(config, params, state, with_things, references, text, noise_key)

    # Decode.
    decoded, begin, decoder = config.codec.go_on(params["vae"], state.context[-1], latents, state.decoder)

    # Estimate geometry; align it to the memory, and write what is static and valid (paper eq. 4, 6, 8).
    known = None if known is None else known[last]
    estimated = estimate_geometry(config, params, latents, latent_cameras, decoded[last], known)
    observed = Observation(
        latents=latents,
        frames=decoded[last],
        depth=estimated.depth,
        keep=estimated.keep,
        sky=estimated.sky,
        latent_cameras=latent_cameras,
        frame_cameras=frame_cameras,
    )
    memory, left = remember(config, params, state.memory, observed, cameras, readout)
    scene = left.scene
    things = state.entities
    if things is not None:
        cells = latents, scene.depth, latent_cameras, scene.moving
        things = entities.write(things, memory, *cells, left.trusted)

    past = layout.preceding + 1
    recent = lambda before, new: jax.tree.map(lambda x, y: jnp.concatenate([x, y])[-past:], before, new)  # noqa: E731
    following = RolloutState(
        memory=memory,
        decoder=decoder,
        context=recent(state.context, latents).at[-1].set(begin),
        context_cameras=recent(state.context_cameras, latent_cameras),
        context_valid=recent(state.context_valid, jnp.ones(layout.latents, bool)),
        context_readout=None if state.context_readout is None else recent(state.context_readout, shown),
        bank=reference.store(state.bank, latents, scene.memorable_depth(), latent_cameras),
        entities=things,
        key=key,
        segments=state.segments + 1,
    )
    diagnostics = Diagnostics(
        visible=shown.visible.mean((1, 2)),
        points=left.written,
        overflow=memory.overflow,
        depth_scale=left.alignment.scale.mean(),
        depth_shift=left.alignment.shift.mean(),
        depth_residual=left.alignment.residual.max(),
        compared=left.alignment.compared.sum(),
        refused=1.0 - left.trusted.mean(),
        kept=scene.keep.mean(),
        moving=left.moving.mean(),
        retired=left.retired,
        references=jnp.zeros((), jnp.int32) if references is None else references[1].sum(dtype=jnp.int32),
        passes=passes,
        **entities.summary(things),
    )
    frames = jnp.round((decoded + 1.0) * 127.5).astype(jnp.uint8)
    return placed(following), SegmentOutput(
        frames=frames, latents=latents, readout=new_frames(config, with_things), diagnostics=diagnostics
    )


compiled_segment = jax.jit(_segment, static_argnums=0)
compiled_in_place = jax.jit(_segment, static_argnums=0, donate_argnums=2)


def denoise(
    config: WorldConfig,
    params: Any,
    state: RolloutState,
    readout: Readout,
    references: tuple[jax.Array, jax.Array] | None,
    text: chex.Array | None,
    key: chex.PRNGKey,
) -> tuple[jax.Array, jax.Array]:
    """The new latents `[n, h, w, C]`, and int32 `[]`, how often the generator ran.

    Args:
      config, params, state, text: as in `segment`.
      readout: of `read`.
      references: of `choose_references`.
      key: of the noise, consumed.
    """
    model, layout = config.model, config.model.segment
    weights, control = {"dit": _dit_weights(config, params)}, None
    if config.runs_side:
        weights["side"] = params["side"]
        ones = _ones(config, params) if "ones" in layout.control else None
        control = conditioning.control_latents(layout.control, readout, ones)
    reference_latents, reference_valid = references or (None, None)
    generator = Generator(model.dit, model.side if config.runs_side else None)
    known = jnp.concatenate([state.context[-1:], jnp.zeros((layout.latents, *state.context.shape[1:]))])
    clean = jnp.arange(1 + layout.latents) == 0

    def predict(noisy, sigma, timestep):
        def network(text):
            return generator.apply(
                {"params": weights},
                noisy,
                flow.frame_sigmas(timestep, clean),
                preceding=state.context[:-1],
                preceding_valid=state.context_valid[:-1],
                reference=reference_latents,
                reference_valid=reference_valid,
                control=control,
                text=text,
            )

        output = guidance.guided(network, text, config.recipe.guidance) if config.guided else network(text)
        return flow.sample_from_output(output, noisy, flow.frame_sigmas(sigma, clean), model.dit.prediction)

    noise = jax.random.normal(key, known.shape)
    schedule = samplers.SCHEDULES[config.recipe.grid](config.recipe.steps)
    if schedule.renoised:
        fresh = jax.random.fold_in(key, 1)
        latents = samplers.renoise(predict, noise, schedule, fresh, known=known, clean=clean)
        return latents[1:], jnp.int32(config.recipe.steps)
    latents, passes = samplers.unipc(predict, noise, schedule, known=known, clean=clean, reuse=config.recipe.step_cache)
    return latents[1:], passes


def _ones(config: WorldConfig, params: Any) -> jax.Array:
    """The constant control channels, prepared or computed."""
    return params["ones"] if "ones" in params else conditioning.ones_code(config.model, params, config.vae_tile)


def _dit_weights(config: WorldConfig, params: Any) -> Any:
    """The DiT as it is run: with the LoRA that goes with the side branch, if that is run."""
    if not config.runs_side or "lora" not in params:
        return params["dit"]
    return lora.merge(params["dit"], params["lora"], config.model.lora.alpha)

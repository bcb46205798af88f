"""The same clip made by several methods, scored against the truth on the same frames.

Methods: `latent`, `rgb` and `none` are worlds that differ in their memory; `readout` decodes what the latent memory
shows without a generator (see `shown`); `flat` is the mean colour of the first frame. `oracle` is a ceiling: the latent
memory that the generator reads at every segment was written from the true frames before it. `context` is a world
without memory whose weights were trained with a longer window of preceding frames. Names of `ablations.TABLE` are
`latent` with one thing changed, and any other name is `latent` with weights of its own. Each is run on the true
cameras.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mirage_jax import world
from mirage_jax.data.clip import PosedClip
from mirage_jax.evaluation import ablations, metrics
from mirage_jax.geometry import Camera
from mirage_jax.memory import latent, resample
from mirage_jax.memory.latent import LatentMemory, Readout
from mirage_jax.models import vae
from mirage_jax.models.config import ModelConfig
from mirage_jax.training import posed
from mirage_jax.training.posed import PosedLatents

METHODS = ("latent", "rgb", "none", "readout", "flat")
MORE_METHODS = ("oracle", "context")
"""Also possible; `context` only with weights of its own, whose window holds as many frames as memory's references."""
DEPTH_AGREEMENT = 0.1
"""Log-ratio of depths up to which a remembered point is the surface that a camera sees."""


def camera_of(clip: PosedClip) -> Camera:
    """The clip's cameras, `Camera[T]` at pixel resolution."""
    height, width = clip.frames.shape[1:3]
    return Camera(
        intrinsics=jnp.asarray(clip.intrinsics), cam2world=jnp.asarray(clip.cam2world), height=height, width=width
    )


def generate(
    model: ModelConfig,
    params: Any,
    clip: PosedClip,
    *,
    observed: int,
    methods: Sequence[str] = METHODS,
    true_depth: bool,
    seed: int,
    steps: int = 0,
    others: Mapping[str, tuple[ModelConfig, Any]] | None = None,
) -> dict[str, np.ndarray]:
    """The frames of a clip after the first `observed`, by method.

    Args:
      model, params: with all parts.
      clip: the truth; `observed` and what follows are `4k + 1` and whole segments.
      observed: frames given to the world, from the start; 1 gives the first frame only.
      methods: of `METHODS`, `MORE_METHODS`, `ablations.TABLE` and `others`.
      true_depth: whether the observed frames come with their true depth and moving actors, or the heads guess.
      seed: of the noise.
      steps: of the sampler, for all methods; 0 as `model` was made for.
      others: method -> model and parameters, for methods that have weights of their own.

    Returns:
      method -> uint8 `[T - observed, H, W, 3]`, without ablations that would be `latent` itself here.

    Raises:
      UserError: if the model lacks what an ablation changes.
    """
    own = dict(others or {})
    steps = steps or model.segment.steps
    methods = [m for m in methods if ablations.TABLE.get(m, ablations.NOTHING).applies(true_depth)]
    worlds = [("latent", "readout")] if {"latent", "readout"} <= set(methods) - set(own) else []
    worlds += [(method,) for method in methods if method != "flat" and not any(method in w for w in worlds)]
    made: dict[str, np.ndarray] = {}
    for group in worlds:
        mine, weights = own.get(group[0], (model, params))
        made |= _generated(_Run(mine, weights, clip, observed, true_depth, seed, steps), group)
    if "flat" in methods:
        colour = clip.frames[0].mean((0, 1)).round().astype(np.uint8)
        made["flat"] = np.broadcast_to(colour, (len(clip) - observed, *clip.frames.shape[1:]))
    return {method: made[method] for method in methods}


@dataclasses.dataclass(frozen=True)
class _Run:
    """What `generate` is asked for, with the weights of one method."""

    model: ModelConfig
    params: Any
    clip: PosedClip
    observed: int
    true_depth: bool
    seed: int
    steps: int


def _generated(run: _Run, methods: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Frames of one world: of one method, or of `latent` and `readout`, which share theirs."""
    clip, observed, name = run.clip, run.observed, methods[0]
    ablations.check(name, run.model)
    ablation = ablations.TABLE.get(name, ablations.NOTHING)
    model, params = ablation.changed(run.model, run.params)
    memory = name if name in world.MEMORIES else "none" if name == "context" else "latent"
    cameras, count = camera_of(clip), model.segment_frames
    segments = (len(clip) - observed) // count
    path = jax.tree.map(lambda x: x[observed:].reshape(segments, count, *x.shape[1:]), cameras)
    frames_held = (observed - 1) // model.vae.stride_time
    capacity = world.full_capacity(model, memory, segments + -(-frames_held // model.segment.latents))
    config = world.WorldConfig(
        model=model, memory=memory, capacity=capacity, bank=64, steps=run.steps, **ablation.world
    )
    depth, dynamic = ablation.observed(clip, observed, run.true_depth, run.seed)
    key = jax.random.key(run.seed)
    state = world.observe(config, params, clip.frames[:observed], depth, cameras[:observed], key, dynamic)
    if name == "oracle":
        made = _by_segment(config, params, state, path, _true_memory(config, params, clip, observed))
        return {name: made.reshape(-1, *clip.frames.shape[1:])}
    if ablation.restart:
        made = _by_segment(config, params, state, path, lambda state, _: ablations.restarted(model, params, state))
        return {name: made.reshape(-1, *clip.frames.shape[1:])}
    decoder = state.decoder
    given = ablation.generated(model, clip, observed, run.seed)
    if given is not None:
        config = dataclasses.replace(config, depth_source="given")
    _, output = world.rollout(config, params, state, path, given=given)
    made = {method: np.asarray(output.frames).reshape(-1, *clip.frames.shape[1:]) for method in methods}
    if "readout" in methods:
        readout = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), output.readout)
        made["readout"] = shown(model, params, readout, decoder)
    return made


def shown(model: ModelConfig, params: Any, readout: Readout, decoder: Any) -> np.ndarray:
    """What a memory shows as pictures, without a generator: uint8 `[n r, H, W, 3]`.

    Tokens of stills are decoded each by itself, those between the latent frames too, if they were read; tokens of video
    (those of an RGB memory among them) as one.

    Args:
      model, params: of the VAE.
      readout: `[n, h, w, ..]`, of the latent frames after those that `decoder` has seen.
      decoder: the decoder's cache after the frames before.
    """
    tokens = readout.features
    if model.segment.token == "still" and readout.between is not None:
        every = jnp.concatenate([readout.between.features, tokens[:, None]], axis=1)
        return to_frames(vae.decode_still(model.vae, params["vae"], every.reshape(-1, *every.shape[2:])))
    return to_frames(vae.decode_stream(model.vae, params["vae"], tokens, decoder)[0])


def to_frames(pixels: Any) -> np.ndarray:
    """`[T, H, W, 3]` in [-1, 1] to uint8."""
    return np.asarray(jnp.round((pixels + 1.0) * 127.5).astype(jnp.uint8))


def recoded(model: ModelConfig, params: Any, clip: PosedClip) -> np.ndarray:
    """The clip's frames through the VAE and back, uint8 `[T, H, W, 3]`."""
    pixels = clip.frames.astype(np.float32) / 127.5 - 1.0
    return to_frames(vae.decode(model.vae, params["vae"], vae.encode(model.vae, params["vae"], pixels)))


_Change = Callable[[world.RolloutState, int], world.RolloutState]


def _by_segment(config, params, state, path: Camera, change: _Change) -> np.ndarray:
    """Frames `[S, F, H, W, 3]` of a rollout in which the state is changed before every segment."""
    frames = []
    for segment in range(len(path)):
        state, output = world.segment(config, params, change(state, segment), path[segment])
        frames.append(np.asarray(output.frames))
    return np.stack(frames)


def _true_memory(config, params, clip: PosedClip, observed: int) -> _Change:
    """Puts the memory of the true frames before a segment in the place of what was written."""
    model = config.model
    coded = coded_truth(model, params, clip)

    def change(state: world.RolloutState, segment: int) -> world.RolloutState:
        before = 1 + (observed - 1 + segment * model.segment_frames) // model.vae.stride_time
        among = np.arange(len(coded.latents)) < before
        return state.replace(memory=memory_of(model, config.capacity, coded, among))

    return change


def coded_truth(model: ModelConfig, params: Any, clip: PosedClip) -> PosedLatents:
    """Latents and geometry of the true frames on the latent grid, in full precision; stills if they are remembered."""
    pixels = clip.frames.astype(np.float32) / 127.5 - 1.0
    stride, at = model.vae.stride_space, slice(None, None, model.vae.stride_time)
    grid = clip.frames.shape[1] // stride, clip.frames.shape[2] // stride
    return PosedLatents(
        latents=vae.encode(model.vae, params["vae"], pixels),
        stills=vae.encode_still(model.vae, params["vae"], pixels[at]) if model.segment.token == "still" else None,
        depth=resample.depth_to_grid(clip.depth[at], *grid),
        dynamic=resample.mask_to_grid(clip.dynamic[at], *grid, least=0.25),
        frame_cameras=camera_of(clip).resized(*grid),
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def memory_of(model: ModelConfig, capacity: int, coded: PosedLatents, among: jax.Array) -> LatentMemory:
    """The latent memory of those latent frames that the mask `among` `[t]` has."""
    still = ~coded.dynamic & among[:, None, None]
    solid = still & jnp.isfinite(coded.depth) & (coded.depth > 0)
    memory = latent.create(capacity, model.vae.latent_channels)
    entering = coded.depth, coded.cameras, solid, still & jnp.isinf(coded.depth)
    return latent.write(memory, posed.tokens(model, coded), *entering)


def returned(clip: PosedClip, model: ModelConfig, *, since: int) -> np.ndarray:
    """Which latent cells of which frames show again what was out of sight for at least one segment.

    A cell of a segment that begins at frame `b` counts if its true surface was seen in a frame that was given, before
    `b - F`, and in none of the frames `b - F .. b - 1`: the generator cannot have it from its latest frames, and what
    it should look like is settled (a place that the generator itself made up has no truth).

    Args:
      clip: the truth.
      model: for the grid and the segment's length `F`.
      since: first frame that is generated, so the number of those given; whole segments follow.

    Returns:
      bool `[T - since, h, w]`.
    """
    stride, count = model.vae.stride_space, model.segment_frames
    grid = clip.frames.shape[1] // stride, clip.frames.shape[2] // stride
    cameras = camera_of(clip).resized(*grid)
    depth = resample.depth_to_grid(jnp.asarray(clip.depth), *grid)
    still = ~resample.mask_to_grid(jnp.asarray(clip.dynamic), *grid, least=0.25)
    frames = np.arange(len(clip))
    parts = []
    for begin in range(since, len(clip), count):
        old = frames < min(begin - count, since)
        recent = (frames >= begin - count) & (frames < begin)
        at = frames[begin : begin + count]
        parts.append(_seen_again(cameras, depth, still, old, at) & ~_seen_again(cameras, depth, still, recent, at))
    return np.concatenate(parts)


@jax.jit
def _seen_again(cameras: Camera, depth: jax.Array, still: jax.Array, among: jax.Array, at: jax.Array) -> jax.Array:
    """Which cells `[F, h, w]` of frames `at` show a surface that some frame of the mask `among` `[T]` saw."""
    enters = still & among[:, None, None]
    memory = latent.create(depth.size, 1)
    memory = latent.write(memory, jnp.zeros((*depth.shape, 1)), depth, cameras, enters, jnp.isinf(depth) & enters)
    shown, truth = latent.read(memory, cameras[at], max_footprint=3), depth[at]
    both = jnp.isfinite(shown.depth) & (shown.depth > 0) & jnp.isfinite(truth) & (truth > 0)
    ratio = jnp.log(jnp.where(both, shown.depth, 1.0)) - jnp.log(jnp.where(both, truth, 1.0))
    same = jnp.where(jnp.isinf(shown.depth), jnp.isinf(truth), both & (jnp.abs(ratio) < DEPTH_AGREEMENT))
    return shown.visible & same & still[at]


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


def score(clip: PosedClip, made: dict[str, np.ndarray], cells: np.ndarray, least: float = 0.5) -> dict[str, Any]:
    """Metrics of each method against the truth, all frames and the frames that come back.

    Args:
      clip: the truth.
      made: of `generate`.
      cells: of `returned`, for the generated frames.
      least: share of returned cells that makes a frame one that comes back.

    Returns:
      method -> `psnr`, `ssim`, `lpips` (mean over frames), the same with `_revisit` over the frames that come back
      (None where there are none), `psnr_returned_cells`, and the curve `psnr_by_frame`.
    """
    truth = clip.frames[len(clip) - len(cells) :]
    back = cells.mean((1, 2)) >= least
    scores = {}
    for method, frames in made.items():
        curves = metrics.all_metrics(frames, truth)
        row: dict[str, Any] = {name: float(np.mean(curve)) for name, curve in curves.items()}
        row |= {f"{name}_revisit": float(np.mean(c[back])) if back.any() else None for name, c in curves.items()}
        per_cell = masked_psnr(frames, truth, cells)
        row["psnr_returned_cells"] = float(np.nanmean(per_cell)) if np.isfinite(per_cell).any() else None
        row["psnr_by_frame"] = [round(float(v), 3) for v in curves["psnr"]]
        scores[method] = row
    return scores

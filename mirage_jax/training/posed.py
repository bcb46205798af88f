"""From a clip of posed latents to one training example of the generator, on the device.

The memory is built here, inside the train step, from a random subset of the earlier frames (many, not one), with errors
like those of a rollout: depth off in scale and from cell to cell, tokens a little wrong, cells missing. An RGB memory
is built the same way from the pixels of the same frames, with the same errors, for a comparison on equal terms.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import struct

from mirage_jax.geometry import Camera, concatenate
from mirage_jax.memory import latent, rgb
from mirage_jax.memory.kinds import Views
from mirage_jax.memory.points import PointMemory, Readout
from mirage_jax.models.codec import Codec
from mirage_jax.models.config import ModelConfig
from mirage_jax.training import things
from mirage_jax.world import conditioning, recipe, reference


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Errors that training imitates; each is the largest standard deviation or probability, drawn anew per example.

    Attributes:
      keep_frame: least probability with which an earlier frame is in the memory.
      depth_scale: of the log of one factor per frame.
      depth_noise: of the log of one factor per cell.
      feature_noise: of noise on remembered tokens or colours, in units of their deviation.
      context_noise: of noise on the clean overlap, preceding and reference latents.
      drop_cells: probability with which a cell was never written.
      drop_memory: probability of an empty memory.
      drop_reference: probability of no reference frames at all, as in a world without memory.
      miss_things: probability with which all that moves in a frame is taken to stand still.
      coarse_depth: probability with which an RGB memory gets the depth of the cells, as heads guess it.
    """

    keep_frame: float = 0.3
    depth_scale: float = 0.05
    depth_noise: float = 0.03
    feature_noise: float = 0.2
    context_noise: float = 0.15
    drop_cells: float = 0.1
    drop_memory: float = 0.05
    drop_reference: float = 0.1
    miss_things: float = 0.3
    coarse_depth: float = 0.5


@struct.dataclass
class PosedPixels:
    """What an RGB memory is made of, at pixel resolution.

    Attributes:
      frames: `[t, H, W, 3]` in [-1, 1], the frames that the latent frames end at.
      depth, dynamic: `[t, H, W]` as in `PosedLatents`.
    """

    frames: chex.Array
    depth: chex.Array
    dynamic: chex.Array


@struct.dataclass
class PosedLatents:
    """A clip of latents with geometry, all on the latent grid: a training sample.

    Attributes:
      latents: `[t, h, w, C]` normalised.
      depth: `[t, h, w]` metres; inf = sky, 0 = unknown.
      dynamic: bool `[t, h, w]`.
      frame_cameras: `Camera[T]` of all frames of the video, `T = r (t - 1) + 1`.
      pixels: for an RGB memory; None where the data set has none.
    """

    latents: chex.Array
    depth: chex.Array
    dynamic: chex.Array
    frame_cameras: Camera
    pixels: PosedPixels | None = None

    @property
    def cameras(self) -> Camera:
        """`Camera[t]`, of the frames that the latent frames end at."""
        return self.frame_cameras[:: self.stride_time]

    @property
    def stride_time(self) -> int:
        """Video frames per latent frame, `r`."""
        return (len(self.frame_cameras) - 1) // max(len(self.latents) - 1, 1) or 1


@struct.dataclass
class Example:
    """What the generator is shown and asked for; `T = 1 + n` target frames, the overlap first.

    Attributes:
      target: `[T, h, w, C]` clean.
      overlap: `[h, w, C]`, the first target frame with the errors of a rollout.
      preceding, preceding_valid: `[P, h, w, C]`, bool `[P]`.
      reference, reference_valid: `[R, h, w, C]`, bool `[R]`.
      control: `[T + P, h, w, Cc]`.
      visible: bool `[T, h, w]` what the memory shows in the target frames.
      readout: `[T, h, w, C]`.
    """

    target: chex.Array
    overlap: chex.Array
    preceding: chex.Array
    preceding_valid: chex.Array
    reference: chex.Array
    reference_valid: chex.Array
    control: chex.Array
    visible: chex.Array
    readout: chex.Array


def from_batch(batch: Any) -> PosedLatents:
    """One sample (no batch axis) of the latent data set."""
    height, width = batch["latents"].shape[-3:-1]
    return PosedLatents(
        latents=batch["latents"].astype(jnp.float32),
        depth=batch["depth"].astype(jnp.float32),
        dynamic=batch["dynamic"].astype(bool),
        frame_cameras=Camera(intrinsics=batch["intrinsics"], cam2world=batch["cam2world"], height=height, width=width),
        pixels=_pixels_from_batch(batch) if "frames" in batch else None,
    )


def _pixels_from_batch(batch: Any) -> PosedPixels:
    return PosedPixels(
        frames=batch["frames"].astype(jnp.float32) / 127.5 - 1.0,
        depth=batch["pixel_depth"].astype(jnp.float32),
        dynamic=batch["pixel_dynamic"].astype(bool),
    )


def random_start(key: chex.PRNGKey, model: ModelConfig, frames: int) -> jax.Array:
    """The overlap frame of a random window: `0 .. t - 1 - n`, late ones as likely as early ones."""
    return jax.random.randint(key, (), 0, frames - model.segment.latents)


def target(model: ModelConfig, clip: PosedLatents, start: chex.Array) -> jax.Array:
    """`[1 + n, h, w, C]`, the true latents of a segment that begins at frame `start`, the overlap."""
    return _window(clip.latents, start, 1 + model.segment.latents)


def make_training_example(
    key: chex.PRNGKey,
    model: ModelConfig,
    clip: PosedLatents,
    start: chex.Array,
    augment: Augmentation,
    ones: chex.Array | None = None,
    vae_params: Any = None,
) -> Example:
    """Cuts one example out of a clip.

    Args:
      key: consumed.
      model: sizes of segment and control.
      clip: `t` frames.
      start: int `[]`, the overlap frame; frames up to it may be remembered, the `n` after it are the target.
      augment: the errors to imitate.
      ones: `[T + P, h, w, C]` of `conditioning.ones_code`, for a model whose control has 'ones'.
      vae_params: encode what an RGB memory renders; None builds a latent memory.
    """
    layout = model.segment
    count, past = layout.latents, layout.preceding
    keys = jax.random.split(key, 4)
    wanted = target(model, clip, start)
    before = start - past + jnp.arange(past)
    earlier = jnp.take(clip.latents, jnp.maximum(before, 0), axis=0)

    target_cameras = jax.tree.map(lambda x: _window(x, start, 1 + count), clip.cameras)
    earlier_cameras = clip.cameras[jnp.maximum(before, 0)]
    views = conditioning.views(
        model, concatenate(earlier_cameras, target_cameras[:1]), _new_cameras(model, clip, start)
    )
    readout = _readout(keys[0], model, clip, start, augment, views, vae_params)
    if past and recipe.of(model).preceding == "as_made":
        readout = _with_preceding_as_made(keys[0], model, clip, start, augment, views, vae_params, readout)
    if recipe.of(model).entities:
        errors = _draw(keys[0], clip, start, augment)
        depth = jnp.where(errors.enters.any(), clip.depth * errors.factor, jnp.nan)
        things_key = jax.random.fold_in(keys[0], 1)
        readout = things.added(things_key, model, clip, start, augment, readout, views, depth)

    frames = jnp.arange(len(clip.latents))
    static = jnp.where(clip.dynamic, 0.0, clip.depth)
    bank = reference.Bank(
        latents=clip.latents,
        depth=static,
        cameras=clip.cameras,
        bounds=reference.bounds(static, clip.cameras),
        count=start + 1,
    )
    chosen, chosen_valid = reference.select(
        bank, target_cameras[1:], readout.depth[1 : 1 + count], frames >= start - past, layout.reference
    )

    level = augment.context_noise * jax.random.uniform(keys[1], (3,))
    noise = [
        jax.random.normal(k, x.shape)
        for k, x in zip(jax.random.split(keys[2], 3), (wanted[0], earlier, chosen), strict=True)
    ]
    return Example(
        target=wanted,
        overlap=wanted[0] + level[0] * noise[0],
        preceding=earlier + level[1] * noise[1],
        preceding_valid=before >= 0,
        reference=chosen + level[2] * noise[2],
        reference_valid=chosen_valid & ~jax.random.bernoulli(keys[3], augment.drop_reference),
        control=conditioning.control_latents(layout.control, readout, ones),
        visible=readout.visible[: 1 + count],
        readout=readout.features[: 1 + count],
    )


def remember(
    key: chex.PRNGKey, model: ModelConfig, clip: PosedLatents, last: chex.Array, augment: Augmentation
) -> PointMemory:
    """A memory of a random subset of the frames `0 .. last`, the last one always among them, with imitated errors."""
    errors = _draw(key, clip, last, augment)
    features = clip.latents + errors.noise * jax.random.normal(errors.key, clip.latents.shape)
    memory = latent.create(clip.depth.size, clip.latents.shape[-1])
    entering = _entering(clip.depth, clip.dynamic, errors, clip.cameras)
    return latent.write(memory, features, *entering)


def remember_pixels(key: chex.PRNGKey, clip: PosedLatents, last: chex.Array, augment: Augmentation) -> PointMemory:
    """As `remember`, of coloured points."""
    errors = _draw(key, clip, last, augment)
    shown = clip.pixels
    size = shown.frames.shape[1:3]
    noise_key, coarse_key = jax.random.split(errors.key)
    frames = shown.frames + errors.noise * shown.frames.std() * jax.random.normal(noise_key, shown.frames.shape)
    coarse = jax.random.bernoulli(coarse_key, augment.coarse_depth)
    depth = jnp.where(coarse, rgb.upsampled(clip.depth, *size), shown.depth)
    dynamic = jnp.where(coarse, rgb.upsampled(clip.dynamic, *size), shown.dynamic)
    errors = errors.replace(factor=rgb.upsampled(errors.factor, *size), enters=rgb.upsampled(errors.enters, *size))
    return rgb.write(rgb.create(depth.size), frames, *_entering(depth, dynamic, errors, clip.cameras.resized(*size)))


@struct.dataclass
class _Errors:
    """Of one example: which cells enter, factors on their depth, `[t, h, w]`; noise on features, `[]`, and its key."""

    enters: chex.Array
    factor: chex.Array
    noise: chex.Array
    key: chex.PRNGKey


def _draw(key: chex.PRNGKey, clip: PosedLatents, last: chex.Array, augment: Augmentation) -> _Errors:
    keys = jax.random.split(key, 9)
    frames = len(clip.latents)
    index = jnp.arange(frames)
    probability = jax.random.uniform(keys[0], minval=augment.keep_frame, maxval=1.0)
    chosen = jax.random.bernoulli(keys[1], probability, (frames,)) | (index == last)
    chosen &= (index <= last) & ~jax.random.bernoulli(keys[2], augment.drop_memory)

    size = jax.random.uniform(keys[3], (3,))
    scale = size[0] * augment.depth_scale * jax.random.normal(keys[4], (frames, 1, 1))
    cells = size[1] * augment.depth_noise * jax.random.normal(keys[5], clip.depth.shape)
    lost = jax.random.bernoulli(keys[7], augment.drop_cells * jax.random.uniform(keys[8]), clip.depth.shape)
    return _Errors(
        enters=chosen[:, None, None] & ~lost,
        factor=jnp.exp(scale + cells),
        noise=size[2] * augment.feature_noise,
        key=keys[6],
    )


def _entering(depth: chex.Array, dynamic: chex.Array, errors: _Errors, cameras: Camera):
    """What `write` takes after the features: depth, cameras, keep, sky."""
    sky = jnp.isinf(depth) & ~dynamic
    depth = jnp.where(sky, 1.0, depth) * errors.factor
    return depth, cameras, errors.enters & ~dynamic & ~sky, errors.enters & sky


def _readout(key, model, clip, last, augment, views: Views, vae_params) -> Readout:
    """What a memory of frames up to `last` shows, `[T + P, h, w, ..]`, as a world has it."""
    footprint = recipe.of(model).footprint
    if vae_params is None:
        return latent.recall(remember(key, model, clip, last, augment), views, footprint)
    size = clip.pixels.frames.shape[1:3]
    views = views.replace(frame_cameras=views.frame_cameras.resized(*size))
    memory = remember_pixels(key, clip, last, augment)
    return rgb.recall(memory, views, footprint, lambda video: Codec(model.vae).encode(vae_params, video))


def _with_preceding_as_made(key, model, clip, start, augment, views: Views, vae_params, readout: Readout) -> Readout:
    """The readout with what was shown at the preceding frames before they were written (`Recipe.preceding`).

    They are of the segment that ended at `start`, which began a segment earlier: with the memory of that time, and
    nothing where the video had not begun. Errors of frames that are in both memories are the same.
    """
    count, past = model.segment.latents, model.segment.preceding
    assert past < count, "they are of one segment"
    before = start - count
    context = clip.cameras[jnp.maximum(before - past + jnp.arange(past + 1), 0)]
    then = conditioning.views(model, context, _new_cameras(model, clip, before))
    shown = _readout(key, model, clip, before, augment, then, vae_params)
    return conditioning.with_preceding(readout, jax.tree.map(lambda x: x[count - past : count], shown))


def _new_cameras(model: ModelConfig, clip: PosedLatents, start: chex.Array) -> Camera:
    """`Camera[n r]` of the frames of the target after its overlap."""
    time = clip.stride_time
    return jax.tree.map(lambda x: _window(x, time * start + 1, time * model.segment.latents), clip.frame_cameras)


def _window(x: chex.Array, start: chex.Array, size: int) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(x, start, size, axis=0)

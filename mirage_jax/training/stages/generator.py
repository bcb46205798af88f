"""The generator's stages: backbone alone, side branch, LoRA, or several parts at once, on posed latents.

`config.trainable` names the parts that move: `("dit",)` is the backbone without memory, `("side",)` and then
`("lora",)` are the paper's two stages, `("side", "lora")` trains both together. `config.fresh` names parts
that are not taken over from `config.init_from`: a finished model can get another side branch. `config.memory` is what
the side branch learns to read: `latent`, or `rgb` for the control that is trained on equal terms.
`config.channel_weights` is what an error in each latent channel counts: all the same (`uniform`), or as much as the
decoder shows of it (`decoder`, see `vae.sensitivity`; some channels show a hundred times less than others).
`config.perceptual_weight` adds LPIPS of what the decoder makes of the guessed latents (`training/perceptual.py`): of
`config.perceptual_frames` latent frames in a row, at the video frames that they end at. It needs data with pixels. A
model with text takes it from the batch (`text [B, text_tokens, text_dim]`, the empty prompt where the pipeline dropped
it).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mirage_jax import weights
from mirage_jax.data.tolerance import Skipped
from mirage_jax.diffusion import flow
from mirage_jax.errors import UserError
from mirage_jax.models import config as model_config
from mirage_jax.models import lpips, parameters, partition, vae
from mirage_jax.models.config import ModelConfig
from mirage_jax.models.generator import Generator
from mirage_jax.models.nn import lora
from mirage_jax.training import perceptual, posed
from mirage_jax.training.stage import Stage
from mirage_jax.training.stages import coded
from mirage_jax.world import recipe
from mirage_jax.world.conditioning import ones_code

PARTS = ("dit", "side", "lora")
MEMORIES = ("latent", "rgb")
CHANNEL_WEIGHTS = ("uniform", "decoder")
_MADE = ("ones", "channel_weights", "lpips")  # of the parts of the model, here, and no part of it
_LOOKED_AT = 8  # clips, for `vae.sensitivity`
_PAST = 3  # latent frames, after which a decoder that began anywhere shows what it would have shown


def make(config: Any) -> Stage:
    """The stage that `config.trainable` describes, on top of the model in `config.init_from`."""
    trainable = tuple(config.trainable)
    if not trainable or set(trainable) - set(PARTS):
        raise UserError(f"--config.trainable={trainable}: expected some of {', '.join(PARTS)}")
    if config.memory not in MEMORIES:
        raise UserError(f"--config.memory={config.memory}: expected one of {', '.join(MEMORIES)}")
    if not config.shift > 0:
        raise UserError(f"--config.shift={config.shift}: expected a positive number")
    if config.channel_weights not in CHANNEL_WEIGHTS:
        raise UserError(
            f"--config.channel_weights={config.channel_weights}: expected one of {', '.join(CHANNEL_WEIGHTS)}"
        )
    fresh = tuple(config.fresh)
    if set(fresh) - set(trainable):
        raise UserError(f"--config.fresh={fresh}: expected some of the parts that are trained: {', '.join(trainable)}")
    left_out = ("text", "depth", *fresh)  # the first two are not run here
    there = [part for part in weights.parts_of(config.init_from) if part not in left_out]
    resting = [part for part in there if part not in trainable]
    with weights.on_host():  # from where the loop splits them over its mesh
        loaded, params = weights.load(config.init_from, [part for part in there if part in trainable])
        params |= weights.load(config.init_from, resting, config.frozen_dtype or None)[1]
    wanted = model_config.from_json(config.model.to_json(), "--config.model")
    with_memory = trainable != ("dit",)
    loaded = dataclasses.replace(loaded, **dict.fromkeys(fresh))
    model = dataclasses.replace(
        loaded,
        dit=loaded.dit or wanted.dit,
        side=(loaded.side or wanted.side) if with_memory else loaded.side,
        segment=loaded.segment if loaded.side else wanted.segment,
        lora=(loaded.lora or wanted.lora) if "lora" in trainable else loaded.lora,
    )
    computed = model
    if config.remat:
        computed = dataclasses.replace(model, dit=dataclasses.replace(model.dit, remat=config.remat))
    augment = posed.Augmentation(**config.augmentation)
    skipped = Skipped(config.bad_samples)
    frozen = {part: value for part, value in params.items() if part not in trainable}
    stills = config.memory == "latent" and recipe.of(model).token == "still"
    if with_memory and "ones" in model.segment.control:
        frozen["ones"] = jax.jit(ones_code, static_argnums=0)(model, params)
    if config.channel_weights == "decoder":
        frozen["channel_weights"] = _sensitivity(model, params["vae"], config)
    judged = perceptual.frames_judged(config, model.segment.latents, "a segment")
    if judged:
        perceptual.require_size(min(model.height, model.width), "model.height")
        frozen["lpips"] = dict(lpips.load_parameters())

    def init(key, frozen, start):
        fresh = parameters.init(key, model, {**frozen, **start})
        return jax.tree.map(lambda x: x.astype(jnp.float32), {part: fresh[part] for part in trainable})

    @jax.jit
    def guess(moving, frozen, sample):
        parts = {**frozen, **moving}
        clip = posed.from_batch(sample)
        start = len(clip.latents) - 1 - model.segment.latents
        example = posed.make_training_example(
            jax.random.key(0), model, clip, start, augment, **_further(parts, config.memory)
        )
        x0 = one_step(model, parts, example, jax.random.key(1), with_memory, sample.get("text"))
        return [vae.decode(model.vae, frozen["vae"], z) for z in (example.target, example.readout, x0)]

    def preview(moving, frozen, batch):
        videos = guess(moving, frozen, {name: value[0] for name, value in batch.items()})
        # Without the overlap, which was coded amid a clip: decoded as the start of one, its colours are off.
        time = model.vae.stride_time
        rows = [np.concatenate(list(np.asarray(v)[time::time]), axis=1) for v in videos]
        return {"truth_readout_one_step": ((np.concatenate(rows) + 1) * 127.5).round().astype(np.uint8)}

    return Stage(
        init=init,
        frozen=frozen,
        loss=batch_loss(
            computed,
            augment,
            with_memory,
            config.memory,
            config.shift,
            perceptual_weight=config.perceptual_weight,
            judged=judged,
        ),
        batches=lambda: coded.batches(
            config, skipped, model.dit, pixels=config.memory == "rgb" or judged > 0, stills=stills
        ),
        preview=preview,
        finish=lambda moving, frozen, _: (model, {k: v for k, v in frozen.items() if k not in _MADE} | moving),
        counters=skipped.counters,
        start={part: params[part] for part in trainable if part in params},
    )


def _sensitivity(model: ModelConfig, params: Any, config: Any) -> jax.Array:
    """`vae.sensitivity` over starts of clips from all over the data set, the same in every process."""
    clips = [clip[: 1 + model.segment.latents] for clip in coded.spread(config, _LOOKED_AT)]
    keys = jax.random.split(jax.random.key(0), len(clips))
    found = [vae.sensitivity(model.vae, params, clip, key) for clip, key in zip(clips, keys, strict=True)]
    return jnp.mean(jnp.stack(found), axis=0)


def batch_loss(
    model: ModelConfig,
    augment: posed.Augmentation,
    with_memory: bool,
    memory: str = "latent",
    shift: float = flow.SHIFT,
    *,
    perceptual_weight: float = 0.0,
    judged: int = 0,
):
    """The loss of a stage (see `Stage`): memory (of `MEMORIES`) and example of every clip are made on the way.

    `shift` moves the noise levels that are trained towards pure noise (`flow.sample_sigma`). With `judged` latent
    frames, `perceptual_weight` times their LPIPS is added.
    """

    def loss(moving, frozen, batch, keys):
        parts = {**frozen, **moving}

        def one(sample, key):
            start_key, example_key, noise_key = jax.random.split(key, 3)
            clip = posed.from_batch(sample)
            start = posed.random_start(start_key, model, len(clip.latents))
            example = posed.make_training_example(example_key, model, clip, start, augment, **_further(parts, memory))
            error, guess = example_loss(model, parts, example, noise_key, with_memory, sample.get("text"), shift)
            found = {"error": error, "visible": example.visible[1:].mean()}
            if judged:
                found["lpips"] = _seen_error(model, parts, jax.random.fold_in(key, 1), guess, clip, start, judged)
            return found

        metrics = jax.tree.map(jnp.mean, partition.over_batch(one)(dict(batch), keys))
        total = metrics.pop("error")
        if judged:
            metrics["error"], total = total, total + perceptual_weight * metrics["lpips"]
        return total, metrics

    return loss


def _seen_error(
    model: ModelConfig,
    parts: Any,
    key: jax.Array,
    guess: jax.Array,
    clip: posed.PosedLatents,
    start: jax.Array,
    count: int,
) -> jax.Array:
    """LPIPS, float32 `[]`, of the video frames at which `count` of the guessed latent frames end.

    They are decoded after true latents, as the decoder's past: as the start of a clip their colours would be off.

    Args:
      model, parts: of the stage.
      key: of the choice of frames.
      guess: `[T, h, w, C]`, latents of the target, the overlap first.
      clip: where the target is from, with pixels.
      start: int `[]`, the overlap frame.
      count: at most `T - 1`.
    """
    run_key, part_key = jax.random.split(key)
    first = 1 + jax.random.randint(run_key, (), 0, len(guess) - count)
    past = clip.latents[jnp.maximum(start + first - _PAST + jnp.arange(_PAST), 0)]
    _, cache = vae.decode_stream(model.vae, parts["vae"], past)
    run = jax.lax.dynamic_slice_in_dim(guess, first, count)
    shown, _ = vae.decode_stream(model.vae, parts["vae"], run, cache)
    truth = jax.lax.dynamic_slice_in_dim(clip.pixels.frames, start + first, count)
    time = model.vae.stride_time
    return perceptual.distance(part_key, parts["lpips"], shown[time - 1 :: time], truth, count)


def _further(parts: Any, memory: str) -> dict[str, Any]:
    """What `make_training_example` takes of the parts: constant control channels, and the encoder of an RGB memory."""
    return {"ones": parts.get("ones"), "vae_params": parts["vae"] if memory == "rgb" else None}


def example_loss(
    model: ModelConfig,
    parts: Any,
    example: posed.Example,
    key: jax.Array,
    with_memory: bool,
    text: jax.Array | None = None,
    shift: float = flow.SHIFT,
) -> tuple[jax.Array, jax.Array]:
    """Loss of one example at a random noise level, and the clean target as guessed from there (`one_step`)."""
    sigma_key, noise_key = jax.random.split(key)
    sigma = flow.sample_sigma(sigma_key, shift)
    noise = jax.random.normal(noise_key, example.target.shape)
    output, guess = _predict(model, parts, example, noise, sigma, with_memory, text)
    target = flow.training_target(example.target, noise, model.dit.prediction)
    return flow.loss(output, target, _clean(example), parts.get("channel_weights")), guess


def one_step(
    model: ModelConfig,
    parts: Any,
    example: posed.Example,
    key: jax.Array,
    with_memory: bool,
    text: jax.Array | None = None,
) -> jax.Array:
    """The clean target as guessed from pure noise in one step, `[T, h, w, C]`, after the overlap; for previews."""
    noise = jax.random.normal(key, example.target.shape)
    return _predict(model, parts, example, noise, jnp.asarray(0.999), with_memory, text)[1]


def _predict(model: ModelConfig, parts: Any, example: posed.Example, noise, sigma, with_memory, text):
    """What the network says at noise level `sigma`, and the clean target that this means, with the overlap as given."""
    sigmas = flow.frame_sigmas(sigma, _clean(example))
    noisy = flow.add_noise(example.target, noise, sigmas).at[0].set(example.overlap)
    weights = {"dit": parts["dit"]}
    if with_memory:
        weights["side"] = parts["side"]
        if "lora" in parts:
            weights["dit"] = lora.merge(parts["dit"], parts["lora"], model.lora.alpha)
    output = Generator(model.dit, model.side if with_memory else None).apply(
        {"params": weights},
        noisy,
        flow.timesteps_from_sigmas(sigmas),
        preceding=example.preceding,
        preceding_valid=example.preceding_valid,
        reference=example.reference,
        reference_valid=example.reference_valid,
        control=example.control if with_memory else None,
        text=text,
    )
    guess = flow.sample_from_output(output, noisy, sigmas, model.dit.prediction)
    return output, guess.at[0].set(example.overlap)


def _clean(example: posed.Example) -> jax.Array:
    """bool `[T]`: the overlap is given."""
    return jnp.arange(len(example.target)) == 0

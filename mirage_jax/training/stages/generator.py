"""The generator's stages: backbone alone, side branch, LoRA, or several parts at once, on posed latents.

`config.trainable` names the parts that move: `("dit",)` is the backbone without memory, `("side",)` and then
`("lora",)` are the paper's two stages, `("side", "lora")` trains both together. `config.fresh` names parts
that are not taken over from `config.init_from`: a finished model can get another side branch. `config.memory` is what
the side branch learns to read: `latent`, or `rgb` for the control that is trained on equal terms.
`config.perceptual_weight` adds LPIPS of what the decoder makes of the guessed latents (`training/perceptual.py`): of
`config.perceptual_frames` latent frames in a row, at the video frames that they end at, or of a part of them of
`config.perceptual_crop` pixels a side; `config.adversarial_weight` adds what a discriminator makes of these frames
together (`training/adversarial.py`). Both need data with pixels. `config.cuts` are pairs (latent frames of a segment,
examples of that length from each clip), of which every batch has drawn one. In a share `config.own_output` of the steps
the latest frames of what is remembered are the model's own. The error of a cell of which the memory shows nothing
counts `config.unseen_weight`. A model with text takes it from the batch (`text [B, text_tokens, text_dim]`, the empty
prompt where the pipeline dropped it).
"""

from __future__ import annotations

import dataclasses
import functools
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
from mirage_jax.models.nn import blocks, lora
from mirage_jax.training import adversarial, perceptual, posed
from mirage_jax.training.stage import Stage
from mirage_jax.training.stages import coded
from mirage_jax.world.conditioning import ones_code

PARTS = ("dit", "side", "lora")
MEMORIES = ("latent", "rgb")
_JUDGE = "discriminator"
_CUT = "cut"  # of a batch: `[B, n]` zeros, whose shape says how many latent frames a segment of its examples has
_MADE = ("ones", "lpips", _JUDGE)  # of the parts of the model, here, and no part of it
_LONGEST_PAST = 3  # latent frames, after which a decoder that began anywhere shows what it would have shown


def make(config: Any) -> Stage:
    """The stage that `config.trainable` describes, on top of the model in `config.init_from`."""
    trainable = tuple(config.trainable)
    if not trainable or set(trainable) - set(PARTS):
        raise UserError(f"--config.trainable={trainable}: expected some of {', '.join(PARTS)}")
    if config.memory not in MEMORIES:
        raise UserError(f"--config.memory={config.memory}: expected one of {', '.join(MEMORIES)}")
    if not config.shift > 0:
        raise UserError(f"--config.shift={config.shift}: expected a positive number")
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
    if "dit" in frozen and model.lora is None:
        with weights.on_host():  # once: a step that did it would hold the backbone twice
            frozen["dit"] = blocks.stacked(frozen["dit"])
    if with_memory and "ones" in model.segment.control:
        frozen["ones"] = jax.jit(ones_code, static_argnums=0)(model, params)
    cuts = _cuts(config, model)
    terms = Terms(
        perceptual_weight=config.perceptual_weight,
        judged=perceptual.frames_judged(config, min(length for length, _ in cuts), "a segment"),
        crop=config.perceptual_crop,
        adversarial_weight=config.adversarial_weight,
        own_output=config.own_output,
        unseen_weight=config.unseen_weight,
    )
    _check_terms(config, model, terms)
    if terms.judged:
        frozen["lpips"] = dict(lpips.load_parameters())

    def init(key, frozen, start):
        fresh = parameters.init(key, model, {**_apart(frozen), **start})
        found = jax.tree.map(lambda x: x.astype(jnp.float32), {part: fresh[part] for part in trainable})
        if terms.adversarial_weight:
            found[_JUDGE] = adversarial.init(jax.random.fold_in(key, 1), 3 * terms.judged)
        return found

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
        videos = guess(moving, frozen, {name: value[0] for name, value in batch.items() if name != _CUT})
        # Without the overlap, which was coded amid a clip: decoded as the start of one, its colours are off.
        time = model.vae.stride_time
        rows = [np.concatenate(list(np.asarray(v)[time::time]), axis=1) for v in videos]
        return {"truth_readout_one_step": ((np.concatenate(rows) + 1) * 127.5).round().astype(np.uint8)}

    def batches(split=config.split):
        found = coded.batches(
            config,
            skipped,
            model.vae.stride_time,
            model.dit,
            pixels=config.memory == "rgb" or terms.judged > 0,
            split=split,
        )
        if len(cuts) == 1:
            return found
        draw = functools.partial(_drawn_cut, lengths=tuple(length for length, _ in cuts))
        return found.seed(config.seed).random_map(draw)

    def finish(moving, frozen, _):
        with weights.on_host():
            parts = _apart(frozen) | moving
        return model, {part: value for part, value in parts.items() if part not in _MADE}

    return Stage(
        init=init,
        frozen=frozen,
        loss=batch_loss(computed, augment, with_memory, config.memory, config.shift, cuts=cuts, terms=terms),
        batches=batches,
        preview=preview,
        finish=finish,
        counters=skipped.counters,
        start={part: params[part] for part in trainable if part in params},
    )


def _apart(frozen: Any) -> Any:
    """Frozen parts with the blocks of the backbone as files have them."""
    return frozen | {"dit": blocks.apart(frozen["dit"])} if "dit" in frozen else frozen


@dataclasses.dataclass(frozen=True)
class Terms:
    """What a loss has beside the error of latents.

    Attributes:
      perceptual_weight: of LPIPS of `judged` decoded frames in a row, 0 for no such term.
      judged: frames that are decoded.
      crop: pixels of a side of the part that is decoded; 0 for all.
      adversarial_weight: of what the discriminator says of them, 0 for none.
      own_output: share of the steps in which the model remembers a segment of its own.
      unseen_weight: of the error of latents where the memory shows nothing: what nobody can know should look right,
        and a squared error asks for the mean of all that it could be.
    """

    perceptual_weight: float = 0.0
    judged: int = 0
    crop: int = 0
    adversarial_weight: float = 0.0
    own_output: float = 0.0
    unseen_weight: float = 1.0


def batch_loss(
    model: ModelConfig,
    augment: posed.Augmentation,
    with_memory: bool,
    memory: str = "latent",
    shift: float = flow.SHIFT,
    *,
    cuts: tuple[tuple[int, int], ...] = (),
    terms: Terms = Terms(),
):
    """The loss of a stage (see `Stage`): memory (of `MEMORIES`) and examples of every clip are made on the way.

    `shift` moves the noise levels that are trained towards pure noise (`flow.sample_sigma`). `cuts` are pairs (latent
    frames of a segment, examples of each clip); `_drawn_cut` says in a batch which it is for. None means one example as
    `model` has it.
    """
    examples_of = dict(cuts) or {model.segment.latents: 1}

    def loss(moving, frozen, batch, keys):
        batch = dict(batch)
        length = batch.pop(_CUT).shape[1] if _CUT in batch else next(iter(examples_of))
        cut, examples = model.with_segments_of(length), examples_of[length]
        parts = {**frozen, **moving}
        own = jax.random.bernoulli(jax.random.fold_in(keys[0], 4), terms.own_output)

        def one(sample, key):
            clip, text = posed.from_batch(sample), sample.get("text")
            start_key, example_key, noise_key = jax.random.split(key, 3)
            start = posed.random_start(start_key, cut, len(clip.latents))
            known = clip
            if terms.own_output:
                given = jax.lax.stop_gradient(parts), jax.random.fold_in(key, 2), clip, start
                make = lambda: _with_own(cut, *given, augment, with_memory, memory, text)  # noqa: E731
                known = jax.lax.cond(own, make, lambda: clip)
            example = posed.make_training_example(example_key, cut, known, start, augment, **_further(parts, memory))
            example = example.replace(target=posed.target(cut, clip, start))
            error, guess = example_loss(cut, parts, example, noise_key, with_memory, text, shift, terms.unseen_weight)
            found = {"error": error, "visible": example.visible[1:].mean()}
            if terms.judged:
                found |= _seen_errors(cut, parts, jax.random.fold_in(key, 1), guess, clip, start, terms)
            return found

        def some(sample, key):
            return jax.vmap(lambda key: one(sample, key))(jax.random.split(key, examples))

        metrics = jax.tree.map(jnp.mean, partition.over_batch(one if examples == 1 else some)(batch, keys))
        if not terms.judged:
            return metrics.pop("error"), metrics
        total = metrics["error"] + terms.perceptual_weight * metrics["lpips"]
        if terms.adversarial_weight:
            total += terms.adversarial_weight * metrics["adversarial"] + metrics["discriminator"]
        return total, metrics

    return loss


def _seen_errors(
    model: ModelConfig,
    parts: Any,
    key: jax.Array,
    guess: jax.Array,
    clip: posed.PosedLatents,
    start: jax.Array,
    terms: Terms,
) -> dict[str, jax.Array]:
    """LPIPS, and losses of the discriminator, of the video frames at which some of the guessed latent frames end.

    `guess` `[T, h, w, C]` has the overlap first, at frame `start` of the clip. They are decoded after true latents, as
    the decoder's past: as the start of a clip their colours would be off. To the discriminator, true is what the
    decoder makes of true latents: pictures it would tell apart by the decoder, at which the generator can do nothing.
    """
    run_key, part_key, corner_key = jax.random.split(key, 3)
    count, time, stride = terms.judged, model.vae.stride_time, model.vae.stride_space
    first = 1 + jax.random.randint(run_key, (), 0, len(guess) - count)
    corner = jnp.zeros(2, jnp.int32)
    if terms.crop:
        corner = jax.random.randint(corner_key, (2,), 0, jnp.array(guess.shape[1:3]) - terms.crop // stride + 1)

    def part(video, scale):
        """What is judged of `[T, h, w, c]`, at `scale` pixels of it a latent cell."""
        if not terms.crop:
            return video
        side = terms.crop * scale // stride
        return jax.lax.dynamic_slice(video, (0, *(scale * corner), 0), (len(video), side, side, video.shape[-1]))

    cache = None
    if max(model.vae.time_kernels) > 1:
        past = clip.latents[jnp.maximum(start + first - _LONGEST_PAST + jnp.arange(_LONGEST_PAST), 0)]
        _, cache = vae.decode_stream(model.vae, parts["vae"], part(past, 1))
    run = part(jax.lax.dynamic_slice_in_dim(guess, first, count), 1)
    shown, _ = vae.decode_stream(model.vae, parts["vae"], run, cache)
    shown = shown[time - 1 :: time]
    truth = part(jax.lax.dynamic_slice_in_dim(clip.pixels.frames, start + first, count), stride)
    found = {"lpips": perceptual.distance(part_key, parts["lpips"], shown, truth, count)}
    if terms.adversarial_weight:
        together = lambda frames: jnp.concatenate(list(frames), axis=-1)[None]  # noqa: E731
        true = part(jax.lax.dynamic_slice_in_dim(clip.latents, start + first, count), 1)
        coded = vae.decode_stream(model.vae, parts["vae"], true, cache)[0][time - 1 :: time]
        found |= adversarial.losses(parts[_JUDGE], together(shown), jax.lax.stop_gradient(together(coded)))
    return found


def _with_own(model, parts, key, clip, start, augment, with_memory, memory, text) -> posed.PosedLatents:
    """The clip, the segment that ends with frame `start` as the model itself makes it; as it is where none ends there.

    What it remembers of itself has the errors that it makes, which no noise imitates.
    """
    count = model.segment.latents
    before = start - count
    example_key, noise_key = jax.random.split(key)
    example = posed.make_training_example(
        example_key, model, clip, jnp.maximum(before, 0), augment, **_further(parts, memory)
    )
    made = one_step(model, parts, example, noise_key, with_memory, text)[1:]
    at = jnp.where(before >= 0, before + 1, 0)

    def put(whole: jax.Array, new: jax.Array) -> jax.Array:
        there = jax.lax.dynamic_slice_in_dim(whole, at, count)
        return jax.lax.dynamic_update_slice_in_dim(whole, jnp.where(before >= 0, new, there), at, 0)

    changed = clip.replace(latents=put(clip.latents, made))
    if memory == "rgb":
        shown = vae.decode(model.vae, parts["vae"], made)
        changed = changed.replace(pixels=clip.pixels.replace(frames=put(clip.pixels.frames, shown)))
    return changed


def _cuts(config: Any, model: ModelConfig) -> tuple[tuple[int, int], ...]:
    """`config.cuts`, checked; one example of the model's own length where there are none."""
    cuts = tuple((int(length), int(examples)) for length, examples in config.cuts)
    for length, examples in cuts:
        model.with_segments_of(length)
        if examples < 1:
            raise UserError(f"--config.cuts={config.cuts}: expected at least one example of each length")
    return cuts or ((model.segment.latents, 1),)


def _drawn_cut(batch: dict[str, Any], rng: np.random.Generator, lengths: tuple[int, ...]) -> dict[str, Any]:
    """A batch with a length of its own: a shape, so that every length is a program of its own.

    Branches of one program would all hold their memory at once, and a CPU runs them far slower.
    """
    size = len(next(iter(batch.values())))
    return batch | {_CUT: np.zeros((size, lengths[rng.integers(len(lengths))]), np.uint8)}


def _check_terms(config: Any, model: ModelConfig, terms: Terms) -> None:
    side, stride = min(model.height, model.width), model.vae.stride_space
    if terms.crop and (terms.crop % stride or not 0 < terms.crop <= side):
        raise UserError(f"--config.perceptual_crop={terms.crop}: expected a multiple of {stride} up to {side}")
    if terms.judged:
        perceptual.require_size(terms.crop or side, "perceptual_crop" if terms.crop else "model.height")
    if terms.adversarial_weight < 0 or not 0 <= terms.own_output <= 1:
        raise UserError(
            f"--config.adversarial_weight={terms.adversarial_weight}, --config.own_output={terms.own_output}: expected "
            "0 or more, and 0 to 1"
        )
    if not 0 <= terms.unseen_weight <= 1:
        raise UserError(f"--config.unseen_weight={terms.unseen_weight}: expected 0 to 1")
    if terms.adversarial_weight and not terms.judged:
        raise UserError("--config.adversarial_weight needs --config.perceptual_weight, whose decoded frames it judges")
    if terms.own_output and model.vae.stride_time > 1:
        raise UserError("--config.own_output is for models with one latent a frame")


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
    unseen_weight: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """Loss of one example at a random noise level, and the clean target as guessed from there (`one_step`)."""
    sigma_key, noise_key = jax.random.split(key)
    sigma = flow.sample_sigma(sigma_key, shift)
    noise = jax.random.normal(noise_key, example.target.shape)
    output, guess = _predict(model, parts, example, noise, sigma, with_memory, text)
    target = flow.training_target(example.target, noise, model.dit.prediction)
    weights = jnp.where(example.visible, 1.0, unseen_weight)
    return flow.loss(output, target, _clean(example), weights), guess


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

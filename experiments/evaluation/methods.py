"""The same clip made by several methods.

Methods: `latent`, `rgb` and `none` are worlds that differ in their memory; `readout` decodes what the latent memory
shows without a generator (see `shown`); `flat` is the mean colour of the first frame. `oracle` is a ceiling: the latent
memory that the generator reads at every segment was written from the true frames before it. `context` is a world
without memory whose weights were trained with a longer window of preceding frames. Names of `ablations.TABLE` are
`latent` with one thing changed, and any other name is `latent` with weights of its own. Each is run on the true
cameras.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from experiments.evaluation import ablations
from mirage_jax import world
from mirage_jax.data.clip import PosedClip
from mirage_jax.evaluation.truth import camera_of, coded_truth, memory_of, shown, to_frames
from mirage_jax.geometry import Camera
from mirage_jax.memory import kinds
from mirage_jax.models.codec import Codec
from mirage_jax.models.config import ModelConfig
from mirage_jax.world import recipe as recipes
from mirage_jax.world import sound

METHODS = ("latent", "rgb", "none", "readout", "flat")
MORE_METHODS = ("oracle", "context")
"""Also possible; `context` only with weights of its own, whose window holds as many frames as memory's references."""


@dataclasses.dataclass(frozen=True)
class Models:
    """What is compared.

    Attributes:
      model, params: of the model under test, with all parts.
      others: method -> model and parameters, for methods that have weights of their own.
    """

    model: ModelConfig
    params: Any
    others: Mapping[str, tuple[ModelConfig, Any]] = dataclasses.field(default_factory=dict)

    def on(self, device: Any) -> Models:
        """The same with all parameters on one device."""
        others = {name: (model, jax.device_put(params, device)) for name, (model, params) in self.others.items()}
        return Models(self.model, jax.device_put(self.params, device), others)


def generate(
    models: Models,
    clip: PosedClip,
    *,
    observed: int,
    methods: Sequence[str] = METHODS,
    true_depth: bool,
    seed: int,
    steps: int = 0,
) -> dict[str, np.ndarray]:
    """The frames of a clip after the first `observed`, by method.

    Args:
      models: what is compared.
      clip: the truth; `observed` and what follows are `4k + 1` and whole segments.
      observed: frames given to the world, from the start; 1 gives the first frame only.
      methods: of `METHODS`, `MORE_METHODS`, `ablations.TABLE` and `models.others`.
      true_depth: whether the observed frames come with their true depth and moving actors, or the heads guess.
      seed: of the noise.
      steps: of the sampler, for all methods; 0 as `models.model` was made for.

    Returns:
      method -> uint8 `[T - observed, H, W, 3]`, without ablations that would be `latent` itself here.

    Raises:
      UserError: if the model lacks what an ablation changes.
    """
    own, steps = models.others, steps or recipes.of(models.model).steps
    methods = [m for m in methods if ablations.TABLE.get(m, ablations.NOTHING).applies(true_depth)]
    worlds = [("latent", "readout")] if {"latent", "readout"} <= set(methods) - set(own) else []
    worlds += [(method,) for method in methods if method != "flat" and not any(method in w for w in worlds)]
    made: dict[str, np.ndarray] = {}
    for group in worlds:
        mine, weights = own.get(group[0], (models.model, models.params))
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
    model, params = ablation.changed(run.model), run.params
    memory = name if name in kinds.names() else "none" if name == "context" else "latent"
    cameras, count = camera_of(clip), model.segment_frames
    segments = (len(clip) - observed) // count
    path = jax.tree.map(lambda x: x[observed:].reshape(segments, count, *x.shape[1:]), cameras)
    frames_held = (observed - 1) // model.vae.stride_time
    capacity = world.full_capacity(model, memory, segments + -(-frames_held // model.segment.latents))
    recipe = dataclasses.replace(recipes.of(model), **ablation.recipe)
    recipe = dataclasses.replace(recipe, steps=run.steps)
    config = world.WorldConfig(model=model, memory=memory, capacity=capacity, bank=64, recipe=recipe)
    depth, dynamic = ablation.observed(clip, observed, run.true_depth, run.seed)
    key = jax.random.key(run.seed)
    state = world.observe(config, params, clip.frames[:observed], depth, cameras[:observed], key, dynamic)
    decoder, change = state.decoder, None
    if name == "oracle":
        change = _true_memory(config, params, clip, observed)
    given = ablation.generated(model, clip, observed, run.seed)
    if given is not None:
        config = dataclasses.replace(config, depth_source="given")
    if change is None:
        _, output = world.rollout(config, params, state, path, known=given)
    else:
        output = _by_segment(config, params, state, path, change)
    sound.check_output(output, f"{clip.source}, method {name}")
    made = {method: np.asarray(output.frames).reshape(-1, *clip.frames.shape[1:]) for method in methods}
    if "readout" in methods:
        readout = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), output.readout)
        made["readout"] = shown(model, params, readout, decoder)
    return made


def recoded(model: ModelConfig, params: Any, clip: PosedClip) -> np.ndarray:
    """The clip's frames through the VAE and back, uint8 `[T, H, W, 3]`."""
    pixels = clip.frames.astype(np.float32) / 127.5 - 1.0
    codec = Codec(model.vae)
    return to_frames(codec.decode(params["vae"], codec.encode(params["vae"], pixels)))


_Change = Callable[[world.RolloutState, int], world.RolloutState]


def _by_segment(config, params, state, path: Camera, change: _Change) -> world.SegmentOutput:
    """What `world.rollout` gives, of one in which the state is changed before every segment."""
    outputs = []
    for segment in range(len(path)):
        state, output = world.segment(config, params, change(state, segment), path[segment])
        outputs.append(jax.device_get(output))
    return jax.tree.map(lambda *x: np.stack(x), *outputs)


def _true_memory(config, params, clip: PosedClip, observed: int) -> _Change:
    """Puts the memory of the true frames before a segment in the place of what was written."""
    model = config.model
    coded = coded_truth(model, params, clip)

    def change(state: world.RolloutState, segment: int) -> world.RolloutState:
        before = 1 + (observed - 1 + segment * model.segment_frames) // model.vae.stride_time
        among = np.arange(len(coded.latents)) < before
        return state.replace(memory=memory_of(model, config.capacity, coded, among))

    return change

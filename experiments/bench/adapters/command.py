"""Makes the videos that a benchmark asks for, or checks them: flags and loop of every adapter.

Importing this defines the flags; an adapter adopts them (`absl.flags.adopt_module_key_flags`) and adds its own.
"""

from __future__ import annotations

import contextlib
import math
import pathlib
import sys
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import PIL.Image
import tqdm
from absl import flags

from experiments.bench.adapters import text as texts
from experiments.bench.adapters.sample import NOT_MADE, UNFINISHED, Sample, Views
from experiments.evaluation import runner
from experiments.shared import cli, inputs, loading
from mirage_jax import data, weights, world
from mirage_jax.errors import UserError
from mirage_jax.memory import kinds
from mirage_jax.models import codec
from mirage_jax.models.config import ModelConfig
from mirage_jax.world import sound

_DATASET = flags.DEFINE_string("dataset", None, "The benchmark's data, as unpacked; see the top of this help.")
_OUT = flags.DEFINE_string("out", None, "Folder for the results.", required=True)
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Model folder; default: the model that ships with the project.")
_SAMPLES = flags.DEFINE_integer("samples", None, "At most so many samples of a split, spread over it; default all.")
_PART = flags.DEFINE_string("part", None, "i/n takes every n-th sample from the i-th; processes that share --out.")
_CHECK = flags.DEFINE_bool("check", False, "Only look through the data set and what is finished.")
_DRY_RUN = flags.DEFINE_bool(
    "dry_run",
    False,
    "Run no model: each video is its first picture held still, in the right layout with the right cameras. Without "
    "--dataset, on a small synthetic data set that is written to OUT/sample_dataset.",
)
_PROMPTS = flags.DEFINE_enum(
    "prompts", "benchmark", ["benchmark", "empty"], "For a model with text: the benchmark's prompts, or the empty one."
)
_TOKENIZER = flags.DEFINE_string(
    "tokenizer", None, "tokenizer.json, spiece.model or their folder; default: the model's."
)
_TEXT_EMBEDDINGS = flags.DEFINE_string(
    "text_embeddings", None, "File of experiments.encode_text that holds the prompts, in place of the text encoder."
)
_MEMORY = flags.DEFINE_enum("memory", "latent", kinds.names(), "What is remembered.")
_RECIPE = flags.DEFINE_enum(
    "recipe",
    None,
    tuple(world.RECIPES),
    "How the method is run (mirage_jax/world/recipe.py); default: the model's own.",
)
_WEIGHTS = flags.DEFINE_enum(
    "weights", None, loading.WEIGHTS, "Type of the transformer's weights; default: the one the model computes in."
)
_MESH = flags.DEFINE_list("mesh", None, "Split the model over devices: AXIS=SIZE,.. with fsdp, tensor, sequence.")
_VAE_TILE = flags.DEFINE_integer("vae_tile", None, "As for experiments.generate.")
_VAE_DTYPE = flags.DEFINE_enum("vae_dtype", "float32", codec.DTYPES, "In which the VAE computes.")
_STEPS = flags.DEFINE_integer(
    "steps", 0, "Sampling steps; 0: those of the recipe.", lower_bound=0, upper_bound=world.recipe.MOST_STEPS
)
_SEED = flags.DEFINE_integer(
    "seed", 0, "With a sample's name, decides everything random.", lower_bound=0, upper_bound=cli.LARGEST_SEED
)

_DECISIVE = ("prompts", "memory", "recipe", "weights", "vae_tile", "vae_dtype", "steps", "seed")


class Benchmark(NamedTuple):
    """What an adapter tells of its benchmark.

    Attributes:
      read: the samples that the adapter's own flags ask for, from the folder of `--dataset`.
      write_sample_dataset: writes a small data set of the benchmark's layout into a folder.
      decisive: values that decide what the videos look like, by name, for a model: results of others are refused.
      register: writes what tells the scorer of all results in a folder, and returns a sentence on what it is.
    """

    read: Callable[[str], Sequence[Sample]]
    write_sample_dataset: Callable[[pathlib.Path], None]
    decisive: Callable[[ModelConfig], dict[str, Any]]
    register: Callable[[pathlib.Path, ModelConfig, Sequence[Sample]], str]


def thinned(samples: Sequence[Sample]) -> list[Sample]:
    """As many samples of a split as `--samples` asks for."""
    return [samples[index] for index in data.spread(len(samples), _SAMPLES.value)]


def run(benchmark: Benchmark) -> None:
    """Makes the videos, or checks them."""
    if _SAMPLES.value is not None and _SAMPLES.value < 1:
        raise UserError(f"--samples is {_SAMPLES.value}, expected at least 1")
    first, step = cli.part_of(_PART.value)
    chosen = benchmark.read(_dataset(benchmark))
    samples = chosen[first::step]
    if _CHECK.value:
        return _check(samples)
    out = cli.prepare_output(_OUT.value)
    cli.keep_compiled_programs()
    folder = _CHECKPOINT.value or weights.DEFAULT
    model, mesh = weights.read_config(folder), loading.parse_mesh(_MESH.value)
    texts.check_flags(model, _PROMPTS.value, text_embeddings=_TEXT_EMBEDDINGS.value, tokenizer=_TOKENIZER.value)
    config = _world_config(model, max((sample.frames for sample in chosen if sample.fault is None), default=2))
    if config.depth_from == "given":
        raise UserError(
            f"{folder}: the model {model.name!r} guesses no depth (no heads, no depth network): none is given"
        )
    plan = {name: cli.flag_values()[name] for name in _DECISIVE} | benchmark.decisive(model)
    plan |= {"dry_run": True} if _DRY_RUN.value else {}
    runner.start(out, plan | {"model": model.digest()})
    cli.write_run_config(out, cli.flag_values())

    left = [sample for sample in samples if sample.fault or sample.lacks(out)]
    refused = _make(left, len(samples), out, folder, config, mesh) if left else 0
    with contextlib.suppress(OSError):  # another part works there
        (out / UNFINISHED).rmdir()
    print(f"{len(samples) - refused} of {len(samples)} samples are in {out}; {benchmark.register(out, model, chosen)}")
    if refused:
        raise UserError(f"{refused} of {len(samples)} samples could not be made; each is named above")


def _dataset(benchmark: Benchmark) -> str:
    if _DATASET.value is not None:
        return _DATASET.value
    if not _DRY_RUN.value:
        raise UserError("--dataset is not given; without it there is only --dry_run, on a small synthetic data set")
    folder = pathlib.Path(_OUT.value) / "sample_dataset"
    if not _CHECK.value:
        benchmark.write_sample_dataset(cli.prepare_output(folder))
    return str(folder)


def _make(
    left: Sequence[Sample], total: int, out: pathlib.Path, folder: str | pathlib.Path, config: world.WorldConfig, mesh
) -> int:
    """Makes the samples that are left of a total; returns how many could not be made."""
    model, refused, params = config.model, 0, None
    text: texts.Text = lambda sample: None  # noqa: E731
    if not _DRY_RUN.value or _TEXT_EMBEDDINGS.value is not None:
        text = texts.of_samples(
            out,
            folder,
            model,
            [sample for sample in left if sample.fault is None],
            source=_PROMPTS.value,
            text_embeddings=_TEXT_EMBEDDINGS.value,
            tokenizer=_TOKENIZER.value,
        )
    if not _DRY_RUN.value:
        loading.check_room(config, folder, _WEIGHTS.value, mesh)
        params = loading.prepared(config, folder, _WEIGHTS.value, mesh)
    for sample in tqdm.tqdm(left, initial=total - len(left), total=total, unit="sample", mininterval=5):
        try:
            if sample.fault is not None:
                raise UserError(sample.fault)
            views, conditions = sample.views(model), text(sample)
        except UserError as error:
            refused += 1
            tqdm.tqdm.write(f"not made: {sample.label}: {error}", file=sys.stderr)
            continue
        if _DRY_RUN.value:
            frames = np.broadcast_to(views.image, (len(views.path), *views.image.shape))
        else:
            with loading.on_mesh(mesh):
                frames = _generate(config, params, sample, views, conditions)
        sample.save(out, views, _scaled(frames, views.size), model.fps)
    return refused


def _check(samples: Sequence[Sample]) -> None:
    """Prints what is wrong with the samples and with their results."""
    out, wrong, states = pathlib.Path(_OUT.value), 0, {"finished": 0, "left to make": 0}
    for sample in tqdm.tqdm(samples, unit="sample", mininterval=5):
        sentences = [sample.fault] if sample.fault else []
        if not sentences:
            sentences = [f"no file {file}" for file in sample.missing()]
            lack = sample.lacks(out)
            if lack is not None and lack != NOT_MADE:
                sentences.append(f"its result is not whole and will be made again: {lack}")
            if lack is None and (bad := sample.damaged(out)):
                sentences.append(f"damaged files in its result, delete it to have it made again: {', '.join(bad[:3])}")
            states["finished" if lack is None else "left to make"] += 1
        for sentence in sentences:
            tqdm.tqdm.write(f"{sample.label}: {sentence}", file=sys.stderr)
        wrong += bool(sentences)
    print(f"{len(samples)} samples: {', '.join(f'{count} {state}' for state, count in states.items())}")
    if wrong:
        raise UserError(f"{wrong} of {len(samples)} samples have something wrong; each is named above")


def _world_config(model: ModelConfig, frames: int) -> world.WorldConfig:
    """The static sizes, of the longest video and the same for all, so that one program makes them."""
    segments = math.ceil((frames - 1) / model.segment_frames)
    return world.WorldConfig(
        model=model,
        memory=_MEMORY.value,
        **loading.room(model, _MEMORY.value, segments),
        recipe=loading.recipe(model, _RECIPE.value, _STEPS.value),
        vae_tile=_VAE_TILE.value,
        vae_dtype=_VAE_DTYPE.value,
    )


def _generate(
    config: world.WorldConfig, params: Any, sample: Sample, views: Views, text: np.ndarray | None
) -> np.ndarray:
    """uint8 `[T, H, W, 3]` at the model's size; the first one is the picture as the model saw it."""
    segments, wanted = inputs.whole_segments(views.path, config.model.segment_frames)
    prompts = sample.prompt_of_segments(len(segments), config.model.segment_frames)
    key = jax.random.fold_in(jax.random.key(_SEED.value), zlib.crc32(sample.label.encode()))
    state = world.init(config, params, views.image, None, views.path[0], key)
    made = [views.image[None]]
    for index in range(len(segments)):
        prompt = None if text is None else text[prompts[index]]
        state, output = world.segment(config, params, state, segments[index], prompt, donate=True)
        sound.check_output(output, f"{sample.label}, segment {index + 1}")
        made.append(np.asarray(output.frames))
    return np.concatenate(made)[: 1 + wanted]


def _scaled(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if frames.shape[1:3] == size:
        return frames
    pictures = (PIL.Image.fromarray(frame) for frame in frames)
    return np.stack([np.asarray(p.resize((size[1], size[0]), PIL.Image.Resampling.BICUBIC)) for p in pictures])

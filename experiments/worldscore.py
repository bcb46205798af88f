"""Makes the videos of the WorldScore benchmark, laid out for its public scorer.

    python -m experiments.worldscore --dataset WorldScore-Dataset --checkpoint models/wan22 --out out/worldscore

Stopped at any time, the same command goes on; `--part 0/8` .. `--part 7/8` share the work. A sample that cannot be made
is named, the others go on, and the command ends with an error. `--check` runs no model: it looks through the data set
and what is finished.

To score: copy OUT/mirage_jax.yaml to the scorer's config/model_configs/, put mirage_jax under "videogen" in its
worldscore/benchmark/utils/modeltype.py, and run its worldscore/run_evaluate.py --model_name mirage_jax.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import pathlib
import sys
import zlib
from collections.abc import Callable

import jax
import numpy as np
import PIL.Image
import tqdm
from absl import flags

from experiments.bench.worldscore import files, paths
from experiments.bench.worldscore.files import Sample
from experiments.shared import cli, inputs, loading, prompts
from mirage_jax import data, weights, world
from mirage_jax.data.text_embeddings import TextEmbeddings
from mirage_jax.data.text_embeddings import save as save_embeddings
from mirage_jax.errors import UserError
from mirage_jax.evaluation import runner
from mirage_jax.memory import kinds
from mirage_jax.models import codec
from mirage_jax.world import sound

_DATASET = flags.DEFINE_string("dataset", None, "WorldScore-Dataset, as its download.py unpacks it.", required=True)
_OUT = flags.DEFINE_string("out", None, "Folder for worldscore_output.", required=True)
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Model folder; default: the model that ships with the project.")
_SPLIT = flags.DEFINE_list("split", list(paths.SPLITS), "Splits to make.")
_SAMPLES = flags.DEFINE_integer("samples", None, "At most so many samples of a split, spread over it; default all.")
_PART = flags.DEFINE_string("part", None, "i/n takes every n-th sample from the i-th; processes that share --out.")
_CHECK = flags.DEFINE_bool("check", False, "Only look through the data set and what is finished.")
_FRAMES = flags.DEFINE_integer(
    "frames", paths.FRAMES, "Frames of one move of the camera, first and last included; a video has one to three."
)
_RESOLUTION = flags.DEFINE_list(
    "resolution",
    None,
    "W,H of the frames that are scored, on which the focal length is 500 pixels. Default: the model's, or 512,512 and "
    "its like in area for smaller models, since the scorer scales all frames to that.",
)
_CAMERA_SPEED = flags.DEFINE_float(
    "camera_speed", 1.0, "Scene units (metres, for a model with metric depth) of a push; the scorer divides them out."
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

_NAME = "mirage_jax"
_ENCODED_AT_ONCE = 256  # prompts: 2 GB of embeddings of the largest text encoder

Text = Callable[[Sample], np.ndarray | None]
"""`[moves, tokens, dim]` of a sample, or None for a model without text."""


def main(_) -> None:
    """Makes them, or checks."""
    chosen = _chosen()
    first, step = cli.part_of(_PART.value)
    samples = chosen[first::step]
    if _CHECK.value:
        return _check(samples)
    out = cli.prepare_output(_OUT.value)
    cli.keep_compiled_programs()
    folder = _CHECKPOINT.value or weights.DEFAULT
    model, mesh = weights.read_config(folder, _MEMORY.value), loading.parse_mesh(_MESH.value)
    scored = _scored_size(model)
    _check_text_flags(model)
    config = _world_config(model, max((len(s.moves) for s in chosen if s.fault is None), default=1))
    if config.depth_from == "given":
        raise UserError(
            f"{folder}: the model {model.name!r} guesses no depth (no heads, no depth network): none is given"
        )
    decisive = (
        "frames",
        "camera_speed",
        "prompts",
        "memory",
        "recipe",
        "weights",
        "vae_tile",
        "steps",
        "seed",
    )
    plan = {name: cli.flag_values()[name] for name in decisive}
    runner.start(out, plan | {"model": model.digest(), "resolution": list(scored[::-1])})
    cli.write_run_config(out, cli.flag_values())
    registered = files.write_model_config(
        out, _NAME, scored, move_frames=_FRAMES.value, speed=_CAMERA_SPEED.value, fps=model.fps
    )

    left = [s for s in samples if s.fault or files.lacks(out, s, _FRAMES.value)]
    refused = 0
    if left:
        text = _text(out, folder, model, [sample for sample in left if sample.fault is None])
        params = loading.prepared(config, folder, _WEIGHTS.value, mesh)
        done = len(samples) - len(left)
        for sample in tqdm.tqdm(left, initial=done, total=len(samples), unit="sample", mininterval=5):
            try:
                picture, conditions = _inputs(sample, scored, text)
            except UserError as error:
                refused += 1
                tqdm.tqdm.write(f"not made: {sample.folder}: {error}", file=sys.stderr)
                continue
            with loading.on_mesh(mesh):
                frames = _generate(config, params, sample, picture, conditions)
            files.save(
                out,
                sample,
                picture,
                _scaled(frames, scored),
                move_frames=_FRAMES.value,
                speed=_CAMERA_SPEED.value,
                fps=model.fps,
            )
        with contextlib.suppress(OSError):  # another part works there
            (out / ".unfinished").rmdir()
    print(f"{len(samples) - refused} of {len(samples)} samples are in {out}/{files.OUTPUT}; see {registered}")
    if refused:
        raise UserError(f"{refused} of {len(samples)} samples could not be made; each is named above")


def _chosen() -> list[Sample]:
    """The samples that the flags ask for, of all parts."""
    if _FRAMES.value < 2:
        raise UserError(f"--frames is {_FRAMES.value}, expected at least 2 a move")
    if _SAMPLES.value is not None and _SAMPLES.value < 1:
        raise UserError(f"--samples is {_SAMPLES.value}, expected at least 1")
    if not (math.isfinite(_CAMERA_SPEED.value) and _CAMERA_SPEED.value > 0):
        raise UserError(f"--camera_speed is {_CAMERA_SPEED.value}, expected a number above 0")
    if unknown := [split for split in _SPLIT.value if split not in paths.SPLITS]:
        raise UserError(f"--split: unknown {unknown[0]!r}, expected some of {', '.join(paths.SPLITS)}")
    chosen = []
    for split in dict.fromkeys(_SPLIT.value):
        found = files.read(_DATASET.value, split)
        chosen += [found[index] for index in data.spread(len(found), _SAMPLES.value)]
    return chosen


def _check(samples: list[Sample]) -> None:
    """Prints what is wrong with the samples and with their results."""
    out, wrong, states = pathlib.Path(_OUT.value), 0, {"finished": 0, "left to make": 0}
    for sample in tqdm.tqdm(samples, unit="sample", mininterval=5):
        sentences = [sample.fault] if sample.fault else []
        if not sentences:
            sentences = [f"no file {sample.root / name}" for name in sample.missing()]
            lack = files.lacks(out, sample, _FRAMES.value)
            if lack is not None and (out / files.OUTPUT / sample.folder).is_dir():
                sentences.append(f"its result is not whole and will be made again: {lack}")
            if lack is None and (bad := files.damaged_frames(out, sample)):
                sentences.append(f"damaged frames in its result, delete it to have it made again: {', '.join(bad[:3])}")
            states["finished" if lack is None else "left to make"] += 1
        for sentence in sentences:
            tqdm.tqdm.write(f"{sample.folder}: {sentence}", file=sys.stderr)
        wrong += bool(sentences)
    print(f"{len(samples)} samples: {', '.join(f'{count} {state}' for state, count in states.items())}")
    if wrong:
        raise UserError(f"{wrong} of {len(samples)} samples have something wrong; each is named above")


def _scored_size(model) -> tuple[int, int]:
    """Rows and columns of the frames that are scored."""
    if _RESOLUTION.value is None:
        return paths.scored_size(model.height, model.width)
    words = _RESOLUTION.value
    if len(words) != 2 or not all(word.strip().isdigit() and int(word) >= 16 for word in words):
        raise UserError(f"--resolution {','.join(words)}: expected W,H in pixels, at least 16 each")
    return int(words[1]), int(words[0])


def _world_config(model, moves: int) -> world.WorldConfig:
    """The static sizes, of the longest video and the same for all, so that one program makes them."""
    segments = math.ceil(moves * (_FRAMES.value - 1) / model.segment_frames)
    return world.WorldConfig(
        model=model,
        memory=_MEMORY.value,
        **loading.room(model, _MEMORY.value, segments),
        recipe=loading.recipe(model, _RECIPE.value, _STEPS.value),
        vae_tile=_VAE_TILE.value,
        vae_dtype=_VAE_DTYPE.value,
    )


def _reads_text(model) -> bool:
    return model.dit is not None and model.dit.text_dim > 0


def _check_text_flags(model) -> None:
    for flag in (_TEXT_EMBEDDINGS, _TOKENIZER):
        if flag.value is not None and not _reads_text(model):
            raise UserError(f"--{flag.name}: the model {model.name!r} was trained without text; leave the flag out")
        if flag.value is not None and _PROMPTS.value == "empty":
            raise UserError(f"--{flag.name} goes with --prompts=benchmark only")


def _text(out: pathlib.Path, folder, model, samples: list[Sample]) -> Text:
    """Where the embeddings of a sample come from; the text encoder has come and gone when this returns."""
    if not _reads_text(model):
        print(f"note: the model {model.name!r} reads no text: the prompts of the data set are not used")
        return lambda sample: None
    if _PROMPTS.value == "empty":
        empty = prompts.for_segments(folder, model, 1)
        return lambda sample: np.broadcast_to(empty, (len(sample.moves), *empty.shape[1:]))
    if _TEXT_EMBEDDINGS.value is not None:
        given = TextEmbeddings(_TEXT_EMBEDDINGS.value)
        given.require(model.dit.text_tokens, model.dit.text_dim)
        return lambda sample: np.stack([given[prompt] for prompt in sample.prompts])
    found = {}
    for file in sorted((out / "prompts").glob("*.safetensors")):
        texts = TextEmbeddings(file)
        texts.require(model.dit.text_tokens, model.dit.text_dim)
        found |= dict.fromkeys(texts.prompts, texts)
    wanted = [prompt for sample in samples for prompt in sample.prompts if prompt not in found]
    wanted = list(dict.fromkeys(wanted))
    for start in range(0, len(wanted), _ENCODED_AT_ONCE):
        block = wanted[start : start + _ENCODED_AT_ONCE]
        file = out / "prompts" / f"{hashlib.sha256(repr(block).encode()).hexdigest()[:16]}.safetensors"
        save_embeddings(file, model.name, block, prompts.embeddings(folder, _TOKENIZER.value, block))
        found |= dict.fromkeys(block, TextEmbeddings(file))
    return lambda sample: np.stack([found[prompt][prompt] for prompt in sample.prompts])


def _inputs(sample: Sample, scored: tuple[int, int], text: Text) -> tuple[PIL.Image.Image, np.ndarray | None]:
    """The picture at the size that is scored, and the embeddings.

    Raises:
      UserError: for a sample that cannot be made.
    """
    if sample.fault is not None:
        raise UserError(sample.fault)
    return paths.centre_crop(sample.picture(), *scored), text(sample)


def _generate(
    config: world.WorldConfig, params, sample: Sample, picture: PIL.Image.Image, text: np.ndarray | None
) -> np.ndarray:
    """uint8 `[T, H, W, 3]` at the model's size; the first one is the picture as the model saw it."""
    model = config.model
    path = paths.cameras(
        sample.moves, _FRAMES.value, (picture.height, picture.width), (model.height, model.width), _CAMERA_SPEED.value
    )
    segments, wanted = inputs.whole_segments(path, model.segment_frames)
    scenes = paths.scene_of_segments(len(segments), model.segment_frames, len(sample.moves), _FRAMES.value)
    view = np.asarray(picture.resize((model.width, model.height), PIL.Image.Resampling.LANCZOS))
    key = jax.random.fold_in(jax.random.key(_SEED.value), zlib.crc32(sample.folder.encode()))
    state = world.init(config, params, view, None, path[0], key)
    made = [view[None]]
    for index in range(len(segments)):
        prompt = None if text is None else text[scenes[index]]
        state, output = world.segment(config, params, state, segments[index], prompt)
        sound.check_output(output, f"{sample.folder}, segment {index + 1}")
        made.append(np.asarray(output.frames))
    return np.concatenate(made)[: 1 + wanted]


def _scaled(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if frames.shape[1:3] == size:
        return frames
    pictures = (PIL.Image.fromarray(frame) for frame in frames)
    return np.stack([np.asarray(p.resize((size[1], size[0]), PIL.Image.Resampling.BICUBIC)) for p in pictures])


if __name__ == "__main__":
    cli.run(main)

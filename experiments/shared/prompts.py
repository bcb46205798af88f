"""From prompts to the embeddings that a model with text reads.

The text encoder is in memory only while it works, and not at all where embeddings were made before: by
`experiments.encode_text`, or for the empty prompt by the first run that needed them.
"""

from __future__ import annotations

import pathlib

import jax.numpy as jnp
import numpy as np
import tqdm

from experiments.shared import tokens as text
from mirage_jax import weights
from mirage_jax.data import text_embeddings
from mirage_jax.errors import UserError
from mirage_jax.models import umt5
from mirage_jax.models.config import ModelConfig
from mirage_jax.weights import model_files

EMPTY_PROMPT = "empty_prompt.safetensors"
"""File of a model folder with the embedding of no prompt."""

NEGATIVE_PROMPT = "negative_prompt.safetensors"
"""File of a model folder with the embedding of `WAN_NEGATIVE`."""

WAN_NEGATIVE = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，丑陋的，残缺的，"  # noqa: RUF001
    "多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"  # noqa: RUF001
)
"""The negative prompt of Wan's own code: garish, overexposed, static, blurred, subtitles, malformed hands and so on."""

_SHORTEST = 32  # tokens; longer prompts are encoded at the next power of two, so that few lengths are compiled


def for_segments(
    folder: str | pathlib.Path,
    model: ModelConfig,
    segments: int,
    *,
    prompt: str | None = None,
    prompt_file: str | None = None,
    embeddings_file: str | None = None,
    tokenizer: str | None = None,
) -> np.ndarray | None:
    """The text of each segment, from whichever of the flags is given; the empty prompt if none is.

    Args:
      folder: of the model.
      model: its config.
      segments: of the video, `S`; where fewer prompts are given, the last one goes on.
      prompt: one for all segments.
      prompt_file: a file with one prompt a line, as `read_prompts` takes it.
      embeddings_file: as `text_embeddings.save` writes it.
      tokenizer: file or folder; by default the one in the model folder.

    Returns:
      float32 `[S, tokens, dim]`, or None for a model without text.

    Raises:
      UserError: if flags contradict each other or the model, a file is missing or damaged, or there are more prompts
        than segments.
    """
    given = check(model, segments, prompt=prompt, prompt_file=prompt_file, embeddings_file=embeddings_file)
    if model.dit is None or not model.dit.text_dim:
        if tokenizer is not None:
            raise UserError(f"--tokenizer: the model {model.name!r} was trained without text; leave the flag out")
        return None
    if embeddings_file is not None:
        values = load(embeddings_file, model)[1]
    elif given is None:
        values = _kept(pathlib.Path(folder), model, EMPTY_PROMPT, "")
    else:
        values = embeddings(folder, tokenizer, [prompt] if prompt is not None else read_prompts(prompt_file))
    _check_count(given or EMPTY_PROMPT, len(values), segments)
    if len(values) == 1:  # a view: a prompt of the full-size model takes 8 MB
        return np.broadcast_to(values, (segments, *values.shape[1:]))
    return values[np.minimum(np.arange(segments), len(values) - 1)]


def check(
    model: ModelConfig,
    segments: int,
    *,
    prompt: str | None = None,
    prompt_file: str | None = None,
    embeddings_file: str | None = None,
) -> str | None:
    """Checks what `for_segments` is given, but for the parts of the model that it reads.

    Returns:
      The name of the flag that gives the text, or None.

    Raises:
      UserError: as `for_segments` does.
    """
    flags = {"--prompt": prompt, "--prompt_file": prompt_file, "--text_embeddings": embeddings_file}
    given = [name for name, value in flags.items() if value is not None]
    if (model.dit is None or not model.dit.text_dim) and given:
        raise UserError(f"{given[0]}: the model {model.name!r} was trained without text; leave the flag out")
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)} exclude each other: give one")
    if prompt_file is not None:
        _check_count(given[0], len(read_prompts(prompt_file)), segments)
    if embeddings_file is not None:
        _check_count(given[0], len(load(embeddings_file, model)[1]), segments)
    return given[0] if given else None


def read_prompts(path: str | pathlib.Path) -> list[str]:
    """The lines of a file, one prompt for each segment; a blank line between others is the empty prompt.

    Raises:
      UserError: if the file is missing, not UTF-8 text, or blank.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"--prompt_file: no file {path}")
    try:
        lines = path.read_text("utf-8-sig").rstrip().split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"--prompt_file {path}: not UTF-8 text ({error})") from error
    if lines == [""]:
        raise UserError(f"--prompt_file {path}: the file is blank, expected one prompt a line")
    return [line.strip() for line in lines]


def embeddings(folder: str | pathlib.Path, tokenizer: str | pathlib.Path | None, prompts: list[str]) -> np.ndarray:
    """Encodes prompts, each different one once, and lets go of the encoder.

    Args:
      folder: of the model; only its 'text' part is read.
      tokenizer: file, or folder that holds one; None means the model folder. Not needed for empty prompts.
      prompts: `n` of them.

    Returns:
      float32 `[n, tokens, dim]`, zero after the end of each prompt.

    Raises:
      UserError: if the model has no text encoder, or the tokenizer is missing, damaged or another model's.
    """
    model = model_files.read_config(pathlib.Path(folder))
    if model.text is None:
        raise UserError(f"{folder}: the model {model.name!r} has no text encoder")
    length = model.dit.text_tokens if model.dit is not None else 512
    tokens = _tokens(pathlib.Path(folder if tokenizer is None else tokenizer), model.text, length, prompts)
    params = weights.load(folder, ("text",), model.text.dtype)[1]["text"]
    values = {}
    for prompt, (ids, mask) in tqdm.tqdm(tokens.items(), "encoding", unit="prompt", disable=len(tokens) == 1):
        shortened = min(length, max(_SHORTEST, 1 << (int(mask.sum()) - 1).bit_length()))
        value = umt5.encode(model.text, params, jnp.asarray(ids[:shortened]), jnp.asarray(mask[:shortened]))
        values[prompt] = np.pad(np.asarray(value), ((0, length - shortened), (0, 0)))
        if not np.isfinite(values[prompt]).all():
            raise UserError(
                f"{folder}: the text encoder gives NaN or infinity for {prompt[:60]!r}; its weights are bad"
            )
    return np.stack([values[prompt] for prompt in prompts])


def load(path: str | pathlib.Path, model: ModelConfig) -> tuple[list[str], np.ndarray]:
    """Reads a file of embeddings whole: the prompts, and float32 `[n, tokens, dim]`.

    Raises:
      UserError: if the file is missing, damaged, or does not fit the model's DiT.
    """
    texts = text_embeddings.TextEmbeddings(path)
    texts.require(model.dit.text_tokens, model.dit.text_dim)
    return list(texts.prompts), np.stack([texts.row(index) for index in range(len(texts))])


def negative(
    folder: str | pathlib.Path, model: ModelConfig, prompt: str | None, tokenizer: str | None = None
) -> np.ndarray:
    """The negative prompt of guidance, float32 `[tokens, dim]`.

    Args:
      folder: of the model.
      model: its config.
      prompt: None is Wan's own, which is encoded once and kept in the model folder.
      tokenizer: file or folder; by default the one in the model folder.

    Raises:
      UserError: if it is not kept yet and the model has no text encoder or tokenizer.
    """
    if prompt is not None:
        return embeddings(folder, tokenizer, [prompt])[0]
    return _kept(pathlib.Path(folder), model, NEGATIVE_PROMPT, WAN_NEGATIVE, tokenizer)[0]


def _kept(folder: pathlib.Path, model: ModelConfig, name: str, prompt: str, tokenizer: str | None = None) -> np.ndarray:
    """The embedding `[1, tokens, dim]` of a prompt that many runs need, from the file that the first of them writes."""
    file, encoder = folder / name, folder / "params.text"
    what = f"the negative prompt {prompt[:8]!r}.." if prompt else "no prompt given"
    converted_again = encoder.is_dir() and file.is_file() and encoder.stat().st_mtime > file.stat().st_mtime
    if file.is_file() and not converted_again:
        return load(file, model)[1]
    try:
        values = embeddings(folder, tokenizer, [prompt])
    except UserError as error:
        raise UserError(f"{what}, and no {name} in the model folder to use instead: {error}") from error
    try:
        text_embeddings.save(file, model.name, [prompt], values)
    except UserError as error:
        kind = "negative" if prompt else "empty"
        print(f"note: the embedding of the {kind} prompt is not kept for the next run: {error}")
    return values


def _tokens(
    tokenizer: pathlib.Path, config: umt5.UMT5Config, length: int, prompts: list[str]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Padded ids and mask of each different prompt."""
    end = np.arange(length) == 0
    found = {"": (np.where(end, text.END, text.PAD).astype(np.int32), end)}
    if any(prompts):
        read = text.Tokenizer(tokenizer)
        if read.vocabulary > config.vocabulary:
            raise UserError(
                f"tokenizer {read.path}: {read.vocabulary} tokens, the text encoder knows {config.vocabulary}"
            )
        for prompt in filter(None, prompts):
            if prompt not in found and (count := read.count(prompt)) > length:
                print(f"note: the prompt {prompt[:60]!r} has {count} tokens, of which the model reads {length}")
            found[prompt] = read(prompt, length)
    return {prompt: found[prompt] for prompt in prompts}


def _check_count(origin: str, prompts: int, segments: int) -> None:
    if prompts > segments:
        raise UserError(f"{origin}: {prompts} prompts for {segments} segments; expected one a segment at most")

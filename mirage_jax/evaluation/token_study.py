"""Benchmark suite `tokens`: which tokens a spatial memory should hold, on posed clips and the VAE of a model.

A memory of all frames but the last segment's is read at the cameras of that segment, and what it shows is compared with
the truth there, token by token at visible cells. Tokens of the video are compared with tokens of the video, tokens of
stills with tokens of stills; the RGB memory's rendering, encoded, with tokens of the video. Errors are in units of the
variance of the true tokens of video, with 95 % intervals over clips: once with all channels alike, and once with each
counted by how much the decoder shows of it (`vae.sensitivity`), which is also listed.

The second table says what a generator has to know to make tokens of video of tokens of stills: the error, on clips that
were not fitted, of a linear map from the stills of one cell, at several frames of a latent frame and before it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mirage_jax import data, weights
from mirage_jax.data.clip import PosedClip
from mirage_jax.errors import UserError
from mirage_jax.evaluation import compare, memory_alone, suite
from mirage_jax.evaluation.statistics import bootstrap_mean
from mirage_jax.models import vae
from mirage_jax.models.config import TOKENS, ModelConfig
from mirage_jax.training import posed

OPTIONS = ("clips", "checkpoint")
CLIPS = 24
FITTED = 16
"""Clips that the linear maps are fitted on; they are tested on the others."""

FRAMES = {
    "the last frame": (0,),
    "the last frame, and that of the latent frame before": (0, 4),
    "every second frame": (0, 2, 4),
    "every frame": (0, 1, 2, 3, 4),
}
"""Which frames a linear map sees, by how many video frames before the end of the latent frame."""

_RIDGE = 10.0
_SPLIT = "train"


def measure(clips: str, checkpoint: str | None) -> dict[str, Any]:
    """Both tables, and the list of channels.

    Args:
      clips: folder of a data set of posed clips; of its training split.
      checkpoint: model folder, for its VAE and segment layout; None for the one that ships.

    Raises:
      UserError: if there are too few clips.
    """
    model, params = weights.load(checkpoint, ["vae"])
    source = data.load_source(clips, _SPLIT)
    if len(source) < CLIPS:
        raise UserError(f"{clips}: suite tokens needs {CLIPS} clips in split {_SPLIT!r}, found {len(source)}")
    errors: dict[str, list[tuple[float, float]]] = {}
    pairs, sensitivities = [], []
    for index in data.spread(len(source), CLIPS):
        clip = suite.whole_segments(source.clip(index), model)
        sensitivities.append(_sensitivity(model, params, clip))
        for name, error in shown_errors(model, params, clip, sensitivities[-1]).items():
            errors.setdefault(name, []).append(error)
        pairs.append(_stills_and_tokens(model, params, clip))
    return {
        "clips": CLIPS,
        "fitted": FITTED,
        "shown": {name: _mean([plain for plain, _ in rows]) for name, rows in errors.items()},
        "shown_as_seen": {name: _mean([seen for _, seen in rows]) for name, rows in errors.items()},
        "sensitivity": [_mean(channel) for channel in np.transpose(sensitivities)],
        "linear": {name: linear_error(pairs[:FITTED], pairs[FITTED:], frames) for name, frames in FRAMES.items()},
    }


def shown_errors(
    model: ModelConfig, params: Any, clip: PosedClip, sensitivity: np.ndarray
) -> dict[str, tuple[float, float]]:
    """Mean squared errors of what memories of a clip show of its last segment, by what they hold.

    Args:
      model, params: of the VAE and the segments.
      clip: of whole segments.
      sensitivity: `[C]`, what a channel counts in the second figure.

    Returns:
      what is held -> error with all channels alike, and with each counted by `sensitivity`; both over the variance of
      the true tokens of video, counted likewise.
    """
    layout, time = model.segment, model.vae.stride_time
    models = {t: dataclasses.replace(model, segment=dataclasses.replace(layout, token=t)) for t in TOKENS}
    coded = compare.coded_truth(models["still"], params, clip)
    begin = len(coded.latents) - layout.latents
    overlap = (begin - 1) * time
    among = np.arange(len(coded.latents)) < begin
    tokens = np.asarray(coded.latents)[1:]
    spread = np.square(tokens - tokens.mean()).mean((0, 1, 2))
    found = {}

    def add(name: str, readout: Any, truth: Any) -> None:
        square = np.square(np.asarray(readout.features) - np.asarray(truth)[begin:])
        error = square[np.asarray(readout.visible)].mean(0)
        plain, seen = (float((error * w).sum() / (spread * w).sum()) for w in (np.ones_like(sensitivity), sensitivity))
        found[name] = plain, seen

    for token, changed in models.items():
        memory = compare.memory_of(changed, coded.depth.size, coded, among)
        readout = memory_alone.read_latent(changed, memory, coded.frame_cameras, overlap)
        add(f"tokens: {token}", readout, posed.tokens(changed, coded))
    cameras = compare.camera_of(clip)
    coloured = memory_alone.coloured(model, clip, cameras, begin)
    views = cameras[overlap : overlap + model.segment_frames + 1]
    rendered = memory_alone.render(model, params, coloured, views)
    add("colours, rendered and encoded", jax.tree.map(lambda x: x[1:], rendered), coded.latents)
    return found


def linear_error(fitted: list, tested: list, frames: tuple[int, ...]) -> float:
    """Error of the best linear map, in units of the variance of the tokens it is tested on.

    Args:
      fitted, tested: `(stills [n, 1 + r, h, w, C], tokens [n, h, w, C])` of each clip; stills from the last frame of a
        latent frame back to that of the one before.
      frames: which of the stills it sees.
    """

    def rows(pairs: list) -> tuple[np.ndarray, np.ndarray]:
        x = np.concatenate(
            [np.moveaxis(s[:, list(frames)], 1, -2).reshape(-1, len(frames) * s.shape[-1]) for s, _ in pairs]
        )
        y = np.concatenate([tokens.reshape(-1, tokens.shape[-1]) for _, tokens in pairs])
        return np.concatenate([x, np.ones((len(x), 1))], axis=1).astype(np.float64), y.astype(np.float64)

    x, y = rows(fitted)
    solution = np.linalg.solve(x.T @ x + _RIDGE * np.eye(x.shape[1]), x.T @ y)
    x, y = rows(tested)
    return float(np.mean((x @ solution - y) ** 2) / y.var())


def markdown(record: dict[str, Any]) -> str:
    """Both tables."""
    lines = [
        f"Read after all frames but the last segment's, {record['clips']} clips: error at visible cells, in units of "
        "the variance of video tokens.",
        "",
        "| what a memory holds | error [95 %] | each channel counted by what the decoder shows of it |",
        "|---|---|---|",
    ]
    for name in record["shown"]:
        rows = (record[column][name] for column in ("shown", "shown_as_seen"))
        lines.append("| " + " | ".join([name, *map(_with_interval, rows)]) + " |")
    lines += [
        "",
        "What the decoder shows of each channel: mean squared change of the frames by white noise in it, mean 1, most "
        "first:",
        "",
        ", ".join(f"{row['mean']:.2f}" for row in sorted(record["sensitivity"], key=lambda row: -row["mean"])),
        "",
        f"A linear map from stills of one cell to its token of video, fitted on {record['fitted']} clips, error on "
        f"{record['clips'] - record['fitted']} others:",
        "",
        "| stills of | error |",
        "|---|---|",
    ]
    lines += [f"| {name} | {error:.3f} |" for name, error in record["linear"].items()]
    return "\n".join([*lines, ""])


def _mean(values: Any) -> dict[str, Any]:
    return dataclasses.asdict(bootstrap_mean(np.array(values)))


def _with_interval(row: dict[str, Any]) -> str:
    return f"{row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def _sensitivity(model: ModelConfig, params: Any, clip: PosedClip) -> np.ndarray:
    """`vae.sensitivity` on the first segment of a clip."""
    pixels = jnp.asarray(clip.frames[: 1 + model.segment_frames], jnp.float32) / 127.5 - 1.0
    tokens = vae.encode(model.vae, params["vae"], pixels)
    return np.asarray(vae.sensitivity(model.vae, params["vae"], tokens, jax.random.key(0)))


def _stills_and_tokens(model: ModelConfig, params: Any, clip: PosedClip) -> tuple[np.ndarray, np.ndarray]:
    """As `linear_error` takes them, of the latent frames from the third on (the first two are still settling)."""
    pixels = jnp.asarray(clip.frames, jnp.float32) / 127.5 - 1.0
    time = model.vae.stride_time
    tokens = np.asarray(vae.encode(model.vae, params["vae"], pixels))[2:]
    stills = np.asarray(vae.encode_still(model.vae, params["vae"], pixels[time:]))
    ends = time * np.arange(1, len(tokens) + 1)
    return stills[ends[:, None] - np.arange(time + 1)], tokens

"""Benchmark suite `merge`: what a memory should do with a place that it sees again, on tokens of real video.

Each clip of the held-out set in which the camera comes back is walked through several times, as in a world: every few
frames the memory is read, a rule of `memory.merge` decides, and what is left enters. Depth is off by 3 %, anew
each time. From the second walk on tokens are as they are, or a little wrong, as those of generated frames. Then every
view is read once more, without writing, decoded, and compared with the clip.

- points: held at the end, in those of one walk in which everything is written.
- PSNR, LPIPS: of the decoded readout against the frames, holes and all.
- PSNR seen: over the pixels of cells that show something.
- token error: mean squared error of these cells' tokens, in units of their variance.
- holes: cells that show nothing.

A second table has the differences to rule `first`, clip by clip.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench import records
from experiments.evaluation.statistics import bootstrap_mean
from mirage_jax import data, weights
from mirage_jax.evaluation import metrics, truth
from mirage_jax.memory import latent, merge, points
from mirage_jax.memory.points import PointMemory, Readout
from mirage_jax.models import vae
from mirage_jax.training import encode, posed
from mirage_jax.training.posed import PosedLatents
from mirage_jax.world import recipe as recipes

OPTIONS = ("out", "clips", "checkpoint")
SPLITS = ("there_and_back", "closed_loop")
FIGURES = {"points": 2, "PSNR": 2, "PSNR seen": 2, "LPIPS": 3, "token error": 3, "holes": 4}
BASE = "first"
"""Rule that the others are compared with: that of the model that ships."""

WALKS = 3
APART = 4
"""Video frames from one that is looked at to the next, at least."""

DEPTH_ERROR = 0.03
TOKEN_ERRORS = (0.0, 0.3)
"""Standard deviation of what tokens are off by from the second walk on, in theirs."""


def measure(out: pathlib.Path, clips: str, checkpoint: str | None) -> dict[str, Any]:
    """The figures of every clip and rule; the record that `markdown` prints.

    Clips are taken in a random order: a run that is stopped goes on where it was, and has some of every kind.

    Args:
      out: folder of `merge.json`, to go on from.
      clips: folder of the held-out set.
      checkpoint: a model with a VAE; None is the one that ships.
    """
    model, params = weights.load(checkpoint, ["vae"])
    sources = {split: data.load_source(clips, split) for split in SPLITS}
    specs = [{"split": split, "index": index} for split, source in sources.items() for index in range(len(source))]
    # Neighbours of a VAE that codes every frame are nearly the same view.
    every = max(APART // model.vae.stride_time, 1)

    def make(spec: Mapping[str, Any]) -> dict[str, Any]:
        clip = sources[spec["split"]].clip(spec["index"])
        sample = posed.from_batch(encode.code(model, params, clip))
        sample = jax.tree.map(lambda x: x[::every], sample)
        frames = clip.frames[:: model.vae.stride_time * every]
        found = []
        for error in TOKEN_ERRORS:
            for rule in merge.RULES:
                memory, shown = walked(rule, model, sample, jax.random.key(spec["index"]), error)
                figures = _figures(model, params, sample, frames, memory, shown)
                found.append({"rule": rule, "token_error": error, **figures})
        return {"clip": clip.source, "found": found}

    order = np.random.default_rng(0).permutation(len(specs)).tolist()
    same = {"model": model.name, "walks": WALKS, "depth_error": DEPTH_ERROR, "frames_apart": APART}
    return records.resumed(out / "merge.json", [specs[i] for i in order], make, same=same)


def markdown(record: dict[str, Any]) -> str:
    """Two tables for each error of tokens, over clips with 95 % intervals: means, and means of what differs."""
    what = f"{len(record['rows'])} clips, walked {record['walks']} times, a view every {record['frames_apart']} frames"
    lines = [f"{what}; model {record['model']}; depth off by 3 % each time."]
    for error in sorted({found["token_error"] for row in record["rows"] for found in row["found"]}):
        of = {rule: _values(record["rows"], rule, error) for rule in merge.RULES}
        lines += ["", f"Tokens off by {error} standard deviations from the second walk on", ""]
        lines += _table("rule", of, signed=False)
        paired = {
            rule: {name: value - of[BASE][name] for name, value in values.items()}
            for rule, values in of.items()
            if rule != BASE
        }
        lines += ["", *_table(f"less {BASE}, clip by clip", paired, signed=True)]
    return "\n".join([*lines, ""])


def _values(rows: list[dict[str, Any]], rule: str, error: float) -> dict[str, np.ndarray]:
    """Figures by name, `[clips]` in the same order for every rule."""
    of = [one for row in rows for one in row["found"] if (one["rule"], one["token_error"]) == (rule, error)]
    return {name: np.array([one[name] for one in of]) for name in FIGURES}


def _table(head: str, values: dict[str, dict[str, np.ndarray]], *, signed: bool) -> list[str]:
    rows = [
        [rule, *(records.interval(bootstrap_mean(of[n]), digits, signed=signed) for n, digits in FIGURES.items())]
        for rule, of in values.items()
    ]
    return records.table((head, *FIGURES), rows)


@functools.partial(jax.jit, static_argnums=(0, 1))
def walked(
    rule: str, model: Any, sample: PosedLatents, key: jax.Array, token_error: jax.Array
) -> tuple[PointMemory, Readout]:
    """The memory after all walks by one rule, and what it shows at every latent frame."""
    still = ~sample.dynamic
    clean, cameras, footprint = sample.latents, sample.cameras, recipes.of(model).footprint
    spread = jnp.std(clean)

    def step(memory: PointMemory, frame: Any) -> tuple[PointMemory, None]:
        tokens, depth, still, camera, key, wrong = jax.tree.map(lambda x: x[None], frame)
        depth_key, token_key = jax.random.split(key[0])
        sky, solid = still & jnp.isinf(depth), still & jnp.isfinite(depth) & (depth > 0)
        depth = depth * jnp.exp(DEPTH_ERROR * jax.random.normal(depth_key, depth.shape))
        tokens = tokens + wrong[0] * spread * jax.random.normal(token_key, tokens.shape)
        shown = latent.read(memory, camera, max_footprint=footprint)
        memory, gone, enters = merge.apply(rule, memory, tokens, depth, sky, camera, shown, solid | sky)
        memory = memory if gone is None else latent.retire(memory, gone)
        return latent.write(memory, tokens, depth, camera, solid & enters, sky & enters), None

    def walk(memory: PointMemory, turn: tuple[jax.Array, jax.Array]) -> tuple[PointMemory, None]:
        key, wrong = turn
        count = len(clean)
        frames = clean, sample.depth, still, cameras, jax.random.split(key, count), jnp.full(count, wrong)
        return jax.lax.scan(step, memory, frames)[0], None

    memory = latent.create(WALKS * sample.depth.size, clean.shape[-1])
    if rule in merge.BY_DIRECTION:
        memory = points.with_directions(memory)
    wrong = jnp.where(jnp.arange(WALKS) == 0, 0.0, token_error)
    memory = jax.lax.scan(walk, memory, (jax.random.split(key, WALKS), wrong))[0]
    return memory, latent.read(memory, cameras, max_footprint=footprint)


def _figures(
    model: Any, params: Any, sample: PosedLatents, frames: np.ndarray, memory: PointMemory, shown: Readout
) -> dict[str, float]:
    pictures, truth = _decoded(model, params, shown.features), np.asarray(sample.latents)
    visible = np.asarray(shown.visible)
    error = ((np.asarray(shown.features, np.float32) - truth) ** 2).mean(-1)[visible]
    return {
        "points": int(memory.size) / sample.depth.size,
        "PSNR": float(np.mean(metrics.psnr(pictures, frames))),
        "PSNR seen": float(np.nanmean(metrics.masked_psnr(pictures, frames, visible))),
        "LPIPS": float(np.mean(metrics.lpips(pictures, frames))),
        "token error": float(error.mean() / truth.var()),
        "holes": float(1 - visible.mean()),
    }


def _decoded(model: Any, params: Any, tokens: jax.Array) -> np.ndarray:
    """Pictures uint8 `[t, H, W, 3]` at the latent frames."""
    return truth.to_frames(vae.decode(model.vae, params["vae"], tokens)[:: model.vae.stride_time])

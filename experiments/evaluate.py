"""Scores a model on held-out clips, methods paired by clip.

    python -m experiments.evaluate --data data/doom --split test --protocol returns --out out/evaluation

Protocols:
  vae      frames through the VAE and back.
  heads    depth, keep and sky against the truth, on latents of true frames.
  returns  all but the last segment observed with true depth, the last one generated: what the memory is worth.
  rollout  from the first frame alone, everything generated, depth and masks guessed.

The last two score clips in which the camera comes back: half a frame or more that was given, and out of sight for a
segment (`mirage_jax.evaluation.compare.returned`).
"""

from __future__ import annotations

import csv
import io as text_io
from typing import Any

import jax
import numpy as np
import tqdm
from absl import flags

from experiments import cli
from mirage_jax import data, geometry, io, viz, weights
from mirage_jax.errors import UserError
from mirage_jax.evaluation import compare, metrics, statistics
from mirage_jax.models import heads, vae
from mirage_jax.training import encode, posed

_DATA = flags.DEFINE_string("data", "data/doom", "Data set of posed clips (see build_dataset).")
_SPLIT = flags.DEFINE_string("split", "test", "Split to score on.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Model folder; default: the model that ships with the project.")
_PROTOCOL = flags.DEFINE_enum("protocol", "returns", ["vae", "heads", "returns", "rollout"], "What to measure.")
_METHODS = flags.DEFINE_list("methods", list(compare.METHODS), "Methods to compare, for returns and rollout.")
_CLIPS = flags.DEFINE_integer("clips", None, "At most so many clips; default all.")
_SEEDS = flags.DEFINE_integer("seeds", 1, "Runs of each clip with different noise.")
_STEPS = flags.DEFINE_integer("steps", 0, "Sampling steps; 0: as the model was made for.")
_OUT = flags.DEFINE_string("out", None, "Folder for the results.", required=True)

PAIRED_AGAINST = "latent"


def main(_) -> None:
    """Evaluates."""
    out = cli.prepare_output(_OUT.value)
    cli.keep_compiled_programs()
    if unknown := set(_METHODS.value) - set(compare.METHODS):
        raise UserError(f"--methods: unknown {sorted(unknown)}, expected some of {', '.join(compare.METHODS)}")
    folder = _CHECKPOINT.value or weights.DEFAULT
    model, params = weights.load(folder, [part for part in weights.parts_of(folder) if part != "text"])
    params = jax.device_put(params, jax.devices()[0])
    source = data.load_source(_DATA.value, _SPLIT.value)
    count = len(source) if _CLIPS.value is None else min(_CLIPS.value, len(source))
    cli.write_run_config(out, cli.flag_values())
    score = {"vae": _score_vae, "heads": _score_heads}.get(_PROTOCOL.value, _score_methods)

    rows: list[dict[str, Any]] = []
    for index in tqdm.tqdm(range(count), unit="clip", mininterval=5):
        clip = source.clip(index)
        for seed in range(_SEEDS.value):
            rows += [{"clip": clip.source, "seed": seed, **row} for row in score(model, params, clip, seed, out, index)]
    if not rows:
        raise UserError(
            f"none of the {count} clips of {_DATA.value}/{_SPLIT.value} has what {_PROTOCOL.value} measures"
        )
    _write_csv(out / f"{_PROTOCOL.value}.csv", rows)
    table = summary(rows)
    io.write_json(
        out / f"{_PROTOCOL.value}.json", {"protocol": _PROTOCOL.value, "split": _SPLIT.value, "methods": table}
    )
    page = markdown(table, rows)
    io.write_text(out / f"{_PROTOCOL.value}.md", page)
    print(page)


def _score_vae(model, params, clip, _seed, _out, _index) -> list[dict[str, Any]]:
    pixels = clip.frames.astype(np.float32) / 127.5 - 1.0
    decoded = vae.decode(model.vae, params["vae"], vae.encode(model.vae, params["vae"], pixels))
    frames = np.asarray((decoded + 1.0) * 127.5).round().astype(np.uint8)
    curves = metrics.all_metrics(frames, clip.frames)
    return [{"method": "vae", **{name: float(curve.mean()) for name, curve in curves.items()}}]


def _score_heads(model, params, clip, _seed, _out, _index) -> list[dict[str, Any]]:
    sample = posed.from_batch(encode.code(model, params, clip))
    module = heads.LatentHeads(model.heads)
    out = jax.vmap(lambda z, r: module.apply({"params": params["heads"]}, z, r))(
        sample.latents, geometry.rays(sample.cameras)
    )
    depth, dynamic = np.asarray(sample.depth), np.asarray(sample.dynamic)
    known = np.isfinite(depth) & (depth > 0)
    row: dict[str, Any] = {
        "method": "heads",
        "depth_median_relative_error": float(np.median(np.abs(np.asarray(out["depth"]) / depth - 1.0)[known])),
    }
    # Intersection and union are summed over clips: a clip with two actor cells says little by itself.
    keep, sky = (np.asarray(mask) for mask in heads.decide(out))
    moves = ~keep & ~sky
    row |= {"actor_intersection": int((moves & dynamic).sum()), "actor_union": int((moves | dynamic).sum())}
    truth = np.isinf(depth) & ~dynamic
    return [row | {"sky_intersection": int((sky & truth).sum()), "sky_union": int((sky | truth).sum())}]


def _score_methods(model, params, clip, seed, out, index) -> list[dict[str, Any]]:
    known = _PROTOCOL.value == "returns"
    observed = len(clip) - model.segment_frames if known else 1
    cells = compare.returned(clip, model, since=observed)
    if not (cells.mean((1, 2)) >= 0.5).any():
        return []  # the path does not come back
    made = compare.generate(
        model,
        params,
        clip,
        observed=observed,
        methods=_METHODS.value,
        true_depth=known,
        seed=seed,
        steps=_STEPS.value,
    )
    if index < 10 and seed == 0:
        shown = {"truth": clip.frames[observed:], **made}
        viz.contact_sheet(out / "clips" / f"{index:03d}.png", shown)
    scores = compare.score(clip, made, cells)
    return [
        {"method": method, **{k: v for k, v in row.items() if k != "psnr_by_frame"}} for method, row in scores.items()
    ]


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """method -> metric -> mean, low, high, clips; and the paired difference to the latent memory."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    names = [n for n in rows[0] if n not in ("clip", "seed", "method")]
    table: dict[str, Any] = {}
    for method in methods:
        table[method] = {}
        for name in names:
            mine = _by_clip(rows, method, name)
            if name.endswith(("_intersection", "_union")):
                table[method][name] = int(sum(v.sum() for v in mine.values()))
                continue
            if len(mine) < 2:
                continue
            interval = statistics.bootstrap_mean(np.array([v.mean() for v in mine.values()]))
            table[method][name] = vars(interval).copy()
            other = _by_clip(rows, PAIRED_AGAINST, name)
            if method != PAIRED_AGAINST and other:
                shared = [clip for clip in mine if clip in other]
                difference = statistics.paired_difference(
                    np.array([other[c].mean() for c in shared]), np.array([mine[c].mean() for c in shared])
                )
                table[method][name]["latent_minus_this"] = vars(difference).copy()
        for mask in ("actor", "sky"):
            if f"{mask}_union" in table[method]:
                table[method][f"{mask}_iou"] = table[method][f"{mask}_intersection"] / max(
                    table[method][f"{mask}_union"], 1
                )
    return table


def markdown(table: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """The summary as tables: each method, and the paired differences to the latent memory."""
    clips, seeds = len({row["clip"] for row in rows}), len({row["seed"] for row in rows})
    lines = [
        f"# {_PROTOCOL.value}",
        "",
        f"{clips} clips, {seeds} seed(s), split {_SPLIT.value} of {_DATA.value}; mean [95 % interval over clips].",
        "",
        *_table(table),
    ]
    paired = {
        method: {name: value["latent_minus_this"] for name, value in row.items() if "latent_minus_this" in _dict(value)}
        for method, row in table.items()
    }
    paired = {method: row for method, row in paired.items() if row}
    if paired:
        lines += ["", "Latent memory minus each method, paired by clip:", "", *_table(paired)]
    return "\n".join([*lines, ""])


def _table(table: dict[str, Any]) -> list[str]:
    names = list(dict.fromkeys(name for row in table.values() for name in row))
    lines = [f"| method | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
    for method, row in table.items():
        cells = []
        for name in names:
            value = row.get(name)
            if isinstance(value, dict):
                cells.append(f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]")
            else:
                cells.append("-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value))
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return lines


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _by_clip(rows: list[dict[str, Any]], method: str, name: str) -> dict[str, np.ndarray]:
    found: dict[str, list[float]] = {}
    for row in rows:
        if row["method"] == method and row.get(name) is not None:
            found.setdefault(row["clip"], []).append(row[name])
    return {clip: np.array(values) for clip, values in found.items()}


def _write_csv(path, rows: list[dict[str, Any]]) -> None:
    text = text_io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    io.write_text(path, text.getvalue())


if __name__ == "__main__":
    cli.run(main)

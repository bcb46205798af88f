"""One protocol at a time, scored on a clip and summed up in tables: vae, heads, returns, rollout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mirage_jax.data.clip import PosedClip
from mirage_jax.evaluation import metrics, statistics
from mirage_jax.evaluation.methods import generate, recoded
from mirage_jax.evaluation.protocols import heads, returns
from mirage_jax.evaluation.report.summary import PAIRED_AGAINST, RATIOS, SUMMED
from mirage_jax.models.config import ModelConfig

Row = dict[str, Any]


def score_vae(model: ModelConfig, params: Any, clip: PosedClip) -> list[Row]:
    """Frames through the VAE and back."""
    curves = metrics.all_metrics(recoded(model, params, clip), clip.frames)
    return [{"method": "vae", **{name: float(curve.mean()) for name, curve in curves.items()}}]


def score_heads(model: ModelConfig, params: Any, clip: PosedClip) -> list[Row]:
    """Depth, keep and sky against the truth."""
    return [{"method": "heads", **heads.score(model, params, clip).values}]


def score_methods(
    model: ModelConfig,
    params: Any,
    clip: PosedClip,
    methods: Sequence[str],
    *,
    known: bool,
    seed: int,
    steps: int,
    others: Mapping[str, tuple[ModelConfig, Any]] | None = None,
) -> tuple[list[Row], dict[str, np.ndarray]]:
    """Methods on what comes back; nothing if the path does not come back.

    Args:
      model, params: of all parts.
      clip: the truth.
      methods: as `methods.generate` takes them.
      known: whether all but the last segment is given with true depth, or the first frame alone.
      seed, steps: of the sampler.
      others: as `methods.generate` takes them.

    Returns:
      Rows, and the truth and the methods' frames by name.
    """
    observed = len(clip) - model.segment_frames if known else 1
    cells = returns.returned(clip, model, since=observed)
    if not (cells.mean((1, 2)) >= 0.5).any():
        return [], {}
    made = generate(
        model,
        params,
        clip,
        observed=observed,
        methods=methods,
        true_depth=known,
        seed=seed,
        steps=steps,
        others=others,
    )
    scores = returns.score(clip, made, cells)
    rows = [
        {"method": method, **{k: v for k, v in row.items() if k != "psnr_by_frame"}} for method, row in scores.items()
    ]
    return rows, {"truth": clip.frames[observed:], **made}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """method -> metric -> mean, low, high, clips; and the paired difference to the latent memory."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    names = [n for n in rows[0] if n not in ("clip", "seed", "method")]
    table: dict[str, Any] = {}
    for method in methods:
        table[method] = {}
        for name in names:
            mine = _by_clip(rows, method, name)
            if name.endswith(SUMMED):
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
        for name, (above, below) in RATIOS["heads"].items():
            if below in table[method]:
                table[method][name] = table[method][above] / max(table[method][below], 1)
    return table


def markdown(title: str, where: str, table: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """The summary as tables: each method, and the paired differences to the latent memory."""
    clips, seeds = len({row["clip"] for row in rows}), len({row["seed"] for row in rows})
    lines = [
        f"# {title}",
        "",
        f"{clips} clips, {seeds} seed(s), {where}; mean [95 % interval over clips].",
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

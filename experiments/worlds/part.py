"""One part of a data set of rendered clips, with a report of what became of them."""

from __future__ import annotations

import collections
import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from experiments.worlds.rendering import Rendered
from mirage_jax.data import verify
from mirage_jax.data.builder import percentiles, write_part
from mirage_jax.data.clip import PosedClip
from mirage_jax.errors import UserError

_UNUSABLE_SHARE = 0.1  # a build that loses more of its clips than this fails


def check_sizes(config: Mapping[str, Any]) -> None:
    """Checks `clips`, `frames`, `size`, `seed` and `workers` of what is to be rendered.

    Raises:
      UserError: if one is not usable.
    """
    frames = config["frames"]
    if frames < 9 or frames % 4 != 1:
        raise UserError(f"--frames is {frames}, expected 4k + 1 and at least 9 (for example 65)")
    least = {"clips": 1, "workers": 1, "size": 16, "seed": 0}
    if any(config[name] < value for name, value in least.items()):
        raise UserError(", ".join(f"--{name} {config[name]}" for name in least) + ": too small")


def render_part(
    out: str | pathlib.Path,
    dataset: str,
    config: Mapping[str, Any],
    rendered: Iterable[Rendered],
    *,
    progress: Callable[[Rendered], None],
    counts: Callable[[list[Rendered]], dict[str, Any]],
    licence: str,
    description: str,
    objects: int = 0,
) -> pathlib.Path:
    """Writes one part of clips while they are rendered, with a report of what became of them.

    Args:
      out, dataset, licence, description, objects: as in `write_part`.
      config: what `check_sizes` checks, and `split`; for the report.
      rendered: the outcomes, read once.
      progress: gets each of them.
      counts: further numbers for the report, from the outcomes that have a clip (by then without its pixels).

    Returns:
      The folder of the part.

    Raises:
      UserError: if the part exists, or too many clips failed.
    """
    outcomes: list[Rendered] = []

    def rejected() -> collections.Counter[str]:
        return sum((collections.Counter(outcome.rejected) for outcome in outcomes), collections.Counter())

    def clips(_scratch: pathlib.Path) -> Iterator[tuple[str, PosedClip]]:
        for one in rendered:
            # Without its megabytes of pixels: enough for the report.
            outcomes.append(dataclasses.replace(one, clip=None if one.clip is None else one.clip[:0]))
            progress(one)
            if one.clip is not None:
                yield f"{one.job.index:06d}", one.clip
        failed = sum(outcome.clip is None for outcome in outcomes)
        if failed > _UNUSABLE_SHARE * config["clips"]:
            reasons = ", ".join(f"{number} x {reason}" for reason, number in rejected().most_common())
            raise UserError(f"{failed} of {config['clips']} clips failed every try: {reasons}")

    def report(seconds: float) -> dict[str, Any]:
        good = [outcome for outcome in outcomes if outcome.clip is not None]
        tries = len(good) + rejected().total()
        found = {"written": len(good), "failed": len(outcomes) - len(good), "tries": tries}
        return {
            "config": dict(config),
            "clips": found | counts(good),
            "rejected": dict(rejected().most_common()),
            "rejected_share": round(rejected().total() / max(tries, 1), 4),
            "residual_percentiles": percentiles([outcome.residuals for outcome in good]),
            "bounds": dataclasses.asdict(verify.Bounds()),
            "seconds": round(seconds, 1),
            "licence": licence,
        }

    shape = (config["frames"], config["size"], config["size"])
    return write_part(
        out, config["split"], config["seed"], dataset, shape, clips, report, licence, description, objects
    )


def count(values: Iterable[str]) -> dict[str, int]:
    """How often each value occurs, by name."""
    return dict(sorted(collections.Counter(values).items()))

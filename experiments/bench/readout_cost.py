"""Protocol 7 at the size of the model at hand: what a readout costs by segment, latent memory and RGB memory.

Both memories hold the same true frames and are read for the same cameras; reads are timed in turn, after calls
that compile and warm up. The RGB readout includes the VAE encoding that it needs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.bench import timing
from mirage_jax import world
from mirage_jax.data.clip import PosedClip
from mirage_jax.evaluation import memory_alone, truth
from mirage_jax.memory import latent
from mirage_jax.models.config import ModelConfig

REPEATS = 7


def measure(model: ModelConfig, params: Any, clip: PosedClip, repeats: int = REPEATS) -> dict[str, Any]:
    """Times reads of one clip.

    Args:
      model, params: of the VAE.
      clip: the truth, of `1 + k F` frames.
      repeats: timed reads of each memory at each segment.

    Returns:
      `frames` (pixel frames that one read serves), `repeats`, and `methods`: `latent` and `rgb` -> a list by
      segment of `seconds_per_frame` (median), `low`, `high` (10th and 90th percentile), `points`, `bytes`.
    """
    layout = model.segment
    coded = truth.coded_truth(model, params, clip)
    cameras, frames = truth.camera_of(clip), model.segment_frames
    count = (len(coded.latents) - 1) // layout.latents
    capacity = world.full_capacity(model, "latent", count)
    rows: dict[str, list[dict[str, Any]]] = {"latent": [], "rgb": []}
    for segment in range(count):
        begin = 1 + segment * layout.latents
        among = np.arange(len(coded.latents)) < begin
        overlap = segment * frames
        held = {
            "latent": truth.memory_of(model, capacity, coded, among),
            "rgb": memory_alone.coloured(model, clip, cameras, begin),
        }
        reads = {
            "latent": lambda m=held["latent"], at=overlap: memory_alone.read_latent(model, m, coded.frame_cameras, at),
            "rgb": lambda m=held["rgb"], v=cameras[overlap : overlap + frames + 1]: memory_alone.render(
                model, params, m, v
            ),
        }
        for name, seconds in timing.in_turn(reads, repeats).items():
            low, median, high = (float(v) / frames for v in np.percentile(seconds, [10, 50, 90]))
            rows[name].append(
                {
                    "seconds_per_frame": median,
                    "low": low,
                    "high": high,
                    "points": int(held[name].size),
                    "bytes": latent.nbytes(held[name])["held"],
                }
            )
    return {"frames": frames, "repeats": repeats, "methods": rows}

"""Benchmark suite `step_cache`: how far a segment made with the cache of steps is from the one made without.

One segment of the model that ships, after the first frame of the demo clip, with 20 steps of Wan's grid, from the same
noise with and without. `passes` is how often the transformer ran; `PSNR` compares the decoded frames, `latents` is the
relative error of the latents; means over seeds of the noise. The model that ships is made for one step: the figures say
how the limit works, not what it costs a Wan model.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mirage_jax import weights, world
from mirage_jax.data import clip as clips
from mirage_jax.evaluation.truth import camera_of
from mirage_jax.geometry import Camera
from mirage_jax.world.recall import choose_references, new_frames, read
from mirage_jax.world.segment import denoise

STEPS, SEEDS = 20, 4
LIMITS = (0.03, 0.06, 0.1)


def measure() -> dict[str, Any]:
    """The figures; the record that `markdown` prints."""
    model, params = weights.load()
    clip = clips.load(clips.DEMO)
    cameras = camera_of(clip)
    recipe = dataclasses.replace(world.DEFAULT, steps=STEPS, grid="wan")
    config = world.WorldConfig(model=model, capacity=world.full_capacity(model, "latent", 1), recipe=recipe)
    path = cameras[1 : 1 + model.segment_frames]
    return {"model": model.name, "steps": STEPS, "rows": rows(config, params, clip.frames[0], cameras[0], path)}


def rows(config: world.WorldConfig, params: Any, image: np.ndarray, start: Camera, path: Camera) -> list[dict]:
    """A row for each limit.

    Args:
      config, params: of a world without the cache.
      image, start, path: its first picture and camera, and the `Camera[F]` of the segment.
    """
    params = world.prepare(config, params)
    state = world.init(config, params, image, None, start, jax.random.key(0))

    @functools.partial(jax.jit, static_argnums=0)
    def made(config, params, state, key):
        readout = read(config, params, state, path)
        time = config.model.vae.stride_time
        latent_cameras = path[time - 1 :: time].resized(*config.grid)
        references = choose_references(config, state, latent_cameras, new_frames(config, readout))
        latents, passes = denoise(config, params, state, readout, references, None, key)
        return latents, config.codec.go_on(params["vae"], state.context[-1], latents, state.decoder)[0], passes

    def with_limit(limit: float, seed: int) -> tuple[np.ndarray, np.ndarray, int]:
        recipe = dataclasses.replace(config.recipe, step_cache=limit)
        return jax.device_get(made(dataclasses.replace(config, recipe=recipe), params, state, jax.random.key(seed)))

    whole = [with_limit(0.0, seed) for seed in range(SEEDS)]
    found = []
    for limit in LIMITS:
        pairs = [(with_limit(limit, seed), whole[seed]) for seed in range(SEEDS)]
        square = [np.mean(np.square((new[1] - old[1]) / 2)) for new, old in pairs]
        error = [jnp.linalg.norm(new[0] - old[0]) / jnp.linalg.norm(old[0]) for new, old in pairs]
        found.append(
            {
                "limit": limit,
                "passes": float(np.mean([new[2] for new, _ in pairs])),
                "psnr": float(np.mean(-10 * np.log10(np.maximum(square, 1e-12)))),
                "latents": float(np.mean(error)),
            }
        )
    return found


def markdown(record: dict[str, Any]) -> str:
    """The table."""
    lines = [f"| limit | passes of {record['steps']} | PSNR to the run without, dB | latents |", "|---|---|---|---|"]
    for row in record["rows"]:
        lines.append(f"| {row['limit']:g} | {row['passes']:.1f} | {row['psnr']:.1f} | {row['latents']:.3f} |")
    return "\n".join(["# Cache of steps", "", (__doc__ or "").split("\n\n", 1)[1].strip(), "", *lines, ""])

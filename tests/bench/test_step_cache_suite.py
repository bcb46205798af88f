"""The suite of the cache of steps, on a tiny world."""

import dataclasses
import pathlib
import sys

import numpy as np

from experiments.bench import step_cache
from mirage_jax import world

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "world"))
import tiny_world as tiny


def test_rows_compare_a_segment_with_the_one_made_without(monkeypatch):
    monkeypatch.setattr(step_cache, "LIMITS", (1e-9, 1.0))
    monkeypatch.setattr(step_cache, "SEEDS", 1)
    model = tiny.quick()
    recipe = dataclasses.replace(tiny.RECIPE, steps=12, grid="wan")
    config = world.WorldConfig(model=model, capacity=world.full_capacity(model, "latent", 1), recipe=recipe)
    path = tiny.path("yaw 20", 1)[0][: model.segment_frames]
    none, many = step_cache.rows(config, tiny.parameters(model), tiny.image(), tiny.camera(), path)
    assert none["passes"] == 12 and none["psnr"] > 80 and none["latents"] < 1e-4
    assert many["passes"] < 8 and many["psnr"] < none["psnr"] and many["latents"] > 1e-3
    page = step_cache.markdown({"steps": 12, "rows": [none, many]})
    assert page.startswith("# Cache of steps") and "| 1e-09 | 12.0 |" in page
    assert np.isfinite([row["psnr"] for row in (none, many)]).all()

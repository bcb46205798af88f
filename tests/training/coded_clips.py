"""A small model and a coded data set on disk, and the config of a memory stage on top of them."""

import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

from experiments.configs import common
from experiments.worlds import coded
from mirage_jax import weights
from mirage_jax.training import perceptual

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "world"))
import tiny_world


def sample(model, frames, seed=0, pixels=False):
    """A clip of so many latent frames: a camera at rest before a wall, on which noise is seen."""
    rng = np.random.default_rng(seed)
    grid = (frames, model.height // model.vae.stride_space, model.width // model.vae.stride_space)
    count = model.vae.stride_time * (frames - 1) + 1
    matrix = np.array([[4.0, 0, grid[2] / 2], [0, 4.0, grid[1] / 2], [0, 0, 1]], np.float32)
    cells = {
        "latents": rng.normal(size=(*grid, model.vae.latent_channels)).astype(np.float16),
        "depth": np.full(grid, 3.0, np.float16),
        "dynamic": np.zeros(grid, np.uint8),
        "intrinsics": np.tile(matrix, (count, 1, 1)),
        "cam2world": np.tile(np.eye(4, dtype=np.float32), (count, 1, 1)),
        "caption": "",
        "source": "a clip",
    }
    if not pixels:
        return cells
    size = (frames, model.height, model.width)
    return cells | {
        "frames": rng.integers(0, 256, (*size, 3), np.uint8),
        "pixel_depth": np.full(size, 3.0, np.float16),
        "pixel_dynamic": np.zeros(size, np.uint8),
    }


def write(model, folder, *, split="train", frames=6, clips=4, pixels=False):
    """One split of a data set of such clips."""
    samples = [sample(model, frames, seed, pixels) for seed in range(clips)]
    size = (model.height, model.width) if pixels else None
    coded.write(pathlib.Path(folder), split, samples[0]["latents"].shape, samples, pixels=size)


def memory_stage():
    """The config of a stage in which a frozen backbone gets a memory: side branch and LoRA, as for Wan."""
    made = common.base("generator")
    made.init_from, made.data = "runs/backbone/model", "data/latents"
    made.trainable = ("side", "lora")
    made.batch_size = 4
    made.augmentation = common.augmentation()
    return made


def config(model, folder, *, frames=6, clips=4, pixels=False, **changes):
    """The config of a memory stage, with random weights and clips in `folder`; and the folder of the model."""
    path = folder / "whole"
    weights.save(path, model, tiny_world.random_parameters(model))
    write(model, folder / "data", frames=frames, clips=clips, pixels=pixels)
    made = memory_stage()
    made.init_from, made.data = str(path), str(folder / "data")
    made.model.update(json.loads(model.to_json()))
    made.update(changes)
    return made, path


def cheap_distance(key, parameters, shown, truth, count):
    """Stands for `perceptual.distance`: mean absolute difference, in units of the first of LPIPS's parameters."""
    parts = (perceptual.drawn_part(key, video, count) for video in (shown, truth))
    return jnp.abs(jnp.subtract(*parts)).mean() * jnp.abs(jax.tree.leaves(parameters)[0]).mean()

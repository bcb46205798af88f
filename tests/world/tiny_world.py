"""A model of a few thousand random parameters, and a world in it: what the tests of worlds share."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from mirage_jax import world
from mirage_jax.geometry import Camera, trajectory
from mirage_jax.models import config as model_config
from mirage_jax.models import parameters as model_parameters
from mirage_jax.models.heads import LatentHeadsConfig

SIZE, CHANNELS = 32, 5


def model():
    """32x32 pixels, 4x4 latent cells, segments of 8 frames."""
    base = model_config.default()
    segment = dataclasses.replace(base.segment, latents=2, steps=2)
    return dataclasses.replace(
        base,
        name="tiny",
        height=SIZE,
        width=SIZE,
        vae=dataclasses.replace(
            base.vae, latent_channels=CHANNELS, encoder_dim=4, decoder_dim=4, multipliers=(1, 2, 4)
        ),
        dit=dataclasses.replace(base.dit, dim=16, ffn_dim=16, heads=2, layers=2, in_channels=CHANNELS),
        side=dataclasses.replace(base.side, control_channels=segment.control_channels(CHANNELS)),
        heads=LatentHeadsConfig(in_channels=CHANNELS, widths=(8, 8, 8), attention_heads=2),
        lora=model_config.LoRAConfig(rank=2, alpha=2.0),
        segment=segment,
    )


def quick():
    """8x8 cells, segments of 4 frames, one transformer block: quick to compile. Its VAE codes two frames at a time."""
    base = model()
    control = tuple(part for part in base.segment.control if part != "between")
    segment = dataclasses.replace(base.segment, steps=1, control=control)
    return dataclasses.replace(
        base,
        vae=dataclasses.replace(base.vae, multipliers=(1, 1), time_downsample=(True,), time_kernels=(1, 3)),
        dit=dataclasses.replace(base.dit, layers=1),
        side=dataclasses.replace(base.side, control_channels=segment.control_channels(CHANNELS)),
        segment=segment,
    )


def parameters(config):
    """Random, with heads that keep every cell and call no cell sky, and zero-initialised ways out opened."""

    @jax.jit
    def make(key):
        keys = jax.random.split(key, 2)
        params = model_parameters.init(keys[0], config)
        params["heads"]["out"]["bias"] = jnp.array([0.0, 5.0, -5.0])
        leaves, tree = jax.tree.flatten({part: params[part] for part in ("dit", "side", "lora")})
        noise = jax.random.split(keys[1], len(leaves))
        opened = [x + 0.05 * jax.random.normal(k, x.shape) for x, k in zip(leaves, noise, strict=True)]
        return params | jax.tree.unflatten(tree, opened)

    return make(jax.random.key(0))


def random_parameters(config):
    """Of all parts of a model, as numpy arrays and without the time it takes to compile their initialisation."""
    rng = np.random.default_rng(0)
    flat = {
        name: float(name.split("/")[-1] in ("scale", "weight")) + 0.2 * rng.standard_normal(shape, np.float32)
        for name, shape in model_parameters.shapes(config).items()
    }
    return traverse_util.unflatten_dict({name: x.astype(np.float32) for name, x in flat.items()}, sep="/")


def camera():
    """One camera at the origin, 64 degrees across."""
    matrix = jnp.array([[25.6, 0, 16], [0, 25.6, 16], [0, 0, 1]])
    return Camera(intrinsics=matrix, cam2world=jnp.eye(4), height=SIZE, width=SIZE)


def path(text, segments):
    """`Camera[segments, 8]` after the first view."""
    cameras = trajectory.parse(text, start=camera(), frames=1 + 8 * segments)
    return jax.tree.map(lambda x: jnp.asarray(x[1:]).reshape(segments, 8, *x.shape[1:]), cameras)


def image():
    """A random picture."""
    return np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)


def config(memory="latent", segments=3, **changes):
    """A `WorldConfig` with room for everything."""
    tiny = model()
    sizes = {"capacity": world.full_capacity(tiny, memory, segments), "bank": 4} | changes
    return world.WorldConfig(model=tiny, memory=memory, **sizes)

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
from mirage_jax.models.dit import DiTConfig
from mirage_jax.models.heads import LatentHeadsConfig
from mirage_jax.models.side_branch import SideBranchConfig
from mirage_jax.models.vae import VAEConfig

SIZE, CHANNELS = 32, 5

RECIPE = dataclasses.replace(world.DEFAULT, name="tiny", steps=2, merge="all", entities=0)
"""All of a segment is written: points can be counted."""


def video():
    """A model as Wan's, but small: tokens of four frames, and a memory that was added to a backbone."""
    segment = model_config.SegmentConfig(latents=4, preceding=1, reference=1, control=("readout", "visible", "depth"))
    return model_config.ModelConfig(
        name="video",
        height=128,
        width=128,
        fps=15,
        vae=VAEConfig(
            latent_channels=24,
            encoder_dim=16,
            decoder_dim=16,
            multipliers=(1, 2, 8),
            blocks=1,
            time_downsample=(True, True),
            time_kernels=(1, 1, 3),
        ),
        dit=DiTConfig(dim=256, ffn_dim=1024, heads=4, layers=6, in_channels=24, prediction="sample"),
        side=SideBranchConfig(control_channels=segment.control_channels(24), refine=64),
        heads=LatentHeadsConfig(in_channels=24, blocks=(1, 2, 2)),
        lora=model_config.LoRAConfig(rank=32, alpha=32.0),
        segment=segment,
        recipe="paper",
    )


def model():
    """32x32 pixels, 4x4 latent cells, segments of 8 frames."""
    base = video()
    segment = dataclasses.replace(base.segment, latents=2)
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
    return dataclasses.replace(
        base,
        vae=dataclasses.replace(base.vae, multipliers=(1, 1), time_downsample=(True,), time_kernels=(1, 3)),
        dit=dataclasses.replace(base.dit, layers=1),
    )


def parameters(config):
    """Random, with heads that keep every cell and call no cell sky, and zero-initialised ways out opened.

    As numpy arrays, scaled like those of an initialisation, without the time that it takes to compile one.
    """
    params = _random(config, lambda shape: np.prod(shape[:-1]) ** -0.5, bias=0.05)
    if "heads" in params:
        out = params["heads"]["out"]
        out.update(kernel=np.zeros_like(out["kernel"]), bias=np.array([0.0, 5.0, -5.0], np.float32))
    return params


def random_parameters(config):
    """Of all parts of a model, all of them random."""
    return _random(config, lambda shape: 0.2, bias=0.2)


def _random(config, deviation, bias):
    """Numpy arrays around 1 (scales) or 0: matrices of a deviation by shape, all else of that of a bias."""
    rng = np.random.default_rng(0)

    def draw(name, shape):
        centre = float(name.split("/")[-1] in ("scale", "weight"))
        width = deviation(shape) if len(shape) > 1 else bias
        return (centre + width * rng.standard_normal(shape)).astype(np.float32)

    flat = {name: draw(name, shape) for name, shape in model_parameters.shapes(config).items()}
    return traverse_util.unflatten_dict(flat, sep="/")


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
    """A `WorldConfig` with room for everything; `changes` of it or of its recipe."""
    tiny = model()
    recipe = {field.name: changes.pop(field.name) for field in dataclasses.fields(RECIPE) if field.name in changes}
    sizes = {"capacity": world.full_capacity(tiny, memory, segments), "bank": 4} | changes
    return world.WorldConfig(model=tiny, memory=memory, recipe=dataclasses.replace(RECIPE, **recipe), **sizes)

"""A world whose generator has learnt nothing yet shows what it remembers, whatever the length of its segments."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_world

from mirage_jax import world
from mirage_jax.geometry import trajectory
from mirage_jax.models import config as model_config
from mirage_jax.models import parameters
from mirage_jax.world import recipe


def model():
    """32x32 pixels, 8x8 cells, segments of 2 or 4 frames, one latent a frame."""
    base = model_config.default()
    segment = dataclasses.replace(base.segment, latents=4, lengths=(2, 4))
    return dataclasses.replace(
        base,
        height=32,
        width=32,
        vae=dataclasses.replace(base.vae, latent_channels=3, encoder_dim=4, decoder_dim=4, blocks=1),
        dit=dataclasses.replace(base.dit, dim=8, ffn_dim=8, heads=2, layers=1, in_channels=3, paint=4),
        side=dataclasses.replace(base.side, control_channels=segment.control_channels(3), refine=4),
        heads=None,
        segment=segment,
    )


@pytest.mark.parametrize("length", [2, 4])
def test_a_segment_of_an_untrained_generator_is_the_readout(length):
    chosen = model().with_segments_of(length)
    config = world.WorldConfig(
        chosen, capacity=1024, bank=8, recipe=dataclasses.replace(recipe.DEFAULT, entities=0), depth_source="given"
    )
    params = jax.jit(parameters.init, static_argnums=1)(jax.random.key(0), chosen)
    cameras = trajectory.parse("yaw 20", start=tiny_world.camera(), frames=1 + length)[1:]
    depth = np.full((1 + length, 32, 32), 3.0, np.float32)
    start = world.init(config, params, tiny_world.image(), depth[0], tiny_world.camera(), jax.random.key(1))
    _, out = world.segment(config, params, start, cameras, known=world.KnownGeometry(depth[1:]))
    assert 0.3 < float(out.readout.visible.mean()) < 1.0
    shown = jnp.where(out.readout.visible[..., None], out.readout.features, 0.0)
    np.testing.assert_allclose(out.latents, shown, atol=1e-6)

"""Coding clips: geometry on the latent grid, and mirror worlds that are still right."""

import dataclasses

import numpy as np

from experiments.worlds import coded
from mirage_jax.training import encode
from tests import analytic
from tests.world import tiny_world


def test_a_mirrored_clip_keeps_its_geometry():
    """A mirrored world seen by mirrored cameras: depth lifts to the mirrored points."""
    clip = analytic.scene(0, 5, 32, 32, sky=False)
    flipped = coded.mirror(clip)
    rotation = flipped.cam2world[:, :3, :3]
    np.testing.assert_allclose(np.linalg.det(rotation), 1.0, atol=1e-5)

    def world_point(c, frame, row, column):
        k, d = c.intrinsics[frame], c.depth[frame, row, column]
        ray = np.linalg.inv(k) @ np.array([column + 0.5, row + 0.5, 1.0])
        return (c.cam2world[frame] @ np.append(ray * d, 1.0))[:3]

    for frame, row, column in [(0, 5, 9), (4, 20, 3)]:
        point, mirrored = world_point(clip, frame, row, column), world_point(flipped, frame, row, 31 - column)
        np.testing.assert_allclose(mirrored, point * [-1, 1, 1], atol=1e-4)


def test_coding_puts_cameras_and_depth_on_the_latent_grid():
    base = tiny_world.video()
    model = dataclasses.replace(
        base,
        height=32,
        width=32,
        vae=dataclasses.replace(base.vae, encoder_dim=4, decoder_dim=4, multipliers=(1, 2, 4)),
        **dict.fromkeys(("dit", "side", "heads", "lora")),
    )
    params = tiny_world.parameters(model)
    clip = analytic.scene(0, 5, 32, 32, sky=False)
    sample = encode.code(model, params, clip)
    assert sample["latents"].shape == (2, 4, 4, 24)
    np.testing.assert_allclose(sample["intrinsics"][:, :2], clip.intrinsics[:, :2] / 8, rtol=1e-5)
    np.testing.assert_allclose(sample["cam2world"], clip.cam2world, atol=1e-6)
    inner = clip.depth[4, 4:28:8, 4:28:8]
    near = np.abs(sample["depth"][1, :3, :3] / inner - 1) < 0.2
    assert near.mean() > 0.7

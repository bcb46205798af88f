"""Heads on latents: metric scale with focal length, global context, size."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax.geometry import Camera, rays
from mirage_jax.models.config import default
from mirage_jax.models.heads import LatentHeads, LatentHeadsConfig, decide

CONFIG = LatentHeadsConfig(in_channels=6, widths=(8, 12, 16), attention_heads=2)


def rays_of(height, width, focal):
    intrinsics = jnp.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], jnp.float32)
    return rays(Camera(intrinsics, jnp.eye(4), height, width))


def randomised(params):
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return tree.unflatten([x + 0.1 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)])


@functools.cache
def initial():
    return jax.jit(LatentHeads(CONFIG).init)(jax.random.key(0), latent_of(8, 8), rays_of(8, 8, 8.0))


def latent_of(height, width):
    return jax.random.normal(jax.random.key(2), (height, width, 6))


apply = jax.jit(LatentHeads(CONFIG).apply)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (11, 6)])
def test_one_value_a_cell_on_any_grid(height, width):
    found = apply(randomised(initial()), latent_of(height, width), rays_of(height, width, 8.0))
    assert set(found) == {"depth", "keep_logit", "sky_logit"}
    for values in found.values():
        assert values.shape == (height, width)
        assert np.isfinite(values).all()
        assert np.ptp(values) > 0
    assert (found["depth"] > 0).all()


def test_cells_of_a_patch_are_read_as_one_and_told_apart():
    config = dataclasses.replace(CONFIG, patch=2)
    latent, view = latent_of(16, 12), rays_of(16, 12, 8.0)
    params = jax.jit(LatentHeads(config).init)(jax.random.key(0), latent, view)
    assert params["params"]["stem"]["kernel"].shape[2] == 4 * initial()["params"]["stem"]["kernel"].shape[2]
    tell = jax.jit(LatentHeads(config).apply)
    np.testing.assert_allclose(tell(params, latent, view)["depth"], CONFIG.typical_depth, rtol=1e-4)

    lower = jnp.zeros((3, 2, 2)).at[:, 1, 0].set(1.0)  # the second row and first column of every patch
    params["params"]["out"]["bias"] = jnp.swapaxes(lower, 1, 2).reshape(-1)  # as the VAE orders a patch
    for name, values in tell(params, latent, view).items():
        high = values > (CONFIG.typical_depth * 1.5 if name == "depth" else 0.5)
        np.testing.assert_array_equal(high, np.tile([[False, False], [True, False]], (8, 6)))


@pytest.mark.parametrize("focal", [4.0, 8.0, 20.0])
def test_before_training_depth_is_typical_times_the_focal_length(focal):
    depth = apply(initial(), latent_of(8, 8), rays_of(8, 8, focal))["depth"]
    np.testing.assert_allclose(depth, CONFIG.typical_depth * focal / CONFIG.canonical_focal, rtol=1e-4)


def test_every_cell_sees_the_whole_frame_and_the_rays():
    params = randomised(initial())
    corner = lambda latent, view: apply(params, latent, view)["keep_logit"][0, 0]  # noqa: E731
    by_latent, by_ray = jax.grad(corner, (0, 1))(latent_of(12, 12), rays_of(12, 12, 8.0))
    assert (jnp.abs(by_latent).max(-1) > 0).all()
    assert (jnp.abs(by_ray[..., :2]).max(-1) > 0).all()


@pytest.mark.parametrize(
    ("keep", "sky", "expected"),
    [
        (0.9, 0.1, (True, False)),
        (0.1, 0.9, (False, True)),
        (0.1, 0.1, (False, False)),
        (0.4, 0.45, (False, True)),  # wall or sky, but not an actor
        (0.45, 0.4, (True, False)),
        (0.9, 0.95, (False, True)),  # never both
        (0.3, 0.1, (False, False)),
    ],
)
def test_a_cell_moves_if_it_is_likely_neither_kept_nor_sky(keep, sky, expected):
    logits = {"keep_logit": jnp.log(keep / (1 - keep)), "sky_logit": jnp.log(sky / (1 - sky))}
    assert tuple(bool(x) for x in decide(logits)) == expected
    careful = tuple(bool(x) for x in decide(logits, 0.1))
    assert careful == (expected if keep + sky >= 0.9 else (False, False))


def test_more_blocks_change_nothing_until_they_are_trained():
    few, more = CONFIG, dataclasses.replace(CONFIG, blocks=(2, 1, 3))
    latent, view = latent_of(11, 6), rays_of(11, 6, 8.0)
    old = randomised(initial())["params"]
    fresh = jax.jit(LatentHeads(more).init)(jax.random.key(4), latent, view)["params"]
    assert set(fresh) - set(old) == {"encode_0_1", "decode_0_1", "encode_2_1", "encode_2_2"}
    expected = LatentHeads(few).apply({"params": old}, latent, view)
    same = LatentHeads(more).apply({"params": {**fresh, **old}}, latent, view)
    other = LatentHeads(more).apply({"params": {**randomised(fresh), **old}}, latent, view)
    for name, values in expected.items():
        np.testing.assert_array_equal(same[name], values, err_msg=name)
        assert np.abs(other[name] - values).max() > 1e-3


def test_default_size():
    config = default().heads
    shapes = jax.eval_shape(
        LatentHeads(config).init, jax.random.key(0), jnp.zeros((32, 32, config.in_channels)), jnp.zeros((32, 32, 3))
    )
    assert 0.5e6 < sum(leaf.size for leaf in jax.tree.leaves(shapes)) < 2e6

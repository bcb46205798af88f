"""Alignment of new depth to the memory: the true scale and shift come back through outliers, misfits are not ok."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax.memory.latent import Readout
from mirage_jax.world import align

SHAPE = (2, 8, 8)


def readout(depth, visible=None):
    depth = jnp.asarray(depth, jnp.float32)
    return Readout(
        features=jnp.zeros((*depth.shape, 2)),
        visible=jnp.ones(depth.shape, bool) if visible is None else jnp.asarray(visible),
        depth=depth,
    )


def test_depth_is_brought_to_the_scale_of_the_memory():
    rng = np.random.default_rng(0)
    shown = rng.uniform(1, 10, SHAPE)
    visible = rng.random(SHAPE) < 0.7
    shown[0, 0] = np.inf
    guess = np.where(np.isinf(shown), 4.0, shown) / 1.3
    guess[1, 3, 3] *= 50  # an outlier moves a mean, not a median
    found = align.align_scale(jnp.asarray(guess), readout(shown, visible))
    np.testing.assert_allclose(found.scale, 1.3, rtol=1e-5)
    np.testing.assert_allclose(found.residual, 0.0, atol=1e-5)
    np.testing.assert_allclose(found.depth, guess * 1.3, rtol=1e-5)
    assert bool(found.ok) and int(found.compared) == int((visible & np.isfinite(shown)).sum())


@pytest.mark.parametrize("method", [align.align_scale, align.align_inverse])
def test_depth_is_left_alone_and_not_ok_where_little_can_be_compared(method):
    visible = np.zeros((1, 8, 8), bool)
    visible[0, 0, :3] = True
    found = method(jnp.ones((1, 8, 8)), readout(np.full((1, 8, 8), 2.0), visible))
    assert float(found.scale) == 1.0 and float(found.shift) == 0.0
    np.testing.assert_array_equal(found.depth, 1.0)
    assert not found.ok and not found.enough and int(found.compared) == 3


def test_scale_stays_within_a_factor_of_two():
    found = align.align_scale(jnp.ones((1, 8, 8)), readout(np.full((1, 8, 8), 100.0)))
    np.testing.assert_allclose(found.scale, 2.0, rtol=1e-6)
    np.testing.assert_allclose(found.residual, np.log(50.0), rtol=1e-5)
    assert found.enough and not found.ok


@pytest.mark.parametrize("scale, shift", [(0.003, 0.0), (7.0, 0.05), (20.0, -0.02)])
def test_scale_and_shift_come_back_through_outliers(scale, shift):
    rng = np.random.default_rng(1)
    shown = rng.uniform(1, 10, SHAPE)
    inverse = (1 / shown - shift) / scale
    wrong = rng.random(SHAPE) < 0.3
    guess = 1 / np.where(wrong, inverse * rng.uniform(2, 5, SHAPE), inverse)
    guess[0, 0, 0], guess[0, 0, 1] = np.inf, 0.0
    found = jax.jit(align.align_inverse)(jnp.asarray(guess), readout(shown))
    np.testing.assert_allclose(found.scale, scale, rtol=2e-3)
    np.testing.assert_allclose(found.shift, shift, atol=1e-3)
    right = ~wrong & np.isfinite(guess) & (guess > 0)
    np.testing.assert_allclose(np.asarray(found.depth)[right], shown[right], rtol=1e-2)
    assert found.ok and np.isinf(found.depth[0, 0, 0]) and found.depth[0, 0, 1] == 0


def test_a_flat_wall_gets_a_scale_and_no_shift():
    found = align.align_inverse(jnp.full(SHAPE, 0.5), readout(np.full(SHAPE, 4.0)))
    np.testing.assert_allclose(found.depth, 4.0, rtol=1e-4)
    np.testing.assert_allclose(found.shift, 0.0, atol=1e-4)


def test_depth_that_has_nothing_to_do_with_the_memory_is_not_ok():
    rng = np.random.default_rng(2)
    shown, guess = np.exp(rng.normal(0, 1, SHAPE)), np.exp(rng.normal(0, 1, SHAPE))
    assert not align.align_scale(jnp.asarray(guess), readout(shown)).ok
    assert not align.align_inverse(jnp.asarray(guess), readout(shown)).ok
    upside_down = align.align_inverse(
        jnp.asarray(1 / (1.1 - 1 / np.linspace(1, 10, 128).reshape(SHAPE))),
        readout(np.linspace(1, 10, 128).reshape(SHAPE)),
    )
    assert not upside_down.ok

"""Alignment of new depth to the memory: the true scale and shift come back through outliers, misfits are not ok."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax.memory.points import Readout
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
    guess[rng.random(SHAPE) < 0.2] *= 50  # outliers move a mean, not a median
    assert (visible & (guess > 10)).sum() > 10
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


def wavy(size):
    """A smooth field `[2, size, size]` within 0.12, of another slope in each frame."""
    at = np.linspace(-1, 1, size)
    return 0.12 * np.stack([np.sin(2 * at)[:, None] * np.ones(size), np.ones((size, 1)) * at])


def test_smooth_errors_are_bent_away_frame_by_frame():
    error = wavy(16)
    guess = 4.0 * np.exp(error)
    guess[0, 0, 0], guess[1, 3, 3] = np.inf, 0.0
    found = np.asarray(jax.jit(align.follow_surfaces)(jnp.asarray(guess), readout(np.full((2, 16, 16), 4.0))))
    assert np.isinf(found[0, 0, 0]) and found[1, 3, 3] == 0.0
    known = np.isfinite(guess) & (guess > 0)
    assert np.abs(np.log(found[known] / 4.0)).mean() < 0.35 * np.abs(error[known]).mean()


def test_what_is_new_goes_on_from_what_is_known_and_other_surfaces_have_no_say():
    visible = np.zeros((1, 16, 16), bool)
    visible[..., :8] = True
    shown = np.full((1, 16, 16), 4.0)
    shown[:, 8:] = 9.0  # below, something else is behind
    found = np.log(np.asarray(align.follow_surfaces(jnp.full((1, 16, 16), 3.6), readout(shown, visible)))[0] / 3.6)
    whole = np.log(4.0 / 3.6)
    assert np.all(np.diff(found[2, 7:]) < 0), "less and less, away from what is known"
    assert 0.9 * whole < found[2, 4] < whole and 0.8 * whole < found[2, 8] and found[2, 15] < 0.75 * whole
    assert np.all(found[15] < found[2]) and np.all(found >= 0)


def test_nothing_is_bent_where_little_can_be_compared():
    visible = np.zeros((1, 8, 8), bool)
    visible[0, 0, :3] = True
    depth = jnp.asarray(np.random.default_rng(0).uniform(1, 2, (1, 8, 8)), jnp.float32)
    np.testing.assert_array_equal(align.follow_surfaces(depth, readout(np.full((1, 8, 8), 1.6), visible)), depth)


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


@pytest.mark.parametrize("seed", range(6))
def test_noise_on_a_wall_is_not_taken_for_a_slope(seed):
    rng = np.random.default_rng(seed)
    noisy = lambda depth: depth * np.exp(0.02 * rng.standard_normal(SHAPE))  # noqa: E731
    found = jax.jit(align.align_inverse)(jnp.asarray(noisy(0.5)), readout(noisy(4.0)))
    assert found.ok and found.shift == 0
    np.testing.assert_allclose(found.scale, 0.125, rtol=0.01)


def test_noise_averages_out_and_that_of_what_is_near_does_not_move_what_is_far():
    rng = np.random.default_rng(0)
    depth = np.exp(rng.uniform(np.log(0.5), np.log(50), (32, *SHAPE)))
    shown = depth * np.exp(0.05 * rng.standard_normal(depth.shape))
    guess = 7 / (1 / depth + 0.05)
    found = jax.jit(jax.vmap(align.align_inverse))(jnp.asarray(guess), jax.vmap(readout)(shown))
    # A line through two cells leaves 0.017, equal weights for near and far 0.1.
    assert np.sqrt(np.mean(np.log(found.depth / depth) ** 2)) < 0.01


def test_what_a_shift_moves_behind_infinity_is_unknown():
    shown = np.linspace(1, 10, 128).reshape(SHAPE)
    guess = 1 / (1 / shown + 0.2)
    guess[1, 7, 7] = 1 / 0.1
    found = align.align_inverse(jnp.asarray(guess), readout(shown))
    np.testing.assert_allclose(found.shift, -0.2, atol=1e-3)
    assert found.ok and found.depth[1, 7, 7] == 0


def test_what_is_upside_down_is_not_ok_however_flat():
    shown = np.linspace(4, 4.4, 128).reshape(SHAPE)
    found = align.align_inverse(jnp.asarray(1 / (2 / 4.2 - 1 / shown)), readout(shown))
    assert found.residual < align.LARGEST_RESIDUAL and found.enough and not found.ok


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

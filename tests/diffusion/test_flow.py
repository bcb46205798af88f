"""Flow schedule, noising and loss against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirage_jax.diffusion import flow

SHAPE = (3, 2, 2, 4)


def latents(seed):
    return jax.random.normal(jax.random.key(seed), SHAPE)


@settings(max_examples=30, deadline=None)
@given(u=st.floats(0, 1), shift=st.floats(1, 10))
def test_shift_keeps_the_ends_and_moves_towards_noise(u, shift):
    assert flow.shift_sigma(0.0, shift) == 0.0
    assert flow.shift_sigma(1.0, shift) == pytest.approx(1.0)
    sigma = flow.shift_sigma(u, shift)
    assert u - 1e-9 <= sigma <= 1.0 + 1e-9
    # The odds of noise are multiplied by the shift.
    if 0.01 < u < 0.99:
        assert sigma / (1 - sigma) == pytest.approx(shift * u / (1 - u))


def test_sampled_sigmas_follow_the_shifted_uniform_distribution():
    sigmas = jax.vmap(flow.sample_sigma)(jax.random.split(jax.random.key(0), 20_000))
    # P(sigma < s) = s / (a - (a - 1) s) for the default a = 5.
    for s in (0.3, 0.7, 0.9):
        assert np.mean(np.asarray(sigmas) < s) == pytest.approx(s / (5 - 4 * s), abs=0.012)


def test_clean_frames_carry_no_noise():
    clean = jnp.array([True, False, False])
    sigmas = flow.frame_sigmas(0.6, clean)
    np.testing.assert_array_equal(sigmas, np.float32([0, 0.6, 0.6]))
    np.testing.assert_array_equal(flow.timesteps_from_sigmas(sigmas), np.float32([0, 600, 600]))
    noisy = flow.add_noise(latents(0), latents(1), sigmas)
    np.testing.assert_array_equal(noisy[0], latents(0)[0])
    np.testing.assert_allclose(noisy[1:], (0.4 * latents(0) + 0.6 * latents(1))[1:], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("prediction", ["flow", "sample"])
def test_a_perfect_output_means_the_clean_latents(prediction):
    x0, noise, sigmas = latents(0), latents(1), jnp.array([0.0, 0.4, 1.0])
    output = flow.training_target(x0, noise, prediction)
    restored = flow.sample_from_output(output, flow.add_noise(x0, noise, sigmas), sigmas, prediction)
    np.testing.assert_allclose(restored, x0, atol=1e-6)


def test_flow_target_is_the_velocity_of_the_path():
    x0, noise = latents(0), latents(1)
    path = lambda s: flow.add_noise(x0, noise, jnp.full(3, s))  # noqa: E731
    _, velocity = jax.jvp(path, (0.3,), (1.0,))
    np.testing.assert_allclose(velocity, flow.training_target(x0, noise, "flow"), atol=1e-6)


def test_loss_is_the_mean_over_noisy_frames_only():
    clean = jnp.array([True, False, False])
    output = latents(0).at[0].set(jnp.nan)
    value, gradient = jax.value_and_grad(flow.loss)(output, latents(1), clean)
    expected = np.mean(np.square(np.asarray(latents(0) - latents(1)))[1:])
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert np.isfinite(gradient).all()
    assert not np.asarray(gradient[0]).any()
    np.testing.assert_allclose(flow.frame_weights(clean), [0, 0.5, 0.5])
    weights = jnp.zeros(output.shape[:3]).at[1:].set(0.2)
    np.testing.assert_allclose(flow.loss(output, latents(1), clean, weights), 0.2 * expected, rtol=1e-6)
    np.testing.assert_array_equal(flow.frame_weights(jnp.ones(2, bool)), [0, 0])

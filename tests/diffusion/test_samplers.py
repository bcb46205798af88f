"""UniPC against data whose flow is known exactly, and the two published grids."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax.diffusion import samplers

SHAPE = (3, 2, 2, 4)
MEAN, SPREAD = 1.5, 0.4


def gaussian_denoise(x, sigma, timestep):
    """Posterior mean of `x0` for data of N(MEAN, SPREAD^2)."""
    del timestep
    signal = 1.0 - sigma
    gain = SPREAD**2 * signal / (signal**2 * SPREAD**2 + sigma**2)
    return MEAN + gain * (x - signal * MEAN)


def gaussian_flow(x, start, end):
    """Where the exact flow of that data takes a state at sigma `start`, at sigma `end`."""

    def deviation(sigma):
        return np.hypot((1.0 - sigma) * SPREAD, sigma)

    return (1.0 - end) * MEAN + deviation(end) / deviation(start) * (x - (1.0 - start) * MEAN)


def error(sampler, steps):
    """Largest error after going from sigma 0.9 to 0.2 in steps of equal log signal-to-noise."""
    odds = np.exp(np.linspace(np.log(0.9 / 0.1), np.log(0.2 / 0.8), steps + 1))
    schedule = samplers.Schedule(sigmas=odds / (1 + odds), timesteps=np.zeros(steps, int))
    start = jax.random.normal(jax.random.key(0), SHAPE)
    found, _ = jax.jit(lambda x: sampler(gaussian_denoise, x, schedule))(start)
    return float(jnp.abs(found - gaussian_flow(start, 0.9, 0.2)).max())


@pytest.mark.parametrize(
    ("grid", "timesteps", "last"),
    [
        ("wan", [999, 972, 937, 892, 833, 749, 624, 416], 208),
        ("diffusers", [999, 972, 937, 893, 833, 750, 625, 418], 211),
    ],
)
def test_published_grids(grid, timesteps, last):
    schedule = samplers.SCHEDULES[grid](8)
    np.testing.assert_array_equal(schedule.timesteps, timesteps)
    assert samplers.SCHEDULES[grid](20).timesteps[-1] == last
    assert schedule.sigmas[-1] == 0.0
    assert len(schedule.sigmas) == 9
    assert (np.diff(schedule.sigmas) < 0).all()
    with pytest.raises(ValueError, match="at least 1 step"):
        samplers.SCHEDULES[grid](0)


@pytest.mark.parametrize(
    ("grid", "sigmas", "timesteps"),
    [
        ("fastwan", [1, 0.757, 0.522, 0], [1000, 757, 522]),
        ("turbo", [1, 0.9375, 0.83333333, 0.625, 0], [1000, 937.5, 833.33333, 625]),
    ],
)
def test_schedules_of_distilled_models(grid, sigmas, timesteps):
    schedule = samplers.SCHEDULES[grid](len(timesteps))
    np.testing.assert_allclose(schedule.sigmas, sigmas, rtol=1e-7)
    np.testing.assert_allclose(schedule.timesteps, timesteps, rtol=1e-7)
    assert schedule.renoised and samplers.FIXED_STEPS[grid] == len(timesteps)
    with pytest.raises(ValueError, match=f"the grid has {len(timesteps)} steps, got 8"):
        samplers.SCHEDULES[grid](8)


def test_renoising_is_the_loop_that_distilled_models_are_trained_for():
    """Against a loop by hand, and against the truth: of a right denoiser it gives samples of the data."""
    schedule, key = samplers.turbo_schedule(), jax.random.key(2)
    known, clean = jnp.full(SHAPE, 7.0), jnp.array([True, False, False])
    noise = jax.random.normal(jax.random.key(0), SHAPE)
    found = samplers.renoise(gaussian_denoise, noise, schedule, key, known=known, clean=clean)
    x = noise.at[0].set(7.0)
    for step, fresh in enumerate(jax.random.split(key, 4)):
        guess = gaussian_denoise(x, schedule.sigmas[step], None)
        sigma = schedule.sigmas[step + 1]
        x = ((1 - sigma) * guess + sigma * jax.random.normal(fresh, SHAPE)).at[0].set(7.0)
    np.testing.assert_allclose(found, x, rtol=1e-5)
    many = samplers.renoise(gaussian_denoise, jax.random.normal(key, (1, 64, 64, 4)), schedule, jax.random.key(3))
    assert abs(float(many.mean()) - MEAN) < 0.02


def test_wan_grid_by_hand():
    """Two levels from 0.999: s and s / 2, each to 5 s / (1 + 4 s)."""
    np.testing.assert_allclose(samplers.wan_schedule(2).sigmas, [4.995 / 4.996, 2.4975 / 2.998, 0.0], atol=1e-7)


def test_unipc_converges_with_order_two_or_more():
    errors = [error(samplers.unipc, steps) for steps in (8, 16, 32)]
    for coarse, fine in itertools.pairwise(errors):
        assert coarse / fine > 3.8


# Five values through diffusers 0.42.1, UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True,
# flow_shift=5.0), with the velocity below (tests/parity compares longer runs where diffusers is installed).
PUBLIC_RUNS = {
    3: [-1.331031, -0.530496, -0.06962211, 0.4104471, 1.401099],
    8: [-1.277797, -0.4820827, -0.0394289, 0.3996773, 1.311992],
}


@pytest.mark.parametrize("steps", PUBLIC_RUNS)
def test_unipc_reproduces_stored_runs_of_the_public_scheduler(steps):
    def denoise(x, sigma, timestep):
        return x - sigma * (jnp.tanh(1.3 * x) + 0.5 * jnp.sin(x[..., ::-1] + 0.3) * timestep / 1000)

    noise = jnp.linspace(-2, 2, 5).reshape(1, 1, 1, 5)
    found = samplers.unipc(denoise, noise, samplers.diffusers_schedule(steps))[0]
    np.testing.assert_allclose(found[0, 0, 0], PUBLIC_RUNS[steps], atol=2e-6)


def test_runs_on_the_wan_grid_approach_the_exact_flow():
    noise = jax.random.normal(jax.random.key(0), SHAPE)

    def distance(steps):
        schedule = samplers.wan_schedule(steps)
        found, _ = samplers.unipc(gaussian_denoise, noise, schedule)
        return float(jnp.abs(found - gaussian_flow(noise, schedule.sigmas[0], 0.0)).max())

    assert distance(80) < distance(20) / 2.5


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_constant_prediction_is_reached_exactly(steps):
    target = jax.random.normal(jax.random.key(1), SHAPE)
    found, _ = samplers.unipc(lambda *_: target, jnp.ones(SHAPE), samplers.wan_schedule(steps))
    np.testing.assert_allclose(found, target, atol=1e-6)


def test_clean_frames_are_imposed_before_every_call_and_at_the_end():
    known = jnp.full(SHAPE, 7.0)
    clean = jnp.array([True, False, False])
    seen = []

    def denoise(x, sigma, timestep):
        jax.debug.callback(lambda frames: seen.append(np.asarray(frames)), x)
        return gaussian_denoise(x, sigma, timestep)

    noise = jax.random.normal(jax.random.key(0), SHAPE)
    found, passes = samplers.unipc(denoise, noise, samplers.wan_schedule(4), known=known, clean=clean)
    free, _ = samplers.unipc(gaussian_denoise, noise, samplers.wan_schedule(4))
    jax.effects_barrier()
    assert len(seen) == passes == 4
    for x in [*seen, np.asarray(found)]:
        np.testing.assert_array_equal(x[0], known[0])
        assert (x[1:] != 7.0).all()
    np.testing.assert_allclose(found[1:], free[1:], atol=1e-6)


def test_denoise_is_told_sigma_and_timestep_of_each_step():
    schedule, seen = samplers.wan_schedule(5), []

    def denoise(x, sigma, timestep):
        jax.debug.callback(lambda s, t: seen.append((float(s), float(t))), sigma, timestep, ordered=True)
        return x

    samplers.unipc(denoise, jnp.ones(SHAPE), schedule)
    jax.effects_barrier()
    np.testing.assert_allclose(seen, np.stack([schedule.sigmas[:-1], schedule.timesteps], axis=-1), rtol=1e-6)

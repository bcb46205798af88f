"""The cache of steps: the rule in numpy, and what it costs beside the run without."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax.diffusion import samplers, step_cache

SHAPE = (3, 4, 4, 5)
STEPS = 30
TARGET = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)


def denoise(x, sigma, timestep):
    """A network whose flow turns and grows slowly."""
    return TARGET + 0.3 * jnp.sin(2.0 * x) * sigma + 0.1 * jnp.cos(timestep / 400)


def run(reuse, clean=None):
    noise = jax.random.normal(jax.random.key(0), SHAPE)
    known = None if clean is None else jnp.full(SHAPE, 2.0)
    sample = lambda x: samplers.unipc(  # noqa: E731
        denoise, x, samplers.wan_schedule(STEPS), known=known, clean=clean, reuse=reuse
    )
    found, passes = jax.jit(sample)(noise)
    return np.asarray(found), int(passes)


def by_the_rule(flows, limit):
    """Steps that run the network, from flows that are known beforehand: a loop over what the module says."""
    ran, change, error, count = [], 0.0, 0.0, 0
    for step in range(len(flows)):
        error += change
        may = max(2, np.ceil(0.2 * len(flows))) <= step < len(flows) - 1
        if may and count < 3 and error <= limit:
            count += 1
            continue
        if ran:
            last = flows[ran[-1]]
            change = np.abs(flows[step] - last).mean() / np.abs(last).mean() / (count + 1)
        ran.append(step)
        error, count = 0.0, 0
    return ran


@pytest.mark.parametrize("limit", [0.01, 0.06, 0.3])
def test_steps_are_reused_by_the_rule(limit):
    """Step by step without a sampler, so that flows are known beforehand."""
    sigmas = samplers.wan_schedule(STEPS).sigmas[:-1]
    xs = np.random.default_rng(0).normal(size=(STEPS, *SHAPE)).astype(np.float32)
    grown = (1.0 + 0.001 * np.arange(STEPS) ** 1.5)[:, None, None, None, None].astype(np.float32)
    flows = TARGET * grown
    clean_guess = lambda x, sigma, step: x - sigma * flows[int(step)]  # noqa: E731
    cache, found = step_cache.create(jnp.zeros(SHAPE), STEPS, None), []
    for step in range(STEPS):
        guess = clean_guess(xs[step], sigmas[step], step)
        before = int(cache.passes)
        x0, cache = step_cache.predict(
            lambda *_, guess=guess: jnp.asarray(guess), cache, xs[step], jnp.float32(sigmas[step]), None, limit=limit
        )
        if int(cache.passes) > before:
            found.append(step)
        expected = flows[found[-1]]
        np.testing.assert_allclose((xs[step] - x0) / sigmas[step], expected, atol=1e-4)
    assert found == by_the_rule(flows, limit)
    assert len(found) < STEPS and found[:6] == [0, 1, 2, 3, 4, 5]


def test_nothing_is_reused_where_nothing_may_be_and_no_error_is_made():
    (whole, passes), (strict, again) = run(0.0), run(1e-12)
    assert passes == again == STEPS
    np.testing.assert_allclose(strict, whole, atol=1e-6)


def test_a_higher_limit_runs_the_network_less_and_the_result_stays_near():
    whole, _ = run(0.0)
    runs = [run(limit) for limit in (0.01, 0.03, 0.1)]
    passes = [count for _, count in runs]
    assert STEPS > passes[0] > passes[1] > passes[2] >= 6 + (STEPS - 6) // 4
    assert max(np.linalg.norm(found - whole) / np.linalg.norm(whole) for found, _ in runs) < 0.03


def test_clean_frames_are_kept_and_decide_nothing():
    clean = jnp.array([True, False, False])
    found, passes = run(0.1, clean)
    np.testing.assert_array_equal(found[0], 2.0)
    assert passes < STEPS

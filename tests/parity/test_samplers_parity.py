"""UniPC against the public scheduler, over whole runs with a fixed nonlinear model."""

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from mirage_jax.diffusion import flow, samplers

SHAPE = (2, 3, 3, 4)


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 20])
def test_unipc_run(steps):
    noise = np.random.default_rng(steps).standard_normal(SHAPE, dtype=np.float32)

    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0
    )
    scheduler.set_timesteps(steps)
    expected = torch.from_numpy(noise)
    for timestep in scheduler.timesteps:
        velocity = torch.tanh(1.3 * expected) + 0.5 * torch.sin(expected.flip(-1)) * timestep / 1000
        expected = scheduler.step(velocity, timestep, expected, return_dict=False)[0]

    schedule = samplers.wan_schedule(steps)
    np.testing.assert_array_equal(schedule.timesteps, scheduler.timesteps.numpy())
    np.testing.assert_array_equal(schedule.sigmas, scheduler.sigmas.numpy())

    def denoise(x, sigma, timestep):
        velocity = jnp.tanh(1.3 * x) + 0.5 * jnp.sin(x[..., ::-1]) * timestep / 1000
        return flow.sample_from_output(velocity, x, jnp.full(len(x), sigma), "flow")

    found = jax.jit(lambda x: samplers.unipc(denoise, x, schedule))(noise)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5 * np.abs(expected.numpy()).max())

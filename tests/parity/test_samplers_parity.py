"""UniPC against the public scheduler, over whole runs with a fixed nonlinear model and with the transformer."""

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import torch
from record import record, relative_error

from mirage_jax.diffusion import flow, guidance, samplers
from mirage_jax.models.generator import Generator

SHAPE = (2, 3, 3, 4)


def public_scheduler(steps):
    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0
    )
    scheduler.set_timesteps(steps)
    return scheduler


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 20])
def test_unipc_run(steps):
    noise = oracles.normal(steps, *SHAPE)
    scheduler = public_scheduler(steps)
    expected = torch.from_numpy(noise)
    for timestep in scheduler.timesteps:
        velocity = torch.tanh(1.3 * expected) + 0.5 * torch.sin(expected.flip(-1)) * timestep / 1000
        expected = scheduler.step(velocity, timestep, expected, return_dict=False)[0]

    schedule = samplers.diffusers_schedule(steps)
    np.testing.assert_array_equal(schedule.timesteps, scheduler.timesteps.numpy())
    np.testing.assert_array_equal(schedule.sigmas, scheduler.sigmas.numpy())

    def denoise(x, sigma, timestep):
        velocity = jnp.tanh(1.3 * x) + 0.5 * jnp.sin(x[..., ::-1]) * timestep / 1000
        return flow.sample_from_output(velocity, x, jnp.full(len(x), sigma), "flow")

    found = jax.jit(lambda x: samplers.unipc(denoise, x, schedule)[0])(noise)
    record(
        f"UniPC, {steps} steps of a nonlinear model",
        "diffusers.UniPCMultistepScheduler",
        relative_error(found, expected.numpy()),
    )


@pytest.mark.parametrize("steps", [8, 20])
def test_sampling_with_the_transformer(steps):
    """First frame clean, as image to video runs it: held at its latents, timestep 0."""
    model = oracles.dit()
    noise, known = oracles.normal(0, 3, 4, 4, oracles.CHANNELS), oracles.normal(1, 3, 4, 4, oracles.CHANNELS)
    text = oracles.normal(2, oracles.DIT.text_tokens, oracles.DIT.text_dim)
    clean = np.array([True, False, False])

    scheduler = public_scheduler(steps)
    expected, first = oracles.channels_first(noise), oracles.channels_first(known)[:, :, :1]
    with torch.no_grad():
        for timestep in scheduler.timesteps:
            expected = torch.cat([first, expected[:, :, 1:]], dim=2)
            tokens = torch.tensor([0.0, timestep, timestep]).repeat_interleave(4)[None]
            velocity = model(expected, tokens, torch.from_numpy(text)[None], return_dict=False)[0]
            expected = scheduler.step(velocity, timestep, expected, return_dict=False)[0]
        expected = torch.cat([first, expected[:, :, 1:]], dim=2)

    params = oracles.generator_params(model.state_dict())

    def denoise(x, sigma, timestep):
        sigmas, timesteps = (flow.frame_sigmas(level, clean) for level in (sigma, timestep))
        output = Generator(oracles.DIT).apply({"params": params}, x, timesteps, text=text)
        return flow.sample_from_output(output, x, sigmas, "flow")

    schedule = samplers.diffusers_schedule(steps)
    found = jax.jit(lambda x: samplers.unipc(denoise, x, schedule, known=known, clean=clean)[0])(noise)
    record(
        f"sampling run of {steps} steps, DiT with UniPC, first frame clean",
        "diffusers.WanTransformer3DModel + UniPCMultistepScheduler",
        relative_error(found, oracles.channels_last(expected)),
    )


@pytest.mark.parametrize("scale", [5.0])
def test_guided_sampling_with_the_transformer(scale):
    """Wan's guidance, two passes of the public transformer a step, beside ours of one pass of two."""
    model, steps = oracles.dit(), 8
    noise = oracles.normal(0, 3, 4, 4, oracles.CHANNELS)
    prompt, away = (oracles.normal(seed, oracles.DIT.text_tokens, oracles.DIT.text_dim) for seed in (2, 3))
    scheduler, expected = public_scheduler(steps), oracles.channels_first(noise)
    with torch.no_grad():
        for timestep in scheduler.timesteps:
            tokens = torch.full((1, 12), float(timestep))
            positive, negative = (
                model(expected, tokens, torch.from_numpy(text)[None], return_dict=False)[0] for text in (prompt, away)
            )
            velocity = negative + scale * (positive - negative)
            expected = scheduler.step(velocity, timestep, expected, return_dict=False)[0]

    params = oracles.generator_params(model.state_dict())

    def denoise(x, sigma, timestep):
        sigmas, timesteps = jnp.full(len(x), sigma), jnp.full(len(x), timestep)
        network = lambda text: Generator(oracles.DIT).apply({"params": params}, x, timesteps, text=text)  # noqa: E731
        output = guidance.guided(network, jnp.stack([prompt, away]), scale)
        return flow.sample_from_output(output, x, sigmas, "flow")

    found = jax.jit(lambda x: samplers.unipc(denoise, x, samplers.diffusers_schedule(steps))[0])(noise)
    record(
        f"sampling run of {steps} steps with guidance {scale:g}, DiT with UniPC",
        "diffusers.WanTransformer3DModel + UniPCMultistepScheduler",
        relative_error(found, oracles.channels_last(expected)),
    )

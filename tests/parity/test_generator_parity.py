"""The DiT and its side branch against the public PyTorch implementation, random weights, outputs and gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import torch
from oracles import DIT, channels_first, channels_last, normal
from record import record, relative_error

from mirage_jax.models.generator import Generator
from mirage_jax.models.nn import layers
from mirage_jax.models.side_branch import SideBranchConfig

HEIGHT, WIDTH, FRAMES = 4, 6, 3
TEXT = normal(0, DIT.text_tokens, DIT.text_dim)
DIT_ORACLE, SIDE_ORACLE = "diffusers.WanTransformer3DModel", "diffusers.WanVACETransformer3DModel"


@pytest.fixture(scope="module")
def dit():
    return oracles.dit()


def latents(seed, frames):
    return normal(seed, frames, HEIGHT, WIDTH, oracles.CHANNELS)


def compare_with_gradients(what, oracle, model, generator, arguments, output, target):
    """Outputs, and gradients of `sum(output * weight)` by the target and by every parameter."""
    weight = latents(9, output.shape[2])
    model.zero_grad()
    (output * channels_first(weight)).sum().backward()

    def objective(params, target):
        found = generator.apply({"params": params}, target, **arguments)
        return jnp.sum(found * weight), found

    params = oracles.generator_params(model.state_dict())
    (by_params, by_target), found = jax.jit(jax.grad(objective, (0, 1), has_aux=True))(params, channels_last(target))
    expected = oracles.generator_params(oracles.gradients(model))
    errors = jax.tree.leaves(jax.tree.map(relative_error, by_params, expected))
    record(f"{what}, output", oracle, relative_error(found, channels_last(output)))
    record(f"{what}, gradient of the target", oracle, relative_error(by_target, channels_last(target.grad)))
    record(f"{what}, gradient of every weight (worst)", oracle, max(errors))


def test_dit_with_a_timestep_per_frame(dit):
    timesteps = np.float32([0, 937, 418])
    target = channels_first(latents(0, FRAMES), grad=True)
    tokens = torch.from_numpy(np.repeat(timesteps, (HEIGHT // 2) * (WIDTH // 2)))[None]
    output = dit(target, tokens, torch.from_numpy(TEXT)[None], return_dict=False)[0]
    arguments = {"timesteps": timesteps, "text": TEXT}
    compare_with_gradients("DiT, timestep per frame", DIT_ORACLE, dit, Generator(DIT), arguments, output, target)


def test_preceding_frames_continue_the_time_axis_with_timestep_zero(dit):
    """What the public model can do unchanged: later frames with timestep 0."""
    frames = latents(1, FRAMES)
    tokens = torch.from_numpy(np.repeat(np.float32([0, 700, 0]), (HEIGHT // 2) * (WIDTH // 2)))[None]
    with torch.no_grad():
        output = dit(channels_first(frames), tokens, torch.from_numpy(TEXT)[None], return_dict=False)[0]
    found = jax.jit(Generator(DIT).apply)(
        {"params": oracles.generator_params(dit.state_dict())},
        frames[:2],
        np.float32([0, 700]),
        preceding=frames[2:],
        text=TEXT,
    )
    record("DiT, target | preceding", DIT_ORACLE, relative_error(found, channels_last(output)[:2]))


def test_feed_forward(dit):
    """By itself and to 1e-5: the two kinds of GELU differ by less than 1e-4 of the whole model's output."""
    x = normal(3, 1, 7, DIT.dim)
    with torch.no_grad():
        expected = dit.blocks[0].ffn(torch.from_numpy(x)).numpy()
    params = oracles.generator_params(dit.state_dict())["dit"]["blocks_0"]["ffn"]
    found = layers.FeedForward(DIT.dim, DIT.ffn_dim, jnp.float32).apply({"params": params}, x)
    record("DiT, feed-forward alone", DIT_ORACLE, relative_error(found, expected), bound=1e-5)


@pytest.mark.parametrize("valid", [((True, True), (True,)), ((True, False), (False,))])
def test_segment_layout_and_validity(dit, valid):
    """A frame that is not valid is one that the public model is not given."""
    reference, target, preceding = latents(2, 2), latents(3, 2), latents(4, 1)
    keep = np.array([*valid[0], True, True, *valid[1]])
    frames = np.concatenate([reference, target, preceding])[keep]
    start = sum(valid[0])
    with torch.no_grad():
        output = oracles.run_segment(
            dit,
            channels_first(frames),
            np.array([-2, -1, 0, 1, 2])[keep],
            np.float32([0, 0, 0, 812, 0])[keep],
            TEXT,
        )
    found = jax.jit(Generator(DIT).apply)(
        {"params": oracles.generator_params(dit.state_dict())},
        target,
        np.float32([0, 812]),
        preceding=preceding,
        reference=reference,
        preceding_valid=np.array(valid[1]),
        reference_valid=np.array(valid[0]),
        text=TEXT,
    )
    what = "DiT, reference | target | preceding" + ("" if keep.all() else ", some not valid")
    record(what, DIT_ORACLE, relative_error(found, channels_last(output)[start : start + 2]))


@pytest.mark.parametrize("control", [96, 49])
def test_segment_layout_with_side_branch(control):
    model = oracles.side(control)
    target = channels_first(latents(5, 2), grad=True)
    reference, preceding = latents(6, 1), latents(7, 1)
    controls = normal(8, 3, HEIGHT, WIDTH, control)
    output = oracles.run_segment(
        model,
        torch.cat([channels_first(reference), target, channels_first(preceding)], dim=2),
        [-1, 0, 1, 2],
        [0, 0, 640, 0],
        TEXT,
        channels_first(controls),
        reference=1,
    )[:, :, 1:3]
    arguments = {
        "timesteps": np.float32([0, 640]),
        "preceding": preceding,
        "reference": reference,
        "control": controls,
        "text": TEXT,
    }
    generator = Generator(DIT, SideBranchConfig(control))
    what = f"DiT and side branch of {control} channels, reference | target | preceding"
    compare_with_gradients(what, SIDE_ORACLE, model, generator, arguments, output, target)


@pytest.mark.parametrize(("control", "timestep"), [(96, 640), (49, 0)])
def test_side_branch_of_the_public_model_unchanged(control, timestep):
    model = oracles.side(control)
    target, controls = latents(0, FRAMES), normal(1, FRAMES, HEIGHT, WIDTH, control)
    with torch.no_grad():
        output = model(
            channels_first(target),
            torch.tensor([timestep]),
            torch.from_numpy(TEXT)[None],
            control_hidden_states=channels_first(controls),
            control_hidden_states_scale=torch.ones(2),
            return_dict=False,
        )[0]
    found = jax.jit(Generator(DIT, SideBranchConfig(control)).apply)(
        {"params": oracles.generator_params(model.state_dict())},
        target,
        np.full(FRAMES, timestep, np.float32),
        control=controls,
        text=TEXT,
    )
    record(f"DiT and side branch of {control} channels", SIDE_ORACLE, relative_error(found, channels_last(output)))


def test_wan21_transformer_is_a_config():
    """The transformer of Wan2.1-T2V-1.3B: 16 channels, compared at tiny width and counted at full size."""
    model = oracles.dit(in_channels=16, out_channels=16)
    config = dataclasses.replace(DIT, in_channels=16)
    target = normal(0, 2, HEIGHT, WIDTH, 16)
    with torch.no_grad():
        output = model(channels_first(target), torch.tensor([500]), torch.from_numpy(TEXT)[None], return_dict=False)[0]
    found = jax.jit(Generator(config).apply)(
        {"params": oracles.generator_params(model.state_dict())}, target, np.full(2, 500, np.float32), text=TEXT
    )
    record("DiT of 16 channels (Wan2.1)", DIT_ORACLE, relative_error(found, channels_last(output)))

    full = dataclasses.replace(
        config, dim=1536, ffn_dim=8960, heads=12, layers=30, text_dim=4096, text_tokens=512, freq_dim=256
    )
    zeros = jnp.zeros((1, 2, 2, 16)), jnp.zeros(1)
    shapes = jax.eval_shape(
        lambda key: Generator(full).init(key, *zeros, text=jnp.zeros((512, 4096))), jax.random.key(0)
    )
    assert sum(x.size for x in jax.tree.leaves(shapes)) == 1_418_996_800

"""The DiT and its side branch against the public PyTorch implementation, random weights, outputs and gradients."""

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from mirage_jax.models.dit import DiTConfig
from mirage_jax.models.generator import Generator
from mirage_jax.models.side_branch import SideBranchConfig
from mirage_jax.weights import wan_layouts

FRAMES, HEIGHT, WIDTH, CHANNELS, CONTROL = 3, 4, 6, 48, 96
DIT = DiTConfig(
    dim=256, ffn_dim=512, heads=2, layers=3, in_channels=CHANNELS, text_dim=32, text_tokens=5, prediction="flow"
)
ORACLE = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 2,
    "attention_head_dim": 128,
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "text_dim": 32,
    "freq_dim": 256,
    "ffn_dim": 512,
    "num_layers": 3,
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
    "eps": 1e-6,
    "rope_max_seq_len": 1024,
}
DIFFUSERS = wan_layouts.DIFFUSERS_DIT + wan_layouts.DIFFUSERS_SIDE


def randomised(model):
    """The model with noise added to every weight, so that none is zero or one by initialisation."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.02 * torch.randn_like(weight)
    return model.float().eval()


def ours_from(tensors):
    return wan_layouts.params_from_public({k: v.detach().numpy() for k, v in tensors.items()}, DIFFUSERS)


def inputs():
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.standard_normal(shape, dtype=np.float32)  # noqa: E731
    return {
        "target": normal(FRAMES, HEIGHT, WIDTH, CHANNELS),
        "control": normal(FRAMES, HEIGHT, WIDTH, CONTROL),
        "text": normal(DIT.text_tokens, DIT.text_dim),
        "weight": normal(FRAMES, HEIGHT, WIDTH, CHANNELS),
    }


def channels_first(latents, grad=False):
    return torch.from_numpy(latents).permute(3, 0, 1, 2)[None].contiguous().requires_grad_(grad)


def channels_last(latents):
    return latents[0].permute(1, 2, 3, 0).detach().numpy()


def relative_error(found, expected):
    return np.linalg.norm(np.asarray(found) - expected) / np.linalg.norm(expected)


def compare(generator, params, arguments, data, output, target_gradient, weight_gradients):
    """Outputs, and gradients of `sum(output * weight)` by every parameter and by the target."""

    def objective(params, target):
        found = generator.apply({"params": params}, target, **arguments)
        return jnp.sum(found * data["weight"]), found

    gradients, found = jax.jit(jax.grad(objective, (0, 1), has_aux=True))(params, data["target"])
    assert relative_error(found, output) < 1e-4
    assert relative_error(gradients[1], target_gradient) < 1e-4
    assert jax.tree.structure(weight_gradients) == jax.tree.structure(gradients[0])
    for (path, mine), theirs in zip(
        jax.tree_util.tree_leaves_with_path(gradients[0]), jax.tree.leaves(weight_gradients), strict=True
    ):
        assert relative_error(mine, theirs) < 1e-4, jax.tree_util.keystr(path)


def test_dit_with_a_timestep_per_frame():
    model = randomised(diffusers.WanTransformer3DModel(**ORACLE))
    data, timesteps = inputs(), np.array([0.0, 937.0, 418.0], np.float32)
    target = channels_first(data["target"], grad=True)
    tokens = (HEIGHT // 2) * (WIDTH // 2)
    output = model(
        target,
        torch.from_numpy(np.repeat(timesteps, tokens))[None],
        torch.from_numpy(data["text"])[None],
        return_dict=False,
    )[0]
    (output * channels_first(data["weight"])).sum().backward()
    compare(
        Generator(DIT),
        ours_from(model.state_dict()),
        {"timesteps": timesteps, "text": data["text"]},
        data,
        channels_last(output),
        channels_last(target.grad),
        ours_from({name: weight.grad for name, weight in model.named_parameters()}),
    )


def test_preceding_frames_continue_the_time_axis_with_timestep_zero():
    model = randomised(diffusers.WanTransformer3DModel(**ORACLE))
    data, tokens = inputs(), (HEIGHT // 2) * (WIDTH // 2)
    with torch.no_grad():
        output = model(
            channels_first(data["target"]),
            torch.from_numpy(np.repeat(np.float32([0, 700, 0]), tokens))[None],
            torch.from_numpy(data["text"])[None],
            return_dict=False,
        )[0]
    found = jax.jit(Generator(DIT).apply)(
        {"params": ours_from(model.state_dict())},
        data["target"][:2],
        np.float32([0, 700]),
        preceding=data["target"][2:],
        text=data["text"],
    )
    assert relative_error(found, channels_last(output)[:2]) < 1e-4


@pytest.mark.parametrize("timestep", [0, 640])
def test_side_branch(timestep):
    model = randomised(diffusers.WanVACETransformer3DModel(**ORACLE, vace_layers=[0, 2], vace_in_channels=CONTROL))
    data = inputs()
    target = channels_first(data["target"], grad=True)
    output = model(
        target,
        torch.tensor([timestep]),
        torch.from_numpy(data["text"])[None],
        control_hidden_states=channels_first(data["control"]),
        control_hidden_states_scale=torch.ones(2),
        return_dict=False,
    )[0]
    (output * channels_first(data["weight"])).sum().backward()
    compare(
        Generator(DIT, SideBranchConfig(CONTROL)),
        ours_from(model.state_dict()),
        {
            "timesteps": np.full(FRAMES, timestep, np.float32),
            "text": data["text"],
            "control": data["control"],
        },
        data,
        channels_last(output),
        channels_last(target.grad),
        ours_from({name: weight.grad for name, weight in model.named_parameters()}),
    )

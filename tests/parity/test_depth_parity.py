"""Depth Anything against the public implementation: outputs, gradient by the picture, sizes, names of tensors."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from public_names import params_to_public
from record import record, relative_error

from mirage_jax.models import depth_anything
from mirage_jax.models.depth_anything import DepthAnything, DepthAnythingConfig
from mirage_jax.weights import layout
from mirage_jax.weights.layouts import depth_layouts

ORACLE = "transformers.DepthAnythingForDepthEstimation"
TINY = DepthAnythingConfig(32, 4, 2, (1, 2, 3, 4), (8, 12, 16, 16), 16, positions=5, head_dim=8)
LAYOUTS = {"published": depth_layouts.TRANSFORMERS_DEPTH, "version 5": depth_layouts.TRANSFORMERS_DEPTH_V5}


def public_config(config):
    backbone = transformers.Dinov2Config(
        hidden_size=config.dim,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        image_size=config.positions * config.patch,
        patch_size=config.patch,
        out_indices=list(config.taken),
        reshape_hidden_states=False,
    )
    return transformers.DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=config.dim,
        neck_hidden_sizes=list(config.neck),
        fusion_hidden_size=config.fusion,
        head_hidden_size=config.head_dim,
        patch_size=config.patch,
        depth_estimation_type="metric" if config.metric else "relative",
        max_depth=int(config.max_depth or 1),
    )


def oracle(config):
    """With noise on every weight, so that scales are not one and biases not zero."""
    torch.manual_seed(0)
    model = transformers.DepthAnythingForDepthEstimation(public_config(config))
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight)
        model.head.conv3.bias += 0.5  # off the flat side of the last ReLU
    return model.float().eval()


def tensors_of(model):
    return {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("max_depth", [None, 20.0], ids=["relative", "metric"])
@pytest.mark.parametrize("size", [(70, 70), (42, 98)], ids=["table", "interpolated"])
def test_map_and_gradient_by_the_picture(max_depth, size):
    config = dataclasses.replace(TINY, max_depth=max_depth)
    model = oracle(config)
    params = layout.params_from_public(tensors_of(model), depth_layouts.TRANSFORMERS_DEPTH)["depth"]
    rng = np.random.default_rng(1)
    image, weight = rng.random((*size, 3), np.float32), rng.standard_normal(size, np.float32)

    theirs = torch.from_numpy(image).requires_grad_(True)
    pixels = (theirs - torch.tensor(depth_anything.MEAN)) / torch.tensor(depth_anything.DEVIATION)
    expected = model(pixels.permute(2, 0, 1)[None]).predicted_depth[0]
    (expected * torch.from_numpy(weight)).sum().backward()
    assert float((expected > 0).float().mean()) > 0.3, "the oracle's picture is flat: nothing is compared"

    def objective(image):
        out = DepthAnything(config).apply({"params": params}, image)
        return jnp.sum(out * weight), out

    gradient, found = jax.jit(jax.grad(objective, has_aux=True))(image)
    kind = f"Depth Anything, {'metric' if max_depth else 'relative'}, {size[0]}x{size[1]}"
    record(kind, ORACLE, relative_error(found, expected.detach().numpy()))
    record(f"{kind}, gradient by the picture", ORACLE, relative_error(gradient, theirs.grad.numpy()))


@pytest.mark.parametrize("name", LAYOUTS)
def test_names_there_and_back_are_bit_identical(name):
    public = tensors_of(oracle(TINY))
    old = {"q": "attention.query", "k": "attention.key", "v": "attention.value", "o": "output.dense"}
    if name == "published":
        for x, y in old.items():
            public = {key.replace(f"attention.{x}_proj", f"attention.{y}"): value for key, value in public.items()}
        assert any("attention.attention.query" in key for key in public)
    params = layout.params_from_public(public, LAYOUTS["published"])
    again = params_to_public(params, LAYOUTS[name])
    assert again.keys() == public.keys()
    for key, value in public.items():
        np.testing.assert_array_equal(again[key], value, err_msg=key)


@pytest.mark.parametrize("name", ["small_relative", "base_indoor", "large_outdoor"])
def test_released_sizes_have_as_many_parameters(name):
    config = depth_anything.PRESETS[name]
    with torch.device("meta"):
        model = transformers.DepthAnythingForDepthEstimation(public_config(config))
    ours = jax.eval_shape(DepthAnything(config).init, jax.random.key(0), jnp.zeros((28, 28, 3)))["params"]
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(ours)) == sum(p.numel() for p in model.parameters())
    public = {key: np.broadcast_to(np.float32(0), tuple(value.shape)) for key, value in model.state_dict().items()}
    loaded = layout.params_from_public(public, depth_layouts.TRANSFORMERS_DEPTH)["depth"]
    assert jax.tree.map(lambda x: x.shape, loaded) == jax.tree.map(lambda x: x.shape, ours)

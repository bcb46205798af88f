"""Names of the VAE in public checkpoints: the diffusers model itself, and a skeleton of the original's module tree."""

import itertools
import re

import diffusers
import jax
import numpy as np
import oracles
import pytest
import torch
from diffusers.loaders import single_file_utils
from flax import traverse_util
from public_names import params_to_public
from record import record
from torch import nn

from mirage_jax.errors import UserError
from mirage_jax.models import vae
from mirage_jax.weights import layout
from mirage_jax.weights.layouts import vae_layouts

ORIGINAL = "names of the original module tree"


class Gamma(nn.Module):
    def __init__(self, channels, axes):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *[1] * axes))


def residual_block(inner, outer):
    block = nn.Module()
    block.residual = nn.Sequential(
        Gamma(inner, 3),
        nn.SiLU(),
        nn.Conv3d(inner, outer, 3),
        Gamma(outer, 3),
        nn.SiLU(),
        nn.Dropout(),
        nn.Conv3d(outer, outer, 3),
    )
    block.shortcut = nn.Conv3d(inner, outer, 1) if inner != outer else nn.Identity()
    return block


def half(first, widths, blocks, last, time_conv):
    """Encoder or decoder; `time_conv(level, width)` gives the temporal resampling of a level, or None."""
    module, inner = nn.Module(), widths[0]
    module.conv1 = nn.Conv3d(first, inner, 3)
    levels = []
    for index, (inner, outer) in enumerate(itertools.pairwise(widths)):
        steps = [residual_block(inner if block == 0 else outer, outer) for block in range(blocks)]
        if index < len(widths) - 2:
            steps.append(nn.Module())
            steps[-1].resample = nn.Sequential(nn.Identity(), nn.Conv2d(outer, outer, 3))
            if (conv := time_conv(index, outer)) is not None:
                steps[-1].time_conv = conv
        levels.append(nn.Sequential(*steps))
    middle = nn.Module()
    width = widths[-1] if blocks == 2 else widths[0]
    middle.norm, middle.to_qkv, middle.proj = (
        Gamma(width, 2),
        nn.Conv2d(width, 3 * width, 1),
        nn.Conv2d(width, width, 1),
    )
    module.middle = nn.Sequential(residual_block(width, width), middle, residual_block(width, width))
    module.head = nn.Sequential(Gamma(widths[-1], 3), nn.SiLU(), nn.Conv3d(widths[-1], last, 3))
    return module, levels


def original(base, decoder_base, z=48):
    """The parameters of the original VAE by name, without what computes."""
    model = nn.Module()
    model.encoder, down = half(
        12,
        [base * m for m in (1, 1, 2, 4, 4)],
        2,
        2 * z,
        lambda level, width: nn.Conv3d(width, width, (3, 1, 1)) if level in (1, 2) else None,
    )
    model.decoder, up = half(
        z,
        [decoder_base * m for m in (4, 4, 4, 2, 1)],
        3,
        12,
        lambda level, width: nn.Conv3d(width, 2 * width, (3, 1, 1)) if level in (0, 1) else None,
    )
    model.encoder.downsamples = nn.Sequential(*[wrapped("downsamples", level) for level in down])
    model.decoder.upsamples = nn.Sequential(*[wrapped("upsamples", level) for level in up])
    model.conv1, model.conv2 = nn.Conv3d(2 * z, 2 * z, 1), nn.Conv3d(z, z, 1)
    return model


def wrapped(name, steps):
    module = nn.Module()
    module.add_module(name, steps)
    return module


def public_mapping(name):
    """The public conversion from original to diffusers names: levels by its rules, the rest by diffusers' own code."""
    if not re.match(r"(en|de)coder\.(down|up)samples", name):
        (converted,) = single_file_utils.convert_wan_vae_to_diffusers({name: None})
        return converted
    name = re.sub(r"^(\w+)\.(down|up)samples\.(\d+)", r"\1.\2_blocks.\3", name)
    name = re.sub(r"\.(down|up)samples\.\d+\.(resample|time_conv)", r".\1sampler.\2", name)
    name = re.sub(r"\.(?:down|up)samples\.(\d+)", r".resnets.\1", name)
    name = re.sub(
        r"\.residual\.(\d)", lambda m: {"0": ".norm1", "2": ".conv1", "3": ".norm2", "6": ".conv2"}[m[1]], name
    )
    return name.replace(".shortcut", ".conv_shortcut")


def mismatches(expected, found):
    return float(len(set(expected.items()) ^ set(found.items())))


def test_full_size_names_and_shapes():
    """Every tensor of the two public full-size VAEs, by name and shape, is one of ours, and none is left over."""
    ours = jax.eval_shape(lambda key: vae.init(vae.WAN22, key), jax.random.key(0))
    ours = {path: x.shape for path, x in traverse_util.flatten_dict({"vae": ours}, sep="/").items()}
    with torch.device("meta"):
        theirs = diffusers.AutoencoderKLWan(**dict(oracles.VAE_ORACLE, base_dim=160, decoder_base_dim=256))
        skeleton = original(160, 256)
    for what, oracle, model, table in (
        ("VAE layout diffusers, names and shapes at full size", "diffusers.AutoencoderKLWan", theirs, "DIFFUSERS_VAE"),
        ("VAE layout original, names and shapes at full size", ORIGINAL, skeleton, "ORIGINAL_VAE"),
    ):
        rules = getattr(vae_layouts, table)
        found = {}
        for name, tensor in model.state_dict().items():
            path, storage = layout.to_ours(name, rules)
            assert layout.to_theirs(path, rules) == (name, storage)
            # A view without data: the axes are what is compared.
            public = np.broadcast_to(np.float32(0), tuple(tensor.shape))
            found[path] = layout.from_public(public, storage).shape
        record(f"{what} (mismatches)", oracle, mismatches(ours, found), bound=0)


def test_original_and_diffusers_names_agree():
    names = list(original(8, 16).state_dict())
    found = {name: public_name(name) for name in names}
    record(
        "VAE layout original to diffusers, names (mismatches)",
        "diffusers' conversion",
        mismatches({name: public_mapping(name) for name in names}, found),
        bound=0,
    )
    assert set(found.values()) == set(oracles.vae().state_dict())


def public_name(name):
    """The diffusers name of an original one, by way of ours."""
    path, _ = layout.to_ours(name, vae_layouts.ORIGINAL_VAE)
    return layout.to_theirs(path, vae_layouts.DIFFUSERS_VAE)[0]


@pytest.mark.parametrize("which", ["original", "diffusers"])
def test_round_trip_is_bit_identical(which):
    tensors = {name: oracles.normal(i, *t.shape) for i, (name, t) in enumerate(original(8, 16).state_dict().items())}
    rules = vae_layouts.ORIGINAL_VAE
    if which == "diffusers":
        tensors, rules = {public_name(name): array for name, array in tensors.items()}, vae_layouts.DIFFUSERS_VAE
    back = params_to_public(layout.params_from_public(tensors, rules), rules)
    assert back.keys() == tensors.keys()
    for name, array in tensors.items():
        np.testing.assert_array_equal(back[name], array, err_msg=name)
    different = sum(back[name].tobytes() != array.tobytes() for name, array in tensors.items())
    record(f"VAE layout {which}, round trip (tensors that differ)", "itself", different, bound=0)


def test_other_sizes_have_their_own_tables():
    rules = vae_layouts.original_vae(levels=3, blocks=1)
    assert layout.to_ours("encoder.downsamples.0.downsamples.1.resample.1.weight", rules)[0].endswith(
        "level0_down/space/kernel"
    )
    assert (
        layout.to_ours("decoder.upsamples.0.upsamples.0.shortcut.bias", rules)[0]
        == "vae/decoder/level2_block0/shortcut/bias"
    )
    with pytest.raises(UserError, match=r"decoder.upsamples.3.* is not part of this checkpoint layout"):
        layout.to_ours("decoder.upsamples.3.upsamples.0.residual.0.gamma", rules)

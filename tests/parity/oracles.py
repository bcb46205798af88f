"""The public models at tiny sizes with random weights, and their arrays in our order and back."""

from __future__ import annotations

import contextlib
from unittest import mock

import diffusers
import numpy as np
import torch
from diffusers.models.transformers import transformer_wan

from mirage_jax.models.dit import DiTConfig
from mirage_jax.models.vae import VAEConfig
from mirage_jax.weights import layout
from mirage_jax.weights.layouts import vae_layouts, wan_layouts

CHANNELS = 48
DIT = DiTConfig(
    dim=256, ffn_dim=512, heads=2, layers=3, in_channels=CHANNELS, text_dim=32, text_tokens=5, prediction="flow"
)
DIT_ORACLE = {
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
MEAN = tuple(round(0.1 * np.sin(i).item(), 3) for i in range(CHANNELS))
STD = tuple(round(1.0 + 0.5 * np.cos(i).item(), 3) for i in range(CHANNELS))
VAE = VAEConfig(encoder_dim=8, decoder_dim=16, latent_mean=MEAN, latent_std=STD)
VAE_ORACLE = {
    "base_dim": 8,
    "decoder_base_dim": 16,
    "z_dim": CHANNELS,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_scales": [],
    "temperal_downsample": [False, True, True],
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 16,
    "scale_factor_temporal": 4,
    "latents_mean": list(MEAN),
    "latents_std": list(STD),
}


def dit(**options):
    """The public transformer."""
    return randomised(diffusers.WanTransformer3DModel(**DIT_ORACLE | options))


def side(control: int):
    """The public transformer with a side branch of so many control channels."""
    return randomised(diffusers.WanVACETransformer3DModel(**DIT_ORACLE, vace_layers=[0, 2], vace_in_channels=control))


def rotary(times, rows: int, columns: int, head_dim: int = 128) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines `[1, L, 1, head_dim]` by Wan's rule, token by token; negative times lie below the grid."""
    side_pairs = head_dim // 6
    sizes = (head_dim // 2 - 2 * side_pairs, side_pairs, side_pairs)
    frequencies = [[10_000.0 ** (-pair / size) for pair in range(size)] for size in sizes]
    angles = []
    for time in times:
        for row in range(rows):
            for column in range(columns):
                position = (time, row + (rows if time < 0 else 0), column)
                angles.append([x * f for x, axis in zip(position, frequencies, strict=True) for f in axis])
    turns = np.exp(1j * np.array(angles)).repeat(2, axis=-1)[None, :, None]
    return torch.from_numpy(turns.real.astype(np.float32)), torch.from_numpy(turns.imag.astype(np.float32))


def run_segment(model, latents, times, timesteps, text, control=None, reference: int = 0) -> torch.Tensor:
    """The public transformer on frames at any times, each with its timestep, hints given to all but the first frames.

    The public model has neither: its rotary table is replaced, and the blocks of its side branch, which take one
    timestep, are run as the transformer blocks that they are.

    Args:
      model: of `dit` or `side`.
      latents: `[1, C, F, h, w]`.
      times: `[F]` on the time axis.
      timesteps: `[F]`.
      text: `[tokens, text_dim]`.
      control: `[1, Cc, F - reference, h, w]`, or None for the backbone alone.
      reference: frames that get no hint.
    """
    rows, columns = latents.shape[3] // 2, latents.shape[4] // 2
    skip = reference * rows * columns
    hints = {}

    def make_hints(_, arguments):
        hidden, embedded_text, modulation, table = arguments
        inner = embedded_text, modulation[:, skip:], [x[:, skip:] for x in table]
        stream = model.vace_patch_embedding(control).flatten(2).transpose(1, 2)
        stream = model.vace_blocks[0].proj_in(stream) + hidden[:, skip:]
        for index, block in zip(model.config.vace_layers, model.vace_blocks, strict=True):
            stream = transformer_wan.WanTransformerBlock.forward(block, stream, *inner)
            hints[index] = torch.nn.functional.pad(block.proj_out(stream), (0, 0, skip, 0))

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(model.rope, "forward", lambda _: rotary(times, rows, columns)))
        if control is not None:
            stack.callback(model.blocks[0].register_forward_pre_hook(make_hints).remove)
            for index in model.config.vace_layers:
                hook = model.blocks[index].register_forward_hook(lambda _, __, out, i=index: out + hints[i])
                stack.callback(hook.remove)
        tokens = torch.from_numpy(np.repeat(np.float32(timesteps), rows * columns))[None]
        return transformer_wan.WanTransformer3DModel.forward(
            model, latents, tokens, torch.from_numpy(text)[None], return_dict=False
        )[0]


def vae():
    """The public VAE; the noise is strong enough to make every shortcut, norm and bias count."""
    return randomised(diffusers.AutoencoderKLWan(**VAE_ORACLE), 0.1)


def randomised(model, scale: float = 0.02):
    """The model with noise added to every weight, so that none is zero or one by initialisation."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight += scale * torch.randn_like(weight)
    return model.float().eval()


def arrays(tensors) -> dict[str, np.ndarray]:
    """Named torch tensors as numpy arrays."""
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}


def generator_params(tensors):
    """Parameters of our `Generator` from tensors of the public one."""
    return layout.params_from_public(arrays(tensors), (*wan_layouts.DIFFUSERS_DIT, *wan_layouts.DIFFUSERS_SIDE))


def vae_params(tensors):
    """Parameters of our VAE from tensors of the public one."""
    return layout.params_from_public(arrays(tensors), vae_layouts.DIFFUSERS_VAE)["vae"]


def gradients(model):
    """The gradient of every weight, by name."""
    return {name: weight.grad for name, weight in model.named_parameters()}


def normal(seed: int, *shape: int) -> np.ndarray:
    """Standard normal float32."""
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def channels_first(video: np.ndarray, grad: bool = False) -> torch.Tensor:
    """`[T, h, w, C]` -> `[1, C, T, h, w]`."""
    return torch.from_numpy(video).permute(3, 0, 1, 2)[None].contiguous().requires_grad_(grad)


def channels_last(video: torch.Tensor) -> np.ndarray:
    """`[1, C, T, h, w]` -> `[T, h, w, C]`."""
    return video[0].permute(1, 2, 3, 0).detach().numpy()

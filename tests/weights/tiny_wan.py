"""A Wan model of a few thousand parameters, and public checkpoints of its parts with random tensors."""

import dataclasses

import ml_dtypes
import numpy as np

from mirage_jax.models import config, parameters
from mirage_jax.models.depth_anything import DepthAnythingConfig
from mirage_jax.models.umt5 import UMT5Config
from mirage_jax.weights import formats, layout


def tiny_wan():
    wan = config.wan22_ti2v_5b()
    return dataclasses.replace(
        wan,
        height=32,
        width=32,
        vae=dataclasses.replace(
            wan.vae, encoder_dim=4, decoder_dim=4, latent_channels=4, latent_mean=(), latent_std=()
        ),
        dit=dataclasses.replace(
            wan.dit,
            dim=24,
            ffn_dim=32,
            heads=2,
            layers=3,
            in_channels=4,
            text_dim=8,
            text_tokens=5,
            freq_dim=8,
        ),
        side=dataclasses.replace(wan.side, control_channels=8),
        lora=config.LoRAConfig(2, 2.0, cross_attention=True),
        depth=DepthAnythingConfig(8, 4, 2, (1, 2, 3, 4), (4, 4, 4, 4), 4),
        text=UMT5Config(vocabulary=16, dim=8, ffn_dim=16, heads=2, head_dim=4, layers=2),
    )


def tensors_of(layout_name, model, dtype=ml_dtypes.bfloat16):
    """What a public file of that layout holds."""
    form, rng = formats.FORMATS[layout_name], np.random.default_rng(0)
    tensors = {}
    for path, shape in parameters.shapes(model).items():
        if path.split("/")[0] == form.part:
            name, storage = layout.to_theirs(path, form.layout(model))
            public = layout.public_shape(shape, storage, formats.patch_shape(model))
            tensors[name] = rng.standard_normal(public).astype(dtype)
    return tensors

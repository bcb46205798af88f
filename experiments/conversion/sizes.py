"""The sizes of a part of a model, read off the shapes of its tensors in a public checkpoint."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from mirage_jax.errors import UserError
from mirage_jax.models import depth_anything, side_branch
from mirage_jax.models.config import ModelConfig
from mirage_jax.weights import layout as layouts
from mirage_jax.weights.formats import Format
from mirage_jax.weights.sources import Source

_HEAD_DIM = {"dit": 128, "depth": 64}  # of all released networks; nothing in the tensors tells
_TAKEN = {12: (3, 6, 9, 12), 24: (5, 12, 18, 24)}


def of(source: Source, form: Format, model: ModelConfig, told: Mapping[str, Any]) -> ModelConfig:
    """`model` with the part that a checkpoint holds in the checkpoint's sizes.

    Args:
      source: the checkpoint.
      form: the layout of the part.
      model: of the family; what shapes do not tell stays as it is.
      told: by a `config.json` beside the checkpoint, which knows the number of heads.

    Raises:
      UserError: if a tensor is missing that tells a size.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for name, entry in source.entries.items():
        try:
            path, storage = layouts.to_ours(form.canonical(name), form.layout(model))
            if storage == "patch":  # its sides are a part of what is to be found out
                shapes[f"{path}:public"] = entry.shape
            shapes[path] = layouts.from_public_shape(entry.shape, storage)
        except (UserError, IndexError, ValueError):
            continue  # `match` says what is wrong with it
    find = {"dit": _dit, "side": _side, "vae": _vae, "text": _text, "depth": _depth}.get(form.part)
    try:
        return model if find is None else find(shapes, model, told)
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(
            f"{source.path}: the tensor that tells the size of the {form.part} is missing ({error})"
        ) from error


def _layers(shapes: Mapping[str, Any], prefix: str) -> int:
    return 1 + max(int(m[1]) for path in shapes if (m := re.match(rf"{prefix}_(\d+)/", path)))


def _heads(part: str, dim: int, told: Mapping[str, Any]) -> int:
    found = next((told[key] for key in ("num_heads", "num_attention_heads") if key in told), None)
    return found if isinstance(found, int) and found > 0 else max(1, dim // _HEAD_DIM[part])


def _dit(shapes: Mapping[str, Any], model: ModelConfig, told: Mapping[str, Any]) -> ModelConfig:
    patches, up = shapes["dit/patch_embedding/kernel:public"], shapes["dit/blocks_0/ffn/up/kernel"]
    dit = dataclasses.replace(
        model.dit,
        dim=up[0],
        ffn_dim=up[1],
        heads=_heads("dit", up[0], told),
        layers=_layers(shapes, "dit/blocks"),
        in_channels=patches[1],
        patch=tuple(patches[2:]),
        text_dim=shapes["dit/text_embedding/up/kernel"][0],
        freq_dim=shapes["dit/time_embedding/up/kernel"][0],
    )
    return dataclasses.replace(model, dit=dit)


def _side(shapes: Mapping[str, Any], model: ModelConfig, told: Mapping[str, Any]) -> ModelConfig:
    blocks = _layers(shapes, "side/blocks")
    for every in range(1, model.dit.layers + 1):
        side = dataclasses.replace(model.side, every=every)
        if len(side_branch.hinted_blocks(model.dit, side)) == blocks:
            return dataclasses.replace(model, side=side)
    return model


def _vae(shapes: Mapping[str, Any], model: ModelConfig, told: Mapping[str, Any]) -> ModelConfig:
    first, last = shapes["vae/encoder/conv_in/kernel"], shapes["vae/decoder/norm_out/weight"]
    channels = shapes["vae/decoder/latents/kernel"][-1]
    vae = dataclasses.replace(
        model.vae, encoder_dim=first[-1], decoder_dim=last[0] // model.vae.multipliers[0], latent_channels=channels,
        patch=math.isqrt(first[-2] // 3), latent_mean=(), latent_std=(),
    )  # fmt: skip
    mean, std = told.get("latents_mean"), told.get("latents_std")
    if not (isinstance(mean, list) and isinstance(std, list) and len(mean) == len(std) == channels):
        mean, std = model.vae.latent_mean, model.vae.latent_std
    if len(mean) == channels:
        vae = dataclasses.replace(vae, latent_mean=tuple(map(float, mean)), latent_std=tuple(map(float, std)))
    return dataclasses.replace(model, vae=vae)


def _text(shapes: Mapping[str, Any], model: ModelConfig, told: Mapping[str, Any]) -> ModelConfig:
    (vocabulary, dim), bias = shapes["text/token_embedding"], shapes["text/blocks_0/attention/relative_bias"]
    text = dataclasses.replace(
        model.text,
        vocabulary=vocabulary,
        dim=dim,
        ffn_dim=shapes["text/blocks_0/ffn/up/kernel"][1],
        heads=bias[1],
        head_dim=shapes["text/blocks_0/attention/q/kernel"][1] // bias[1],
        layers=_layers(shapes, "text/blocks"),
        buckets=bias[0],
    )
    return dataclasses.replace(model, text=text)


def _depth(shapes: Mapping[str, Any], model: ModelConfig, told: Mapping[str, Any]) -> ModelConfig:
    kernel, positions = shapes["depth/backbone/patch_embedding/kernel"], shapes["depth/backbone/positions"]
    layers, side = _layers(shapes, "depth/backbone/blocks"), math.isqrt(positions[0] - 1)
    inner = told.get("backbone_config")
    depth = depth_anything.DepthAnythingConfig(
        dim=kernel[-1],
        layers=layers,
        heads=_heads("depth", kernel[-1], inner if isinstance(inner, dict) else {}),
        taken=_TAKEN.get(layers) or tuple(max(1, layers * i // 4) for i in (1, 2, 3, 4)),
        neck=tuple(shapes[f"depth/neck/project_{i}/kernel"][-1] for i in range(4)),
        fusion=shapes["depth/head_in/kernel"][-2],
        max_depth=_reach(told),
        short_side=side * kernel[0],
        positions=side,
        patch=kernel[0],
        head_dim=shapes["depth/head_hidden/kernel"][-1],
    )
    return dataclasses.replace(model, depth=depth)


def _reach(told: Mapping[str, Any]) -> float | None:
    """Metres that a metric head reaches, None for a relative one."""
    found = told.get("max_depth") if told.get("depth_estimation_type") == "metric" else None
    return float(found) if isinstance(found, (int, float)) else None

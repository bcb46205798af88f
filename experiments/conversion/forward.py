"""One pass through a converted part on a fixed input, a block at a time: a few numbers that any wrong weight changes.

Deep parts run as models one block deep, with each of their blocks in turn, so that one block is in memory at a time and
the numbers say which block is wrong.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mirage_jax.models import side_branch
from mirage_jax.models.config import ModelConfig
from mirage_jax.models.depth_anything import DepthAnything
from mirage_jax.models.generator import Generator
from mirage_jax.models.nn import rope
from mirage_jax.models.side_branch import SideBranch
from mirage_jax.models.umt5 import UMT5Encoder
from mirage_jax.models.vae import VAE

Reader = Callable[[Callable[[str], bool]], Any]
"""From a choice of paths inside the part to the tree of these parameters, float32."""

FRAMES = 2
CELLS = 2  # tokens of a side of a latent frame


def statistics(model: ModelConfig, part: str, read: Reader) -> dict[str, list[float]]:
    """Mean, standard deviation, least and greatest element of what a part gives, by depth.

    Args:
      model: the config.
      part: of the model.
      read: reads parameters of the part.
    """
    passes = {"dit": _dit, "side": _side, "lora": _lora, "vae": _vae, "text": _text, "depth": _depth}
    found = {}
    for name, output in passes[part](model, read):
        x = np.asarray(output, np.float64)
        found[name] = [float(f(x)) for f in (np.mean, np.std, np.min, np.max)]
    return found


def first_difference(found: dict[str, list[float]], expected: dict[str, list[float]]) -> str | None:
    """The first depth whose numbers differ by more than another machine's rounding would explain, or None."""
    for name in sorted({*found, *expected}):
        a, b = np.array(found.get(name, [np.nan])), np.array(expected.get(name, [np.nan]))
        if a.shape != b.shape or not np.all(np.abs(a - b) <= 1e-3 * (abs(b[1]) + 1e-6)):
            return f"{name}: (mean, std, min, max) is {found.get(name)}, at conversion it was {expected.get(name)}"
    return None


def _fixed(*shape: int) -> np.ndarray:
    """Numbers of about unit size that need no random generator."""
    return (1.4 * np.sin(1.0 + 1.7 * np.arange(np.prod(shape)))).astype(np.float32).reshape(shape)


def _blocks(read: Reader, count: int) -> Iterator[tuple[str, Any]]:
    """Everything outside the blocks with each block in turn, as a tree with the one block `blocks_0`."""
    shared = read(lambda path: not path.startswith("blocks_"))
    for index in range(count):
        own = read(lambda path, name=f"blocks_{index}/": path.startswith(name))
        yield f"block {index}", {**shared, "blocks_0": own[f"blocks_{index}"]}


@functools.partial(jax.jit, static_argnums=0)
def _apply(module: nn.Module, params: Any, *arguments: Any, **named: Any) -> Any:
    """What a module gives, compiled once for all modules that are equal: conversion and verification share it."""
    return module.apply({"params": params}, *arguments, **named)


def _shallow(model: ModelConfig) -> Any:
    return dataclasses.replace(model.dit, layers=1, dtype="float32", remat="none")


def _dit(model: ModelConfig, read: Reader) -> Iterator[tuple[str, jax.Array]]:
    dit = _shallow(model)
    latents = _fixed(FRAMES, CELLS * dit.patch[1], CELLS * dit.patch[2], dit.in_channels)
    text = _fixed(dit.text_tokens, dit.text_dim) if dit.text_dim else None
    times = np.linspace(0, 500, FRAMES, dtype=np.float32)
    for name, params in _blocks(read, model.dit.layers):
        yield name, _apply(Generator(dit), {"dit": params}, latents, times, text=text)


def _side(model: ModelConfig, read: Reader) -> Iterator[tuple[str, jax.Array]]:
    dit = _shallow(model)
    arguments = (
        _fixed(FRAMES, CELLS * dit.patch[1], CELLS * dit.patch[2], model.side.control_channels),
        _fixed(FRAMES, CELLS * CELLS, dit.dim),
        _fixed(FRAMES, 6, dit.dim),
        rope.segment_rotary(0, FRAMES, 0, CELLS, CELLS, dit.head_dim),
        None,
        _fixed(dit.text_tokens, dit.dim) if dit.text_dim else None,
    )
    join = None
    for name, params in _blocks(read, len(side_branch.hinted_blocks(model.dit, model.side))):
        # Only the first block has a join; it serves all, to give each of them the control stream.
        join = params["blocks_0"].get("join", join)
        params["blocks_0"]["join"] = join
        yield name, _apply(SideBranch(dit, model.side), params, *arguments).blocks[0]


def _lora(model: ModelConfig, read: Reader) -> Iterator[tuple[str, jax.Array]]:
    chosen = {f"block {i}": lambda path, name=f"blocks_{i}/": path.startswith(name) for i in range(model.dit.layers)}
    if not all(path.startswith("blocks/") for path in (*model.lora.targets, *model.lora.added)):
        chosen["rest"] = lambda path: not path.startswith("blocks_")
    for name, wanted in chosen.items():
        leaves = jax.tree.leaves(read(wanted), is_leaf=lambda node: isinstance(node, dict) and "A" in node)
        changes = [_fixed(2, len(x["A"])) @ x["A"] @ x["B"] if isinstance(x, dict) else x for x in leaves]
        yield name, jnp.concatenate([jnp.ravel(change) for change in changes])


def _vae(model: ModelConfig, read: Reader) -> Iterator[tuple[str, jax.Array]]:
    side = model.vae.stride_space
    frames = np.tanh(_fixed(1 + model.vae.stride_time, side, side, 3))
    yield "frames", _apply(VAE(model.vae), read(lambda path: True), frames)


def _text(model: ModelConfig, read: Reader) -> Iterator[tuple[str, jax.Array]]:
    tokens = 8
    config = dataclasses.replace(model.text, layers=1, vocabulary=tokens, dtype="float32")
    rows = np.linspace(0, model.text.vocabulary - 1, tokens).astype(int)
    table = None
    for name, params in _blocks(read, model.text.layers):
        table = jnp.asarray(np.asarray(params["token_embedding"])[rows]) if table is None else table
        params["token_embedding"] = table
        yield name, _apply(UMT5Encoder(config), params, np.arange(tokens), np.ones(tokens, bool))


def _depth(model: ModelConfig, read: Reader) -> Iterator[tuple[str, jax.Array]]:
    side = CELLS * model.depth.patch
    image = 0.5 + 0.5 * np.tanh(_fixed(side, side, 3))
    yield "depth", _apply(DepthAnything(model.depth), read(lambda path: True), image)

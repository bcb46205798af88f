"""Parameters of a whole model: fresh ones, and the check that given ones fit a config."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp

from mirage_jax.models import side_branch, vae
from mirage_jax.models.config import LoRAConfig, ModelConfig
from mirage_jax.models.depth_anything import DepthAnything
from mirage_jax.models.generator import Generator
from mirage_jax.models.heads import LatentHeads
from mirage_jax.models.nn import lora
from mirage_jax.models.umt5 import UMT5Encoder


def init(key: chex.PRNGKey, model: ModelConfig, known: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Parameters of every part that `model` has: those in `known`, and fresh ones for the rest.

    A new side branch copies the DiT's blocks and a new LoRA is zero, so that neither changes what the DiT gives.

    Args:
      key: consumed.
      model: the config.
      known: parameters by part.

    Returns:
      `{'vae', 'heads', 'dit', 'side', 'lora'}`, as far as the config has them.
    """
    parts: dict[str, Any] = {}
    keys, known = jax.random.split(key, 4), known or {}
    grid = model.height // model.vae.stride_space, model.width // model.vae.stride_space
    channels = model.vae.latent_channels
    parts["vae"] = known["vae"] if "vae" in known else vae.init(model.vae, keys[0])
    if model.heads is not None:
        module, rays = LatentHeads(model.heads), jnp.ones((*grid, 3))
        parts["heads"] = (
            known["heads"] if "heads" in known else module.init(keys[1], jnp.zeros((*grid, channels)), rays)["params"]
        )
    if model.dit is not None:
        control = None if model.side is None else jnp.zeros((2, *grid, model.side.control_channels))
        text = jnp.zeros((model.dit.text_tokens, model.dit.text_dim)) if model.dit.text_dim else None
        fresh = Generator(model.dit, model.side).init(
            keys[2], jnp.zeros((2, *grid, channels)), jnp.zeros(2), control=control, text=text
        )["params"]
        parts["dit"] = known["dit"] if "dit" in known else fresh["dit"]
        if model.side is not None:
            parts["side"] = (
                known["side"]
                if "side" in known
                else side_branch.side_params_from_dit(parts["dit"], fresh["side"], model.side.every)
            )
        if model.lora is not None:
            parts["lora"] = known["lora"] if "lora" in known else _lora(keys[3], parts["dit"], model.lora)
    return parts


@functools.lru_cache
def shapes(model: ModelConfig) -> Mapping[str, tuple[int, ...]]:
    """Shape by path (parts joined by '/', the model's part first) of every tensor the config asks for."""
    parts = jax.eval_shape(lambda key: init(key, model), jax.random.key(0))
    if model.text is not None:  # never made afresh, so `init` does not know it
        ids = jnp.zeros(2, jnp.int32)
        parts["text"] = jax.eval_shape(UMT5Encoder(model.text).init, jax.random.key(0), ids, ids > 0)["params"]
    if model.depth is not None:  # nor this
        module, image = DepthAnything(model.depth), jnp.zeros((model.depth.patch, model.depth.patch, 3))
        parts["depth"] = jax.eval_shape(module.init, jax.random.key(0), image)["params"]
    return _shapes(parts)


def first_misfit(model: ModelConfig, params: Mapping[str, Any]) -> str | None:
    """The first tensor of the given parts that is missing, left over or of the wrong shape, as a sentence, or None."""
    expected = {name: shape for name, shape in shapes(model).items() if name.split("/")[0] in params} if params else {}
    found = _shapes(params)
    for name in [*expected, *(name for name in found if name not in expected)]:
        if expected.get(name) != found.get(name):
            have = "missing" if name not in found else f"of shape {found[name]}"
            want = "no such tensor" if name not in expected else f"shape {expected[name]}"
            return f"tensor {name} is {have}, the config asks for {want}"
    return None


def _lora(key: chex.PRNGKey, dit: Any, config: LoRAConfig) -> Any:
    def pattern(paths: tuple[str, ...]) -> str:
        return "|".join(re.escape(path).replace("blocks/", r"blocks_\d+/", 1) for path in paths)

    blocks = lora.ALL_ATTENTION_AND_FFN if config.cross_attention else lora.SELF_ATTENTION_AND_FFN
    targets = "|".join(filter(None, (blocks, pattern(config.targets))))
    return lora.init(key, dit, config.rank, targets, pattern(config.added))


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(str(key.key) for key in path): tuple(leaf.shape) for path, leaf in leaves}

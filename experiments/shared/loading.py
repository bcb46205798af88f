"""The parts of a model that a rollout runs, in the type and on the devices that the flags ask for."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mirage_jax import weights, world
from mirage_jax.errors import UserError
from mirage_jax.geometry import Camera
from mirage_jax.models import partition, quantize
from mirage_jax.models.config import ModelConfig
from mirage_jax.weights import lora_files, ones, world_files
from mirage_jax.weights.lora_files import LoRAFile
from mirage_jax.world import conditioning
from mirage_jax.world import recipe as recipes

WEIGHTS = ("float32", "bfloat16", "int8")


def recipe(
    model: ModelConfig,
    name: str | None,
    steps: int,
    saved: world_files.SavedWorld | None = None,
    *,
    sampling: str | None = None,
    guidance: float | None = None,
    step_cache: float | None = None,
) -> world.Recipe:
    """The recipe of `--recipe`, else that of a saved world, else that of the model, sampled as other flags say.

    Args:
      model: whose recipe it is where nothing else says.
      name: of a recipe, or None.
      steps: of the sampler; 0 for its own.
      saved: the world to go on with, if there is one.
      sampling: one of `recipe.SAMPLINGS`, or None for its own.
      guidance: scale of guidance, or None for its own.
      step_cache: error up to which steps are reused, or None for its own.

    Raises:
      UserError: if the world was made by a recipe that there is not, or what is asked for does not go together.
    """
    if name is not None:
        chosen = world.RECIPES[name]
    else:
        chosen = recipes.of(model) if saved is None else recipes.from_values(saved.recipe, str(saved.path))
    changes = dict(recipes.SAMPLINGS[sampling]) if sampling is not None else {}
    changes |= {"steps": steps} if steps else {}
    changes |= {"guidance": guidance} if guidance is not None else {}
    changes |= {"step_cache": step_cache} if step_cache is not None else {}
    return dataclasses.replace(chosen, **changes)


MOST_POINTS = 1 << 22
"""Capacity of a world at most, unless another is asked for: however long its path, what it takes stays the same."""


def capacity_for(points: int) -> int:
    """The capacity of a memory that so many points can be written to."""
    return world.bucket(min(points, MOST_POINTS))


def room(model: ModelConfig, memory: str, segments: int, capacity: int | None = None) -> dict[str, int]:
    """`capacity` and `bank` of the world of a path of so many segments; says so where a given capacity is short.

    Sizes are powers of two, so that a path of about the same length compiles nothing anew.
    """
    needed = world.full_capacity(model, memory, segments)
    if capacity is not None and capacity < needed:
        print(f"note: the path can write {needed} points; of more than {capacity}, those worth least will go")
    bank = max(32, 1 + segments * model.segment.latents)
    return {"capacity": capacity or capacity_for(needed), "bank": world.bucket(bank)}


def parse_mesh(words: Sequence[str] | None) -> jax.sharding.Mesh | None:
    """The mesh of `--mesh tensor=4,fsdp=2`; None where the flag is not given.

    Raises:
      UserError: if a word is not AXIS=SIZE, or the mesh does not fit the devices.
    """
    if not words:
        return None
    axes = {}
    for word in words:
        name, _, size = word.partition("=")
        if not size.lstrip("-").isdigit() or name in axes:
            raise UserError(f"--mesh {','.join(words)}: {word!r} is not AXIS=SIZE, each axis once")
        axes[name] = int(size)
    return partition.make_mesh(axes)


def shapes_of_state(config: world.WorldConfig, params: Any) -> world.RolloutState:
    """The `jax.ShapeDtypeStruct`s of a world's state, by which a saved one is read; nothing is computed."""
    size = (config.model.height, config.model.width)
    camera = Camera(jnp.eye(3), jnp.eye(4), *size)

    def begin(params: Any, key: jax.Array) -> world.RolloutState:
        return world.init(config, params, jnp.zeros((*size, 3), jnp.uint8), jnp.zeros(size), camera, key)

    return jax.eval_shape(begin, params, jax.random.key(0))


def on_mesh(mesh: jax.sharding.Mesh | None) -> contextlib.AbstractContextManager:
    """Where what is compiled runs on the mesh; does nothing without one."""
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def digest(folder: str | pathlib.Path, config: world.WorldConfig, loras: Sequence[LoRAFile] = ()) -> str:
    """A short hash of the files with the weights that a world is made by, to recognise one made by others.

    Args:
      folder: of the model, or its one file.
      config: of the world.
      loras: added to its weights.
    """
    found = hashlib.sha256(config.model.at_any_length().to_json().encode())
    for lora in loras:
        found.update(repr(lora.strength).encode())
        with lora.path.open("rb") as content:
            found.update(hashlib.file_digest(content, "sha256").digest())
    for root in dict.fromkeys((pathlib.Path(folder), weights.side_folder(folder, config.memory))):
        files = [root] if root.is_file() else sorted(path for path in root.glob("params*/**/*") if path.is_file())
        for file in files:
            name = file.relative_to(root.parent if root.is_file() else root)
            if name.parts[0] == "params.text":
                continue
            found.update(b"" if root.is_file() else name.as_posix().encode())
            with file.open("rb") as content:
                found.update(hashlib.file_digest(content, "sha256").digest())
    return found.hexdigest()[:16]


def prepared(
    config: world.WorldConfig,
    folder: str | pathlib.Path,
    kind: str | None,
    mesh: jax.sharding.Mesh | None,
    loras: Sequence[LoRAFile] = (),
) -> Any:
    """Parameters for `world.segment`, LoRA merged; parts that the world does not run are not read.

    Args:
      config: of the world.
      folder: of the model.
      kind: one of `WEIGHTS`, of the DiT's and the side branch's matrices; None is the type the DiT computes in.
      mesh: to split them over, by the rules of `partition.WAN_RULES`; None is the default device.
      loras: to add to the DiT, whatever is remembered; that of the memory comes on top.

    Raises:
      UserError: if a part is missing, damaged or does not fit.
    """
    model, own = config.model, weights.side_folder(folder, config.memory)
    there = weights.parts_of(own)
    parts = ["vae", "dit"]
    parts += ["heads"] if model.heads is not None else []
    parts += ["depth"] if config.depth_from == "pixels" else []
    if config.memory != "none":
        parts += ["side"]
        if "lora" in there:
            parts += ["lora"]
        elif model.lora is not None:
            print(f"note: {own} holds no LoRA; the side branch runs on the backbone as it is")
    kind = kind or model.dit.dtype

    def read(names: Sequence[str], dtype: str | None) -> Any:
        rules = partition.rules_for(*(name for name in names if name in partition.WAN_RULES))
        split = None if mesh is None else lambda tree: partition.tree_shardings(rules, tree, mesh)
        return weights.load(folder, names, dtype, shardings=split, memory=config.memory)[1]

    large = [part for part in parts if part in quantize.PARTS]
    params = read([part for part in parts if part not in large], None)
    if config.conditions and "ones" in model.segment.control:
        params["ones"] = ones_code(model, folder, params, config.vae_tile)
    # What is merged, or made smaller, is so on the host: the device never holds it twice.
    with weights.on_host() if mesh is None else contextlib.nullcontext():
        params |= read(large, "float32" if kind == "float32" else "bfloat16")
        for file in loras:
            params["dit"] = lora_files.add(params["dit"], model, file)
        params = world.prepare(config, params)
        params = quantize.int8(params) if kind == "int8" else params
    return params if mesh is not None else jax.tree.map(_to_device, params)


def ones_code(model: ModelConfig, folder: str | pathlib.Path, params: Any, tile: int | None = None) -> jax.Array:
    """`conditioning.ones_code`, computed where the VAE's parameters are and kept beside the model from then on."""
    compute = functools.partial(conditioning.ones_code, model, tile=tile)
    if (kept := ones.load(folder, jax.eval_shape(compute, params).shape)) is not None:
        return jax.device_put(kept)
    made = compute(params)
    if jax.process_index() == 0:
        ones.save(folder, np.asarray(made))
    return made


def _to_device(x: jax.Array) -> jax.Array:
    """On the default device, committed to none."""
    return jax.device_put(np.asarray(x)) if x.is_fully_addressable else x

"""A world on disk: one safetensors file with the whole `RolloutState`, and a header that names its model.

This file knows a state only as a pytree of arrays and random keys, and a `WorldConfig` by its `model` and sizes.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from mirage_jax import io
from mirage_jax.errors import UserError
from mirage_jax.geometry import Camera
from mirage_jax.models import config as model_config

FORMAT_VERSION = 1


def save(path: str | pathlib.Path, config: Any, state: Any) -> None:
    """Writes a world, atomically.

    Raises:
      UserError: if the file cannot be written.
    """
    header = {
        "format": "mirage-jax world",
        "version": str(FORMAT_VERSION),
        "model": config.model.to_json(),
        "world": json.dumps(_world_numbers(config)),
    }
    tensors = {name: np.array(value, order="C") for name, value in _flat(state).items()}
    with io.atomic_path(path) as temporary:
        pathlib.Path(temporary).write_bytes(safetensors.numpy.save(tensors, metadata=header))


def load(path: str | pathlib.Path, config: Any, like: Any) -> Any:
    """Reads a world back.

    Args:
      path: of the file.
      config: the world to go on with; it must have the same model and sizes.
      like: a state (or its shapes) of that config, for the structure of the tree.

    Raises:
      UserError: if the file is damaged, or belongs to another model or other sizes.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"--load_world: no file {path}")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:  # pyright: ignore
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path}: damaged or not a world file ({error})") from error
    if header.get("format") != "mirage-jax world" or header.get("version") != str(FORMAT_VERSION):
        raise UserError(f"{path}: not a world file of version {FORMAT_VERSION}")
    mismatch = model_config.first_mismatch(model_config.from_json(header.get("model", ""), str(path)), config.model)
    if mismatch:
        raise UserError(f"{path}: made by another model than {config.model.name!r}: {mismatch}")
    found, wanted = json.loads(header["world"]), _world_numbers(config)
    for name, value in wanted.items():
        if found.get(name) != value:
            raise UserError(f"{path}: its world has {name} {found.get(name)}, this run has {value}")
    return _restored(path, like, tensors)


def memory_size(path: str | pathlib.Path) -> dict[str, object]:
    """The static sizes a saved world was made with (`memory`, `capacity`, `bank`), to go on with the same.

    Raises:
      UserError: if the file is not a world.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:  # pyright: ignore
            return json.loads((file.metadata() or {})["world"])
    except (safetensors.SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: damaged or not a world file ({error})") from error


def last_camera(path: str | pathlib.Path) -> Camera:
    """The camera a saved world was last seen from, on its latent grid.

    Raises:
      UserError: if the file is not a world.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:  # pyright: ignore
            matrices = [file.get_tensor(f".context_cameras.{name}")[-1] for name in ("intrinsics", "cam2world")]
            height, width = file.get_slice(".context").get_shape()[1:3]
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path}: damaged or not a world file ({error})") from error
    return Camera(intrinsics=matrices[0], cam2world=matrices[1], height=height, width=width)


def _world_numbers(config: Any) -> dict[str, object]:
    return {name: getattr(config, name) for name in ("memory", "capacity", "bank")}


def _flat(state: Any) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_flatten_with_path(jax.tree.map(_data_of_key, state))[0]
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def _restored(path: pathlib.Path, like: Any, tensors: dict[str, np.ndarray]) -> Any:
    shapes = jax.eval_shape(lambda state: jax.tree.map(_data_of_key, state), like)
    values = []
    for where, leaf in jax.tree_util.tree_flatten_with_path(shapes)[0]:
        name = jax.tree_util.keystr(where)
        value = tensors.get(name)
        if value is None or value.shape != leaf.shape or value.dtype != leaf.dtype:
            found = "missing" if value is None else f"{value.dtype} {value.shape}"
            raise UserError(f"{path}: tensor {name} is {found}, expected {leaf.dtype} {leaf.shape}")
        values.append(jnp.asarray(value))
    state = jax.tree_util.tree_unflatten(jax.tree.structure(shapes), values)
    return jax.tree.map(lambda x, was: jax.random.wrap_key_data(x) if _is_key(was) else x, state, like)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _data_of_key(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf

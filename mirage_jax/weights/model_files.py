"""A model on disk: a folder with `model.json` (every number) and `params/` (Orbax).

One call each way: `save(path, config, params)` and `load(path)`.
"""

from __future__ import annotations

import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from mirage_jax import io
from mirage_jax.errors import UserError
from mirage_jax.models import config as model_config
from mirage_jax.models import parameters
from mirage_jax.models.config import ModelConfig

DEFAULT = pathlib.Path(__file__).parent.parent / "assets" / "default"
"""The model that ships with the project."""


def save(path: str | pathlib.Path, config: ModelConfig, params: Any, dtype: Any = None) -> None:
    """Writes a model folder, atomically: the old one stays until the new one is whole.

    Args:
      path: the folder.
      config: of the model.
      params: `{'vae': .., 'dit': .., ...}` tree.
      dtype: to store floating weights in; None keeps theirs.
    """
    path = pathlib.Path(path).absolute()
    temporary = path.with_name(path.name + ".new")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    if dtype is not None:
        params = jax.tree.map(lambda x: jnp.asarray(x).astype(dtype), params)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(temporary / "params", params)
    (temporary / "params" / "commit_success.txt").unlink(missing_ok=True)  # it names this machine's path
    with io.atomic_path(temporary / "model.json") as file:
        pathlib.Path(file).write_text(config.to_json() + "\n")
    old = path.with_name(path.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    temporary.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def load(path: str | pathlib.Path | None = None) -> tuple[ModelConfig, Any]:
    """Reads a model folder; without a path, the model that ships with the project.

    Returns:
      The config, and the parameters as float32 arrays on the host.

    Raises:
      UserError: if the folder is missing, not a model, damaged, or does not fit its own config.
    """
    path = pathlib.Path(DEFAULT if path is None else path).absolute()
    file = path / "model.json"
    if not file.is_file():
        raise UserError(f"{path}: not a model folder, expected model.json and params/ in it")
    config = model_config.from_json(file.read_text(), str(file))
    with ocp.StandardCheckpointer() as checkpointer:
        try:
            metadata = checkpointer.metadata(path / "params").item_metadata.tree
            cpu = jax.local_devices(backend="cpu")[0]
            sharding = jax.sharding.SingleDeviceSharding(cpu)
            target = jax.tree.map(lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=sharding), metadata)
            params = checkpointer.restore(path / "params", target)
        except Exception as error:  # Orbax and its storage raise many kinds; all mean the same to a person
            reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
            raise UserError(f"{path}/params: damaged or incomplete checkpoint ({reason})") from error
    if misfit := parameters.first_misfit(config, params):
        raise UserError(f"{path}: the weights do not fit model.json: {misfit}")
    return config, jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)

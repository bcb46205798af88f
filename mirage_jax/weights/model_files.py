"""A model on disk: a folder with `model.json` (every number) and Orbax trees with the parameters, or one file.

`save` writes all parts as one tree, `params/`; a converted part is a tree of its own, `params.NAME/`. `load` reads
both, and of each tree only the parts that are asked for. The one file, NAME.safetensors, holds the same (see
`single_file`). Whatever is read is compared with its checksums.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import traverse_util

from mirage_jax import io
from mirage_jax.errors import UserError
from mirage_jax.models import config as model_config
from mirage_jax.models import parameters
from mirage_jax.models.config import ModelConfig
from mirage_jax.weights import checksums, single_file

DEFAULT = pathlib.Path(__file__).parent.parent / "assets" / "default.safetensors"
"""The model that ships with the project."""

_DATA_FILE_SIZE = 8 << 20  # bytes, about: a model folder may lie in a repository, where no file should be large
_DIGEST = "digest"  # of all other fields of model.json
_MATRICES = ("kernel", "A", "B", "token_embedding")
_CONVERTERS = {
    "vae": "vae_original",
    "dit": "wan_original",
    "side": "side_release",
    "lora": "lora_release",
    "text": "umt5_original",
    "depth": "depth_anything",
}


def save(path: str | pathlib.Path, config: ModelConfig, params: Any, dtype: Any = None) -> None:
    """Writes a model, atomically: the old one stays until the new one is whole.

    Args:
      path: the folder, or a file NAME.safetensors.
      config: of the model.
      params: `{'vae': .., 'dit': .., ...}` tree.
      dtype: to store floating weights in; None keeps theirs.
    """
    path = pathlib.Path(path).absolute()
    if single_file.is_one(path):
        host = jax.tree.map(lambda x: np.asarray(x if dtype is None else jnp.asarray(x).astype(dtype)), params)
        return single_file.save(path, _config_text(config), host)
    temporary = path.with_name(path.name + ".new")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    if dtype is not None:
        params = jax.tree.map(lambda x: jnp.asarray(x).astype(dtype), params)
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me})
    if jax.process_count() > 1:  # one of them writes, from host arrays; the others need not call this
        params = jax.device_get(params)
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    with ocp.Checkpointer(handler, multiprocessing_options=alone) as checkpointer:
        checkpointer.save(
            temporary / "params", ocp.args.PyTreeSave(params, ocdbt_target_data_file_size=_DATA_FILE_SIZE)
        )
    (temporary / "params" / "commit_success.txt").unlink(missing_ok=True)  # it names this machine's path
    checksums.write(temporary / "params")
    write_config(temporary, config)
    old = path.with_name(path.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    temporary.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def load(
    path: str | pathlib.Path | None = None,
    parts: Sequence[str] | None = None,
    dtype: Any = None,
    shardings: Callable[[Any], Any] | None = None,
) -> tuple[ModelConfig, Any]:
    """Reads a model; without a path, the one that ships with the project.

    Arrays go to the default device, committed to none: where `jax.default_device` says, inside of it, such as the host.

    With a `dtype`, only the tensors that matrix products and convolutions read are of that dtype. Norm weights, biases,
    modulation tables, position biases and the time embedding stay float32: they are computed with in float32, together
    they are under one percent of a large model, and bfloat16 would round what they add to or scale every token with.

    Args:
      path: the folder or file.
      parts: what to read ('vae', 'dit', ..); None reads all that the config names. Nothing else is read from disk.
      dtype: of the matrices; None is float32.
      shardings: from the tree of `jax.ShapeDtypeStruct`s of what is read to the tree of their shardings, so that each
        tensor goes from disk to where it belongs; None is the default device.

    Returns:
      The config, and the parameters by part.

    Raises:
      UserError: if the folder is missing, not a model, damaged, lacks a part, or does not fit its own config.
    """
    path = pathlib.Path(DEFAULT if path is None else path).absolute()
    config, where = _where(path, parts)
    for folder in set(where.values()):
        if folder.is_dir():
            checksums.verify(folder)
    target = _target(path, config, where, dtype)
    if shardings is not None:
        split = shardings(target)
        target = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), target, split)
    params = {}
    for part, folder in where.items():  # one after the other, so that the host holds one at a time
        read = restore(folder, {part: target[part]})[part]
        params[part] = read if shardings is not None else jax.tree.map(jax.device_put, read)
    return config, params


def shapes(path: str | pathlib.Path, parts: Sequence[str], dtype: Any = None) -> dict[str, Any]:
    """What `load` gives for the same arguments, as `jax.ShapeDtypeStruct`s; no weights are read."""
    path = pathlib.Path(path).absolute()
    return _target(path, *_where(path, parts), dtype)


def on_host() -> contextlib.AbstractContextManager:
    """Where `load` and what is computed stays on the host: `with weights.on_host(): ..`."""
    return jax.default_device(jax.local_devices(backend="cpu")[0])


def digest(config: ModelConfig, params: Any) -> str:
    """A short hash of a model's numbers and all of its weights, to recognise what was made with other ones."""
    found = hashlib.sha256(config.to_json().encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        array = np.asarray(leaf)
        found.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        found.update(np.ascontiguousarray(array).view(np.uint8).data)
    return found.hexdigest()[:16]


def is_model(path: str | pathlib.Path) -> bool:
    """Whether there is a model folder, or a file that should be a model."""
    path = pathlib.Path(path)
    return path.is_file() if single_file.is_one(path) else (path / "model.json").is_file()


def parts_of(path: str | pathlib.Path) -> tuple[str, ...]:
    """The parts whose parameters a model folder holds. Raises `UserError` as `load` does."""
    path = pathlib.Path(path).absolute()
    return tuple(_folders(path, read_config(path)))


def find_part(path: pathlib.Path, config: ModelConfig, part: str) -> tuple[pathlib.Path, Any]:
    """The Orbax tree that holds a part, and the shapes of the part. Raises `UserError` as `load` does."""
    folders = _folders(path, config)
    _check_there(path, part, folders)
    shapes = read_shapes(folders[part])[part]
    _check_fit(path, config, {part: shapes})
    return folders[part], shapes


def config_parts(config: ModelConfig) -> tuple[str, ...]:
    """The parts that a config names."""
    return tuple(part for part in ("heads", *_CONVERTERS) if getattr(config, part, None) is not None)


def read_config(path: str | pathlib.Path) -> ModelConfig:
    """The config of a model folder or file. Raises `UserError` if there is none."""
    path = pathlib.Path(path)
    if not is_model(path):
        raise UserError(f"{path}: not a model folder, expected model.json and params/ in it, or a .safetensors file")
    if single_file.is_one(path):
        return _config_of(single_file.read_config(path), path)
    return _config_of((path / "model.json").read_bytes(), path / "model.json")


def write_config(path: pathlib.Path, config: ModelConfig) -> None:
    """Writes `model.json` of a model folder."""
    io.write_text(path / "model.json", _config_text(config) + "\n")


def _config_text(config: ModelConfig) -> str:
    values = json.loads(config.to_json())
    return json.dumps(values | {_DIGEST: _digest_of(values)}, indent=1)


def _config_of(text: str | bytes, where: pathlib.Path) -> ModelConfig:
    """A config of `_config_text`, or, without a digest, of older versions and of a person."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not a model config, expected JSON ({str(error)[:200]})") from error
    if isinstance(values, dict) and _DIGEST in values:
        told = values.pop(_DIGEST)
        if told != _digest_of(values):
            raise UserError(f"{where}: is not what its {_DIGEST!r} says; after a change by hand, leave {_DIGEST!r} out")
    return model_config.from_json(json.dumps(values), str(where))


def _digest_of(values: Any) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


def read_shapes(tree: pathlib.Path) -> dict[str, Any]:
    """The `jax.ShapeDtypeStruct`s of a tree, nothing of which is read but its description."""
    if tree.is_file():
        return single_file.read_shapes(tree)
    with _damage_is_an_error(tree), contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
        metadata = handler.metadata(epath.Path(tree)).tree
        return jax.tree.map(lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype), metadata)


def restore(tree: pathlib.Path, target: Any) -> Any:
    """Reads of a tree the leaves of `target`, in its dtypes; as numpy arrays, where it has no sharding."""
    if tree.is_file():
        return single_file.restore(tree, target)

    if any(x.sharding is None for x in jax.tree.leaves(target)):
        how = jax.tree.map(lambda x: ocp.RestoreArgs(restore_type=np.ndarray, dtype=x.dtype), target)
    else:
        how = ocp.checkpoint_utils.construct_restore_args(target)
    arguments = ocp.args.PyTreeRestore(item=target, restore_args=how, partial_restore=True)
    with _damage_is_an_error(tree), contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
        return handler.restore(epath.Path(tree), args=arguments)


def tree_paths(tree: pathlib.Path) -> set[str]:
    """Paths of the leaves of a tree, from its description alone."""
    if tree.is_file():
        return set(traverse_util.flatten_dict(single_file.read_shapes(tree), sep="/"))
    with _damage_is_an_error(tree):
        entries = json.loads((tree / "_METADATA").read_text())["tree_metadata"].values()
        return {"/".join(key["key"] for key in entry["key_metadata"]) for entry in entries}


def _folders(path: pathlib.Path, config: ModelConfig) -> dict[str, pathlib.Path]:
    """The tree of every part."""
    found: dict[str, pathlib.Path] = {}
    named = config_parts(config)
    trees = [path] if single_file.is_one(path) else [path / "params", *sorted(path.glob("params.*"))]
    for folder in trees:
        if folder.suffix == checksums.SUFFIX or not folder.exists():
            continue
        for part in sorted({name.split("/")[0] for name in tree_paths(folder)}):
            if part in found:
                raise UserError(f"{path}: part {part!r} is both in {found[part].name}/ and in {folder.name}/")
            if part not in named:
                raise UserError(
                    f"{folder}: holds a part {part!r}, expected those that model.json names: {', '.join(named)}"
                )
            found[part] = folder
    return found


def _where(path: pathlib.Path, parts: Sequence[str] | None) -> tuple[ModelConfig, dict[str, pathlib.Path]]:
    """The config, and the tree to read each part from."""
    config = read_config(path)
    folders = _folders(path, config)
    wanted = config_parts(config) if parts is None else tuple(parts)
    for part in wanted:
        _check_there(path, part, folders)
    return config, {part: folders[part] for part in wanted}


def _target(path: pathlib.Path, config: ModelConfig, where: Mapping[str, pathlib.Path], dtype: Any) -> dict[str, Any]:
    """The shapes of parts, in the types that are asked for."""
    described = {folder: read_shapes(folder) for folder in set(where.values())}
    on_disk = {part: described[folder][part] for part, folder in where.items()}
    _check_fit(path, config, on_disk)
    return {part: _with_dtypes(part, tree, dtype) for part, tree in on_disk.items()}


def _check_there(path: pathlib.Path, part: str, where: Mapping[str, Any]) -> None:
    if part not in where:
        command = "train"
        if part in _CONVERTERS:
            command = f"convert_weights --layout {_CONVERTERS[part]} --out {path} --source .."
        raise UserError(f"{path}: has no part {part!r}, which `python -m experiments.{command}` makes")


def _with_dtypes(part: str, tree: Mapping[str, Any], dtype: Any) -> Any:
    """The shapes of a part with the dtypes `load` gives."""

    def of(path: tuple[str, ...]) -> Any:
        is_matrix = path[-1] in _MATRICES and "time_embedding" not in path
        return jnp.float32 if dtype is None or not is_matrix else dtype

    flat = traverse_util.flatten_dict({part: tree})
    typed = {name: jax.ShapeDtypeStruct(x.shape, of(name)) for name, x in flat.items()}
    return traverse_util.unflatten_dict(typed)[part]


def _check_fit(path: pathlib.Path, config: ModelConfig, shapes: Mapping[str, Any]) -> None:
    try:
        misfit = parameters.first_misfit(config, shapes)
    except Exception as error:  # modules raise many kinds, for numbers that are sound one by one
        raise UserError(f"{path}: model.json describes no model that can be made ({str(error)[:200]})") from error
    if misfit:
        raise UserError(f"{path}: the weights do not fit model.json: {misfit}")


@contextlib.contextmanager
def _damage_is_an_error(tree: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # Orbax and its storage raise many kinds; all mean the same to a person
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise UserError(f"{tree}: damaged or incomplete checkpoint ({reason})") from error

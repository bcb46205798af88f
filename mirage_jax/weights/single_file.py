"""A model as one safetensors file: its parameters by path, and in the header its config and a digest of every part."""

from __future__ import annotations

import concurrent.futures
import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util

from mirage_jax import io
from mirage_jax.errors import UserError
from mirage_jax.weights.sources import Source

SUFFIX = ".safetensors"
_FORMAT, _VERSION = "mirage-jax model", "1"


def is_one(path: pathlib.Path) -> bool:
    """Whether a path is that of a model in one file, by its name."""
    return path.suffix == SUFFIX


def save(path: pathlib.Path, config: str, params: Mapping[str, Any]) -> None:
    """Writes a model, atomically: the text of its config, and its parameters by part."""
    tensors = {name: np.ascontiguousarray(x) for name, x in traverse_util.flatten_dict(params, sep="/").items()}
    digests = {f"digest.{part}": _digest(part, tensors) for part in params}
    header = {"format": _FORMAT, "version": _VERSION, "config": config} | digests
    write(path, tensors, header)


def write(path: pathlib.Path, tensors: Mapping[str, np.ndarray], header: Mapping[str, str]) -> None:
    """Writes a safetensors file, atomically, and readable by whom new files are."""
    with io.atomic_path(path) as temporary:
        mode = temporary.stat().st_mode
        safetensors.numpy.save_file(dict(tensors), temporary, metadata=dict(header))
        temporary.chmod(mode)  # the library makes its files private


def read_config(path: pathlib.Path) -> str:
    """The text of the config. Raises `UserError` if the file is damaged or not a model."""
    return _header(path)["config"]


def digest(path: pathlib.Path, part: str) -> str | None:
    """That of a part, as the header has it. Raises `UserError` as `read_config` does."""
    return _header(path).get(f"digest.{part}")


def read_shapes(path: pathlib.Path) -> dict[str, Any]:
    """The `jax.ShapeDtypeStruct`s of all parameters, from the header alone."""
    flat = {name: jax.ShapeDtypeStruct(entry.shape, entry.dtype) for name, entry in Source(path).entries.items()}
    return traverse_util.unflatten_dict(flat, sep="/")


def restore(path: pathlib.Path, target: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the leaves of `target`, in its dtypes: sharded as it says, or as numpy arrays.

    Raises `UserError` if the file is damaged: every part of `target` is compared with its digest.
    """
    header, source = _header(path), Source(path)
    tensors = {name: entry.read() for name, entry in source.entries.items() if name.split("/")[0] in target}
    for part in target:
        if _digest(part, tensors) != header.get(f"digest.{part}"):
            raise UserError(f"{path}: damaged, part {part!r} is not what its digest says")

    def placed(name: str, leaf: Any) -> Any:
        array = tensors.pop(name)
        if leaf.sharding is None:
            return array.astype(leaf.dtype, copy=False)
        return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: array[index].astype(leaf.dtype))

    flat = traverse_util.flatten_dict(target, sep="/")
    return traverse_util.unflatten_dict({name: placed(name, leaf) for name, leaf in flat.items()}, sep="/")


def _header(path: pathlib.Path) -> dict[str, str]:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:  # pyright: ignore
            header = file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path}: damaged or not a safetensors file ({error})") from error
    if (header.get("format"), header.get("version")) != (_FORMAT, _VERSION) or "config" not in header:
        raise UserError(
            f"{path}: not a model of this project in version {_VERSION}; python -m experiments.get_model reads others"
        )
    return header


def _digest(part: str, tensors: Mapping[str, np.ndarray]) -> str:
    """Of names, types, shapes and every bit of a part."""
    names = sorted(name for name in tensors if name.split("/")[0] == part)

    def one(name: str) -> str:
        x = tensors[name]
        return f"{name} {x.dtype} {x.shape} {hashlib.sha256(x.reshape(-1).view(np.uint8)).hexdigest()}"

    with concurrent.futures.ThreadPoolExecutor() as pool:
        return hashlib.sha256("\n".join(pool.map(one, names)).encode()).hexdigest()

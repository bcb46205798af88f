"""A world on disk: one safetensors file with the whole `RolloutState`, a header that names its model, and a checksum.

This file knows a state only as a pytree of arrays and random keys, and a `WorldConfig` by its `model`, its sizes and
the fields of its recipe. The checksum is of every byte of the file, with nothing but noughts in its own place: one bit
that is not as it was written is found before anything is made of the world.
"""

from __future__ import annotations

import dataclasses
import hashlib
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
from mirage_jax.models.config import ModelConfig

FORMAT = "mirage-jax world"
VERSION = 4

_SIZES = ("memory", "capacity", "bank")
_NO_CHECKSUM = "0" * 64
_HEADER_LENGTH = 8  # bytes of the length that a safetensors file begins with


@dataclasses.dataclass(frozen=True)
class SavedWorld:
    """A world file that has been read and found to be as it was written.

    Attributes:
      path: the file.
      model: the config of the model that made it.
      weights: digest of the weights that made it.
      memory: kind of its memory.
      capacity: points its memory can hold.
      bank: latent frames it can choose references from.
      recipe: the fields of the recipe that it was made by, by name.
      tensors: the leaves of the state, by path.
    """

    path: pathlib.Path
    model: ModelConfig
    weights: str
    memory: str
    capacity: int
    bank: int
    recipe: dict[str, Any]
    tensors: dict[str, np.ndarray]

    @property
    def sizes(self) -> dict[str, Any]:
        """The static sizes of a `WorldConfig` it was made with, to go on with the same."""
        return {name: getattr(self, name) for name in _SIZES}

    @property
    def points(self) -> int:
        """Points its memory holds."""
        return self._number(".memory.size")

    @property
    def segments(self) -> int:
        """Segments that were made of it."""
        return self._number(".segments")

    @property
    def last_camera(self) -> Camera:
        """The camera it was last seen from, on its latent grid."""
        with io.foreign(self.path, "a world file"):
            intrinsics, cam2world = (self.tensors[f".context_cameras.{n}"][-1] for n in ("intrinsics", "cam2world"))
            height, width = self.tensors[".context"].shape[1:3]
            return Camera(intrinsics=intrinsics, cam2world=cam2world, height=height, width=width)

    def restored(self, config: Any, like: Any, weights: str) -> Any:
        """The state, to go on with.

        Args:
          config: the `WorldConfig` to go on with; it must have the same model and sizes, and a recipe by which what the
            world holds means the same.
          like: a state (or its shapes) of that config, for the structure of the tree.
          weights: digest of the weights to go on with.

        Raises:
          UserError: if the world belongs to another model, other sizes, another recipe or other weights.
        """
        if mismatch := model_config.first_mismatch(self.model.at_any_length(), config.model.at_any_length()):
            raise UserError(f"{self.path}: made by another model than {config.model.name!r}: {mismatch}")
        for name, found in self.sizes.items():
            if found != getattr(config, name):
                raise UserError(f"{self.path}: its world has {name} {found}, this run has {getattr(config, name)}")
        for name, expected in config.recipe.held().items():
            if (found := self.recipe.get(name)) != expected:
                raise UserError(
                    f"{self.path}: made by a recipe with {name} {io.shown(repr(found))}, recipe {config.recipe.name!r} "
                    f"has {expected!r}: what its world holds would be taken for something else"
                )
        if self.weights != weights:
            raise UserError(
                f"{self.path}: made by weights {self.weights}, this run has {weights}; expected the same, since no "
                "other weights can read its latents"
            )
        return _restored(self.path, like, self.tensors)

    def _number(self, name: str) -> int:
        with io.foreign(self.path, "a world file"):
            return int(self.tensors[name])


def save(path: str | pathlib.Path, config: Any, state: Any, weights: str) -> None:
    """Writes a world, atomically: its `WorldConfig` and `RolloutState`, and the digest of the weights that made it.

    Raises `UserError` if the file cannot be written, or the world holds NaN.
    """
    tensors = {name: np.array(value, order="C") for name, value in _flat(state).items()}
    _check_sound(pathlib.Path(path), tensors)
    header = {
        "format": FORMAT,
        "version": str(VERSION),
        "model": config.model.to_json(),
        "weights": weights,
        **{name: str(getattr(config, name)) for name in _SIZES},
        "recipe": json.dumps(dataclasses.asdict(config.recipe)),
        "checksum": _NO_CHECKSUM,
    }
    data = bytearray(safetensors.numpy.save(tensors, metadata=header))
    place = data.index(_NO_CHECKSUM.encode())
    data[place : place + len(_NO_CHECKSUM)] = hashlib.sha256(data).hexdigest().encode()
    with io.atomic_path(path) as temporary:
        pathlib.Path(temporary).write_bytes(data)


def read(path: str | pathlib.Path) -> SavedWorld:
    """Reads a world file, and checks that it is as it was written.

    Raises `UserError` if there is no such file, it is no world, damaged, or of another version.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"no file {io.shown(path)}")
    data = bytearray(io.read_bytes(path))
    with io.foreign(path, "a world file"):
        header = _header(path, data)
        checksum = header.get("checksum", "")
        place = data.find(checksum.encode()) if len(checksum) == len(_NO_CHECKSUM) else -1
        if place < 0:
            raise UserError(f"{path}: damaged, its header has no checksum")
        data[place : place + len(checksum)] = _NO_CHECKSUM.encode()
        if hashlib.sha256(data).hexdigest() != checksum:
            raise UserError(f"{path}: damaged world file: its bytes are not those that were written (checksum)")
        with safetensors.safe_open(path, framework="numpy") as file:  # pyright: ignore
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        _check_sound(path, tensors)
        return SavedWorld(
            path=path,
            model=model_config.from_json(header["model"], str(path)),
            weights=header["weights"],
            memory=header["memory"],
            capacity=io.positive_integer(str(path), "capacity", int(header["capacity"]), most=2**31 - 1),
            bank=io.positive_integer(str(path), "bank", int(header["bank"])),
            recipe=dict(io.parse_json(header["recipe"], f"{path}: its recipe")),
            tensors=tensors,
        )


def _header(path: pathlib.Path, data: bytearray) -> dict[str, str]:
    """The metadata of a safetensors file that says it is a world of this version."""
    length = int.from_bytes(data[:_HEADER_LENGTH], "little")
    text = bytes(data[_HEADER_LENGTH : _HEADER_LENGTH + length]).decode(errors="replace")
    header = io.parse_json(text, f"{path}: damaged or not a world file: its header")
    header = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise UserError(f"{path}: not a world file")
    if header.get("version") != str(VERSION):
        raise UserError(f"{path}: a world file of version {io.shown(header.get('version'))}; expected {VERSION}")
    return header


def _check_sound(path: pathlib.Path, tensors: dict[str, np.ndarray]) -> None:
    for name, value in tensors.items():
        if value.dtype.kind not in "biu" and np.isnan(np.asarray(value, np.float32)).any():
            raise UserError(f"{path}: the world holds NaN in {name}; there is nothing to go on with")


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

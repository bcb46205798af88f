"""Public checkpoint files, one tensor at a time: safetensors (one file, or shards with an index) and torch's `.pth`."""

from __future__ import annotations

import contextlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors

from mirage_jax.errors import UserError

_DTYPES = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}
_EXPONENTS = {"float32": 0x7F800000, "float16": 0x7C00, "bfloat16": 0x7F80}


class Entry(NamedTuple):
    """What a file says of a tensor before it is read.

    Attributes:
      file: that holds it.
      dtype: float32, float16 or bfloat16.
      shape: of the tensor.
    """

    file: pathlib.Path
    dtype: np.dtype
    shape: tuple[int, ...]


class Source:
    """The tensors of a checkpoint by name: `entries` at once, `read` one at a time.

    Args:
      path: a `.safetensors` file, an index (`.safetensors.index.json`), a folder that holds one of the two, or a torch
        file (`.pth`, `.pt`, `.bin`).

    Raises:
      UserError: if there is no such file, it is damaged, its index and shards disagree, or a tensor is not of floats.
    """

    def __init__(self, path: str | pathlib.Path):
        self.path = _the_file(pathlib.Path(path))
        self._torch: dict[str, Any] | None = None
        if self.path.suffix in (".pth", ".pt", ".bin"):
            self._torch = _load_torch(self.path)
            self.files = [self.path]
            found = [
                (name, self.path, str(t.dtype).removeprefix("torch."), tuple(t.shape))
                for name, t in self._torch.items()
            ]
        else:
            self.files, found = _safetensors(self.path)
        kinds = {str(dtype): dtype for dtype in _DTYPES.values()} | _DTYPES
        self.entries: dict[str, Entry] = {}
        for name, file, dtype, shape in found:
            if name in self.entries:
                raise UserError(f"{file}: tensor {name} is in {self.entries[name].file.name} too")
            if dtype not in kinds:
                raise UserError(f"{file}: tensor {name} is of type {dtype}, expected float32, float16 or bfloat16")
            self.entries[name] = Entry(file, kinds[dtype], shape)

    def read(self, name: str) -> np.ndarray:
        """One tensor.

        Raises:
          UserError: if it cannot be read, or holds NaN or infinity.
        """
        file, dtype, _ = self.entries[name]
        if self._torch is not None:
            import torch  # pyright: ignore

            integers = {2: torch.int16, 4: torch.int32}[dtype.itemsize]  # numpy knows no bfloat16 of torch
            array = self._torch[name].detach().contiguous().view(integers).numpy().view(dtype)
        else:
            # Opened anew each time: closing it returns the pages of the file that were touched.
            with _opened(file) as tensors:
                array = tensors.get_tensor(name)
        if not_finite(array):
            raise UserError(f"{file}: tensor {name} holds NaN or infinity")
        return array


def not_finite(array: np.ndarray) -> bool:
    """Whether any element is NaN or infinite: its exponent is all ones (also for bfloat16, without a float32 copy)."""
    bits = array.reshape(-1).view(f"u{array.dtype.itemsize}")
    mask = bits.dtype.type(_EXPONENTS[array.dtype.name])
    step = 1 << 22  # elements, so that what is compared stays small beside the tensor
    return any(bool(((bits[i : i + step] & mask) == mask).any()) for i in range(0, len(bits), step))


def _the_file(path: pathlib.Path) -> pathlib.Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder, expected a checkpoint")
    for pattern in ("*.safetensors.index.json", "*.safetensors"):
        if found := sorted(path.glob(pattern)):
            if len(found) > 1:
                names = ", ".join(file.name for file in found)
                raise UserError(f"{path}: expected one *.safetensors or one index of shards, found {names}")
            return found[0]
    raise UserError(f"{path}: found no *.safetensors and no *.safetensors.index.json in it; name a .pth file itself")


def _safetensors(path: pathlib.Path) -> tuple[list[pathlib.Path], list[tuple[str, pathlib.Path, str, tuple[int, ...]]]]:
    """Files, and (name, file, dtype, shape) of every tensor."""
    index: dict[str, str] | None = None
    files = [path]
    if path.suffix == ".json":
        try:
            index = dict(json.loads(path.read_text())["weight_map"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not an index of shards, expected JSON with a weight_map") from error
        files = [path.parent / name for name in sorted(set(index.values()))]
        for file in files:
            if not file.is_file():
                raise UserError(f"{path}: names the shard {file.name}, which is not there")
    found = []
    for file in files:
        names = _names(file)
        with _opened(file) as tensors:
            for name in names:
                part = tensors.get_slice(name)
                found.append((name, file, part.get_dtype(), tuple(part.get_shape())))
    if index is not None:
        held = {(name, file.name) for name, file, _, _ in found}
        if missing := sorted(set(index.items()) - held):
            raise UserError(
                f"{path.parent / missing[0][1]}: tensor {missing[0][0]}, which {path.name} names, is missing"
            )
    return files, found


def _names(file: pathlib.Path) -> list[str]:
    """Names in the header of a safetensors file, a name for each time it occurs."""
    names: list[str] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        names.extend(key for key, value in items if isinstance(value, dict) and "data_offsets" in value)
        return dict(items)

    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            json.loads(stream.read(min(length, 1 << 28)), object_pairs_hook=pairs)
    except ValueError as error:
        raise UserError(f"{file}: truncated or not a safetensors file ({error})") from error
    return names


@contextlib.contextmanager
def _opened(file: pathlib.Path) -> Iterator[Any]:
    try:
        with safetensors.safe_open(file, framework="numpy") as tensors:
            yield tensors
    except safetensors.SafetensorError as error:
        raise UserError(f"{file}: truncated or not a safetensors file ({error})") from error


def _load_torch(path: pathlib.Path) -> dict[str, Any]:
    try:
        import torch  # pyright: ignore
    except ImportError as error:
        raise UserError(f"{path}: torch files need PyTorch: pip install 'mirage-jax[convert]'") from error
    try:
        tensors = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # torch raises many kinds: not a zip archive, truncated, more than weights in it
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise UserError(f"{path}: truncated, not a torch file, or more than weights ({reason})") from error
    if not isinstance(tensors, dict):
        raise UserError(f"{path}: holds a {type(tensors).__name__}, expected tensors by name")
    for name, value in tensors.items():
        if not isinstance(value, torch.Tensor):
            raise UserError(f"{path}: {name} is a {type(value).__name__}, expected a tensor")
    return tensors

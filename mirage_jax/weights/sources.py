"""Public checkpoint files, one tensor at a time: safetensors (one file, or shards with an index), torch's, and GGUF.

Whatever a file stores, `Source` shows as tensors of floats by name: tensors of 8 bits come with their scales applied.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors

from mirage_jax.errors import UserError

_FLOATS = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}
_EIGHT_BITS = {"F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn), "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2)}
_SCALES = (".scale_weight", ".weight_scale")  # of the tensor `X.weight`; the second is the newer name
_BESIDE = (".scale_input", ".input_scale", ".comfy_quant")  # for products in 8 bits, which are not done here
_MARKS = ("scaled_fp8",)
_TOKENIZER = "spiece_model"
_EXPONENTS = {"float32": 0x7F800000, "float16": 0x7C00, "bfloat16": 0x7F80}
_TORCH = (".pth", ".pt", ".bin", ".ckpt")
_STACKED = re.compile(r"\bblocks\.\d+\.attn\.qkv\.(weight|bias)$")
_METADATA = ("format_version", "meta")  # beside the tensors of a training checkpoint

SUFFIXES = (".safetensors", *_TORCH, ".gguf")
"""Of the files that can be read."""


class Entry(NamedTuple):
    """What a file says of a tensor before it is read.

    Attributes:
      file: that holds it.
      dtype: of what `read` gives: float32, float16 or bfloat16.
      shape: of the tensor.
      read: the array.
    """

    file: pathlib.Path
    dtype: np.dtype
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


class Source:
    """The tensors of a checkpoint by name: `entries` at once, `read` one at a time.

    Args:
      path: a file (`SUFFIXES`), an index (`.safetensors.index.json`), or a folder that holds one safetensors or index.

    Attributes:
      path: of the file, or the index.
      files: that hold tensors.
      entries: by name.
      tokenizer: the bytes of a sentencepiece model that lies among the tensors, as text encoders of one file have it.

    Raises:
      UserError: if there is no such file, it is damaged, its index and shards disagree, or a tensor is not of floats.
    """

    def __init__(self, path: str | pathlib.Path):
        self.path = _the_file(pathlib.Path(path))
        if self.path.suffix == ".gguf":
            self.files, found = [self.path], _gguf(self.path)
        elif self.path.suffix in _TORCH:
            self.files, found = [self.path], _torch(self.path)
        else:
            self.files, found = _safetensors(self.path)
        stored: dict[str, Entry] = {}
        for name, entry in found:
            if name in stored:
                raise UserError(f"{entry.file}: tensor {name} is in {stored[name].file.name} too")
            stored[name] = entry
        tokenizer = stored.pop(next((name for name in stored if _last(name) == _TOKENIZER), ""), None)
        self.tokenizer = None if tokenizer is None else tokenizer.read().tobytes()
        self.entries = dict(item for entry in _unscaled(stored).items() for item in _parts(*entry))

    def read(self, name: str) -> np.ndarray:
        """One tensor. Raises `UserError` if it cannot be read, or holds NaN or infinity."""
        entry = self.entries[name]
        array = entry.read()
        if not_finite(array):
            raise UserError(f"{entry.file}: tensor {name} holds NaN or infinity")
        return array


def not_finite(array: np.ndarray) -> bool:
    """Whether any element is NaN or infinite: its exponent is all ones (also for bfloat16, without a float32 copy)."""
    bits = np.ascontiguousarray(array).reshape(-1).view(f"u{array.dtype.itemsize}")
    mask = bits.dtype.type(_EXPONENTS[array.dtype.name])
    step = 1 << 22  # elements, so that what is compared stays small beside the tensor
    return any(bool(((bits[i : i + step] & mask) == mask).any()) for i in range(0, len(bits), step))


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _unscaled(stored: Mapping[str, Entry]) -> dict[str, Entry]:
    """Entries of floats: 8-bit ones times their scales, without the scales themselves."""
    scales = {name.removesuffix(end): name for name in stored for end in _SCALES if name.endswith(end)}
    marked = any(_last(name) in _MARKS for name in stored)
    entries: dict[str, Entry] = {}
    for name, entry in stored.items():
        if name.endswith((*_SCALES, *_BESIDE)) or _last(name) in _MARKS:
            continue
        scale = scales.pop(name.removesuffix(".weight"), None) if name.endswith(".weight") else None
        if entry.dtype in _EIGHT_BITS.values():
            if scale is None and (marked or scales):
                raise UserError(f"{entry.file}: tensor {name} is of 8 bits, and its scale is missing")
            factor = None if scale is None else stored[scale]
            entry = entry._replace(dtype=np.dtype(np.float32), read=_scaled(entry, name, factor))
        elif scale is not None:
            known = np.asarray(stored[scale].read(), np.float32)
            if not (known == 1).all():  # files also give a scale of 1 to what they left in 16 bits
                raise UserError(f"{entry.file}: tensor {scale} scales {name}, which is of {entry.dtype.name}")
        if entry.dtype not in _FLOATS.values():
            raise UserError(
                f"{entry.file}: tensor {name} is of type {entry.dtype.name}, expected float32, float16, bfloat16 or "
                "8-bit floats"
            )
        entries[name] = entry
    for scale in scales.values():
        raise UserError(f"{stored[scale].file}: tensor {scale} scales a tensor that is not there")
    return entries


def _scaled(entry: Entry, name: str, scale: Entry | None) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        array = entry.read().astype(np.float32)
        if scale is None:
            return array
        factor = np.asarray(scale.read(), np.float32)
        if factor.size not in (1, len(array)):
            raise UserError(
                f"{entry.file}: {factor.size} scales for {name} of shape {array.shape}, expected 1 or a row"
            )
        return array * factor.reshape(-1, *(1,) * (array.ndim - 1))

    return read


def _parts(name: str, entry: Entry) -> Iterator[tuple[str, Entry]]:
    """An entry by name; one that stacks queries, keys and values of a vision transformer as the three it holds."""
    if not _STACKED.search(name) or not entry.shape or entry.shape[0] % 3:
        yield name, entry
        return
    shape = (entry.shape[0] // 3, *entry.shape[1:])
    for index, letter in enumerate("qkv"):
        read = lambda index=index: entry.read().reshape(3, *shape)[index]  # noqa: E731
        yield name.replace("attn.qkv", f"attn.{letter}"), entry._replace(shape=shape, read=read)


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
    raise UserError(f"{path}: found no *.safetensors and no *.safetensors.index.json in it; name the file itself")


def read_index(path: pathlib.Path) -> dict[str, str]:
    """The shard by tensor name of an index. Raises `UserError` if it is none, or a shard is not there."""
    try:
        index = dict(json.loads(path.read_bytes())["weight_map"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: not an index of shards, expected JSON with a weight_map") from error
    for name, shard in index.items():
        if not isinstance(shard, str) or pathlib.PurePath(shard).name != shard:
            found = str(shard)[:100]
            raise UserError(f"{path}: says that tensor {name[:100]} is in {found!r}, expected the name of a file by it")
        if not os.path.isfile(path.parent / shard):  # pathlib's raises for names that no file can have
            raise UserError(f"{path}: names the shard {shard[:100]!r}, which is not there")
    return index


def _safetensors(path: pathlib.Path) -> tuple[list[pathlib.Path], list[tuple[str, Entry]]]:
    """Files, and the entry of every tensor."""
    index = read_index(path) if path.suffix == ".json" else None
    files = [path] if index is None else [path.parent / name for name in sorted(set(index.values()))]
    found = [item for file in files for item in _safetensors_file(file)]
    if index is not None:
        held = {(name, entry.file.name) for name, entry in found}
        if missing := sorted(set(index.items()) - held):
            raise UserError(
                f"{path.parent / missing[0][1]}: tensor {missing[0][0]}, which {path.name} names, is missing"
            )
    return files, found


def _safetensors_file(file: pathlib.Path) -> Iterator[tuple[str, Entry]]:
    items: list[tuple[str, Any]] = []  # a name for each time it occurs

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        items.extend(x for x in found if isinstance(x[1], dict) and "data_offsets" in x[1])
        return dict(found)

    try:
        with safetensors.safe_open(file, framework="numpy"):  # checks sizes, offsets and that the file is whole
            pass
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            json.loads(stream.read(length), object_pairs_hook=pairs)
    except (safetensors.SafetensorError, OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: truncated or not a safetensors file ({error})") from error
    integers = {f"{kind.upper()}{8 * size}": np.dtype(f"{kind}{size}") for kind in "iu" for size in (1, 2, 4, 8)}
    kinds = _FLOATS | _EIGHT_BITS | integers | {"F64": np.dtype(np.float64), "BOOL": np.dtype(np.bool_)}
    for name, item in items:
        if item["dtype"] not in kinds:
            raise UserError(f"{file}: tensor {name} is of type {item['dtype']}, expected 8 to 32-bit floats")
        dtype, shape = kinds[item["dtype"]], tuple(item["shape"])

        def read(dtype=dtype, shape=shape, start=8 + length + item["data_offsets"][0]) -> np.ndarray:
            with file.open("rb") as stream:  # not mapped: what was read would count as held
                stream.seek(start)
                return np.fromfile(stream, dtype, int(np.prod(shape, dtype=np.int64))).reshape(shape)

        yield name, Entry(file, dtype, shape, read)


def _torch(path: pathlib.Path) -> list[tuple[str, Entry]]:
    try:
        import torch  # pyright: ignore
    except ImportError as error:
        raise UserError(f"{path}: torch files need PyTorch: pip install 'mirage-jax[convert]'") from error
    try:
        loaded = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # torch raises many kinds: not a zip archive, truncated, more than weights in it
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise UserError(f"{path}: truncated, not a torch file, or more than weights ({reason})") from error
    names = {str(t).removeprefix("torch."): t for t in (torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool)}
    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # numpy lacks some of torch's types
    floats = {str(dtype): dtype for dtype in (*_FLOATS.values(), *_EIGHT_BITS.values())}
    found = []
    for name, tensor in tensors_of(loaded, str(path), lambda value: isinstance(value, torch.Tensor)):
        kind = str(tensor.dtype).removeprefix("torch.")
        if kind not in floats and kind not in names:
            raise UserError(f"{path}: tensor {name} is of type {kind}, expected 8 to 32-bit floats")
        dtype = floats.get(kind) or np.dtype(kind)

        def read(tensor=tensor, dtype=dtype) -> np.ndarray:
            flat = tensor.detach().contiguous()
            return flat.view(bits[dtype.itemsize]).numpy().view(dtype) if dtype.kind == "V" else flat.numpy()

        found.append((name, Entry(path, dtype, tuple(tensor.shape), read)))
    return found


def tensors_of(value: Any, where: str, is_tensor: Callable[[Any], bool]) -> Iterator[tuple[str, Any]]:
    """Names and tensors of what a torch file holds: dicts in dicts, such as `{'generator': {'vace': {..}}}`.

    Names are joined by dots. Numbers and texts beside a dict of tensors are notes of a training, and no weights. Raises
    `UserError` if it holds no dict, or anything else than dicts and tensors where weights should be.
    """
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: holds a {type(value).__name__}, expected tensors by name")
    wrapped = any(isinstance(x, Mapping) for x in value.values())

    def walk(items: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for key, item in items.items():
            name = f"{prefix}{key}"
            if is_tensor(item):
                yield name, item
            elif isinstance(item, Mapping):
                if name not in _METADATA:
                    yield from walk(item, f"{name}.")
            elif not wrapped:
                raise UserError(f"{where}: {name} is a {type(item).__name__}, expected a tensor")

    return walk(value, "")


def _gguf(path: pathlib.Path) -> list[tuple[str, Entry]]:
    try:
        import gguf  # pyright: ignore
    except ImportError as error:
        raise UserError(f"{path}: GGUF files need the package gguf: pip install 'mirage-jax[convert]'") from error
    try:
        reader = gguf.GGUFReader(path)
    except Exception as error:  # it raises many kinds, and checks little
        raise UserError(f"{path}: truncated or not a GGUF file ({error})") from error
    found = []
    for tensor in reader.tensors:
        shape = tuple(int(side) for side in reversed(tensor.shape))
        # The format has four axes at most; files of convolutions note the real ones.
        if (field := reader.get_field(f"comfy.gguf.orig_shape.{tensor.name}")) is not None:
            shape = tuple(int(field.parts[i][0]) for i in field.data)

        def read(tensor=tensor, shape=shape) -> np.ndarray:
            try:
                array = np.asarray(gguf.dequantize(tensor.data, tensor.tensor_type), np.float32)
                return np.ascontiguousarray(array.reshape(shape))
            except Exception as error:
                raise UserError(f"{path}: tensor {tensor.name} cannot be read ({error})") from error

        found.append((tensor.name, Entry(path, np.dtype(np.float32), shape, read)))
    return found

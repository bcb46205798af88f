"""Reading files of strangers: bytes to text, JSON or arrays, or one clear sentence. Never pickles."""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from mirage_jax.errors import UserError

# What zipfile and numpy raise on archives that are damaged, encrypted, or hold Python objects.
# RuntimeError covers NotImplementedError (an unknown compression) and the lack of a password.
_DAMAGE = (ValueError, EOFError, OSError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error)


def data(path: Path) -> bytes:
    """The bytes of a file. Raises `UserError` if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def text(path: Path) -> str:
    """The text of a UTF-8 file. Raises `UserError` if it cannot be read or is not text."""
    try:
        return data(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text file; expected UTF-8") from None


def lines(path: Path) -> list[str]:
    """The lines of a text file that are neither blank nor comments (`#`), stripped."""
    stripped = (line.strip() for line in text(path).splitlines())
    return [line for line in stripped if line and not line.startswith("#")]


def json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises `UserError` if it is not one."""
    try:
        value = json.loads(text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); is it complete?") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a JSON {type(value).__name__}; expected an object with named values")
    return value


class Arrays:
    """The named arrays of an npz file, each read when asked for.

    Attributes:
      path: the file.
      names: the names of the arrays.
    """

    def __init__(self, path: Path):
        """Looks into `path`. Raises `UserError` if it is not an npz file."""
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                self.names = {name.removesuffix(".npy") for name in archive.namelist()}
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or error}") from error
        except _DAMAGE:
            raise UserError(f"{path} is not an npz file, or is not complete") from None

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of an array, from its header alone. Raises `UserError` if it is missing or damaged."""
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        return self._read(name, lambda file: readers[np.lib.format.read_magic(file)](file)[0])

    def __getitem__(self, name: str) -> np.ndarray:
        """The array called `name`. Raises `UserError` if it is missing, damaged, or holds Python objects."""
        return self._read(name, lambda file: np.lib.format.read_array(file, allow_pickle=False))

    def _read(self, name: str, reader: Callable[[IO[bytes]], Any]) -> Any:
        if name not in self.names:
            raise UserError(f"{self.path} has no array '{name}'; found {', '.join(sorted(self.names)) or 'nothing'}")
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(f"{name}.npy") as file:
                return reader(file)
        except (KeyError, *_DAMAGE) as error:
            raise UserError(f"{self.path}: array '{name}' cannot be read ({error})") from None


def numbers(source: str, line: str, count: int) -> list[float]:
    """The `count` numbers on a line of text. Raises `UserError` that quotes the line otherwise."""
    words = line.split()
    try:
        if len(words) == count:
            return [float(word) for word in words]
    except ValueError:
        pass
    shown = line if len(line) <= 60 else line[:60] + "..."
    raise UserError(f"{source}: found '{shown}'; expected {count} numbers")


def entry(source: str, mapping: dict[str, Any], name: str) -> Any:
    """`mapping[name]`, or a `UserError` that says it is missing."""
    if name not in mapping:
        raise UserError(f"{source}: '{name}' is missing")
    return mapping[name]


def positive_integer(source: str, name: str, value: Any) -> int:
    """A size from a file. Raises `UserError` if it is not a whole positive number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 1 or value % 1 != 0:
        raise UserError(f"{source}: '{name}' is {value!r}; expected a whole number of at least 1")
    return int(value)


def natural(name: str) -> list[tuple[int, str]]:
    """Sort key under which frame_9 comes before frame_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]

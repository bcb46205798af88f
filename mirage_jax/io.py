"""Files: what we write is wholly there or not there at all, what others wrote is data or one clear sentence.

Everything this project writes goes through `atomic_path`: a temporary name in the same
folder, fsync, rename. A reader, or a run killed half way, never meets half a file.

A file from outside may hold anything where a number should be. The readers below give values of
known types; `foreign` is the door for the rest: whatever a reader of such a file raises inside it
becomes a `UserError` that names the file. Nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from mirage_jax.errors import UserError

_SHOWN = 80  # letters of a value or a reason that a message repeats
_LARGEST_INTEGER = 18  # digits that are read as a whole number; a longer one becomes a float, perhaps infinity


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path for the body to write to and close; on leaving, it becomes `path`.

    The temporary file is created empty beside `path` and keeps its suffix, so that libraries that look at the suffix
    behave. Missing parent folders are made. If the body raises, `path` is left as it was and the temporary file is
    removed. Raises `UserError` if the folder cannot be made or written, or `path` is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder, expected a file name")
    temporary = path.parent / f".{path.stem}.{secrets.token_hex(4)}.tmp{path.suffix}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; expected a folder that can be written") from error
    try:
        yield temporary
        _flush_to_disk(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _flush_to_disk(path.parent)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes `text` to `path` as UTF-8, atomically. Raises `UserError` as `atomic_path` does."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes `value` to `path` as indented JSON, atomically.

    Raises:
      UserError: as `atomic_path` does.
      ValueError: if `value` holds NaN or infinity, which JSON does not have.
      TypeError: if `value` holds what JSON cannot say.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


@contextlib.contextmanager
def foreign(path: str | os.PathLike[str], wanted: str) -> Iterator[None]:
    """Turns whatever reading a file from outside raises into one sentence.

    Args:
      path: the file, for messages.
      wanted: what it should be ("a camera file").

    Raises:
      UserError: as it is, or naming the file and what any other exception says of it.
    """
    try:
        with np.errstate(all="ignore"):  # what overflows is found by what it leaves behind
            yield
    except UserError:
        raise
    except Exception as error:  # strangers' files make libraries raise of every kind; all mean the same to a person
        if isinstance(error, OSError) and error.errno in errno.errorcode:  # and not one of a library's own
            raise UserError(f"cannot read {shown(path)}: {error.strerror}") from error
        reason = shown(" ".join(str(error).split())) or "no reason given"
        raise UserError(f"{shown(path)}: damaged, or not {wanted} ({type(error).__name__}: {reason})") from error


def shown(value: Any, most: int = _SHOWN) -> str:
    """A value for a message: its text, cut in the middle if it has more than `most` letters (a path: twice that)."""
    text, most = str(value), most * (1 + isinstance(value, os.PathLike))
    return text if len(text) <= most else f"{text[: most // 2]}...{text[-most // 2 :]}"


def read_bytes(path: Path) -> bytes:
    """The bytes of a file. Raises `UserError` if it cannot be read."""
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        raise UserError(f"cannot read {shown(path)}: {getattr(error, 'strerror', None) or error}") from error


def read_text(path: Path) -> str:
    """The text of a UTF-8 file. Raises `UserError` if it cannot be read or is not text."""
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text file; expected UTF-8") from None


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are neither blank nor comments (`#`), stripped."""
    stripped = (line.strip() for line in read_text(path).splitlines())
    return [line for line in stripped if line and not line.startswith("#")]


def parse_json(text: str, source: str) -> Any:
    """What a JSON text says; whole numbers of very many digits become floats.

    Raises `UserError` naming `source`, if it is not valid JSON.
    """
    if not text.strip():
        raise UserError(f"{source}: is empty, expected JSON")
    try:
        return json.loads(text, parse_int=lambda digits: (int if len(digits) <= _LARGEST_INTEGER else float)(digits))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source}: cannot be read as JSON ({shown(error)}); is it complete?") from None


def read_json(path: str | os.PathLike[str]) -> Any:
    """What the JSON file `path` holds. Raises `UserError` if it cannot be read."""
    return parse_json(read_text(Path(path)), str(path))


def read_json_object(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON object in a file. Raises `UserError` if it is not one."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a JSON {type(value).__name__}; expected an object with named values")
    return value


def read_array(path: Path) -> np.ndarray:
    """The array of numbers in a `.npy` file. Raises `UserError` if it is missing, damaged, or holds anything else."""
    try:
        value = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"no file {path}") from None
    except Exception as error:  # numpy parses headers as Python, and raises what that does
        raise UserError(f"{path} is not a .npy array of numbers ({shown(error)})") from error
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub":
        found = f"values of type {value.dtype}" if isinstance(value, np.ndarray) else "an archive"
        raise UserError(f"{path} is not a .npy array of numbers: it holds {found}")
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
        except Exception:  # zipfile raises of every kind
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
            found = shown(", ".join(sorted(self.names))) or "nothing"
            raise UserError(f"{self.path} has no array '{name}'; found {found}")
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(f"{name}.npy") as file:
                return reader(file)
        except Exception as error:  # as above, and what zipfile and zlib raise
            raise UserError(f"{self.path}: array '{name}' cannot be read ({shown(error)})") from None


def numbers(source: str, line: str, count: int) -> list[float]:
    """The `count` numbers on a line of text. Raises `UserError` that quotes the line otherwise."""
    words = line.split()
    try:
        if len(words) == count:
            return [float(word) for word in words]
    except ValueError:
        pass
    raise UserError(f"{source}: found '{shown(line)}'; expected {count} numbers")


def entry(source: str, mapping: Mapping[str, Any], name: str) -> Any:
    """`mapping[name]`, or a `UserError` that says it is missing."""
    if name not in mapping:
        raise UserError(f"{source}: '{name}' is missing")
    return mapping[name]


def positive_integer(source: str, name: str, value: Any, most: int = 100_000) -> int:
    """A size from a file. Raises `UserError` if it is not a whole number from 1 to `most`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 1 <= value <= most or value % 1 != 0:
        expected = f"a whole number of at least 1 and at most {most}"
        raise UserError(f"{source}: '{name}' is {shown(repr(value))}; expected {expected}")
    return int(value)


def natural(name: str) -> list[tuple[int, str]]:
    """Sort key under which frame_9 comes before frame_10."""
    parts = re.split(r"([0-9]+)", name)
    digits = [part.lstrip("0") or "0" if place % 2 else None for place, part in enumerate(parts)]
    return [(-1, part) if d is None else (len(d), d) for part, d in zip(parts, digits, strict=True)]


def _flush_to_disk(path: Path) -> None:
    """fsync of a file, or of a folder's list of names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

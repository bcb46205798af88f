"""Checksums of a checkpoint: what it must consist of, written while it still has its temporary name.

Orbax's array format has no checksum over everything it writes, so a flipped bit could become a parameter. The manifest
lists every file with its size and SHA-256, and a folder without one is not a whole checkpoint.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import pathlib

from mirage_jax import io

NAME = "manifest.json"
_COMMIT = "_CHECKPOINT_METADATA"  # gets its last entry, a time, when the folder gets its name
_LATER = {NAME, _COMMIT, "commit_success.txt"}
_THREADS = 8  # hashing lets go of Python's lock, and network file systems answer several readers faster than one


def write(folder: pathlib.Path) -> None:
    """Lists what is in `folder` in its manifest, atomically."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    names = [name for name in names if name not in _LATER]
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        files = dict(zip(names, pool.map(lambda name: _describe(folder / name), names), strict=True))
    io.write_json(folder / NAME, {"files": files})


def first_fault(folder: pathlib.Path, share: int = 0, shares: int = 1) -> str | None:
    """What is wrong with a checkpoint, in words, or None if nothing is.

    Args:
      folder: the checkpoint.
      share, shares: reads only every `shares`-th file, from number `share` on, so that processes divide the work.
    """
    if not (folder / NAME).is_file():
        return f"{NAME} is missing: it was never completed"
    try:
        files = json.loads((folder / NAME).read_text())["files"]
        listed = [(str(name), (int(size), str(digest))) for name, (size, digest) in sorted(files.items())]
    except (ValueError, TypeError, KeyError, AttributeError):
        return f"{NAME} is damaged"
    try:
        json.loads((folder / _COMMIT).read_text())
    except (ValueError, OSError):
        return f"{_COMMIT} is damaged"
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        faults = pool.map(lambda item: _fault(folder, *item), listed[share::shares])
        return next((fault for fault in faults if fault), None)


def _fault(folder: pathlib.Path, name: str, expected: tuple[int, str]) -> str | None:
    try:
        found = _describe(folder / name)
    except OSError as error:
        return f"{name} cannot be read ({error.strerror})"
    if found[0] != expected[0]:
        return f"{name} has {found[0]} bytes, expected {expected[0]}"
    return None if found[1] == expected[1] else f"{name} does not have the checksum that was written"


def _describe(file: pathlib.Path) -> tuple[int, str]:
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return stream.tell(), digest

"""SHA-256 of the files of a parameter tree, in a list beside it that `sha256sum -c` reads too."""

from __future__ import annotations

import concurrent.futures
import hashlib
import pathlib

from mirage_jax import io
from mirage_jax.errors import UserError

SUFFIX = ".sha256"


def list_of(tree: pathlib.Path) -> pathlib.Path:
    """Where the list of a tree's files lies."""
    return tree.with_name(tree.name + SUFFIX)


def write(tree: pathlib.Path, final: pathlib.Path | None = None) -> None:
    """Writes the list of all files of a tree, which is to become `final`, beside it."""
    final = final or tree
    files = sorted(path for path in tree.rglob("*") if path.is_file())
    lines = [f"{found}  {final.name}/{path.relative_to(tree)}\n" for path, found in zip(files, _of(files), strict=True)]
    io.write_text(list_of(final), "".join(lines))


def verify(tree: pathlib.Path) -> None:
    """Compares the files of a tree with its list; a tree without one, as older versions wrote them, is not checked.

    Raises `UserError` naming the first file that is missing or not as it was written, or the list if it is damaged.
    """
    at = list_of(tree)
    if not at.is_file():
        return
    try:
        lines = at.read_text("ascii").splitlines()
        listed = {pathlib.PurePosixPath(line[66:]): line[:64] for line in lines if line[64:66] == "  "}
    except (OSError, ValueError) as error:
        raise UserError(f"{at}: cannot be read as a list of checksums ({error})") from error
    files = [tree.parent / path for path in listed]
    if not files or len(listed) != len(lines) or any(tree not in file.parents for file in files):
        raise UserError(f"{at}: damaged, expected a checksum and the name of a file of {tree.name}/ a line")
    if missing := [file for file in files if not file.is_file()]:
        raise UserError(f"{missing[0]}: missing, {at.name} lists it")
    for file, found, expected in zip(files, _of(files), listed.values(), strict=True):
        if found != expected:
            raise UserError(f"{file}: damaged, its SHA-256 is {found[:16]}.., {at.name} has {expected[:16]}..")


def _of(files: list[pathlib.Path]) -> list[str]:
    def one(file: pathlib.Path) -> str:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    with concurrent.futures.ThreadPoolExecutor() as pool:  # hashing lets go of the interpreter
        return list(pool.map(one, files))

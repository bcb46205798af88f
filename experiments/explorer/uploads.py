"""What a browser sends: one picture, one world file, or the files of a scene. No name from it is opened as it is."""

from __future__ import annotations

import dataclasses
import pathlib
import re
import secrets
import shutil

import PIL.Image
from aiohttp import BodyPartReader, web

from mirage_jax.errors import UserError

MOST_BYTES = 256 * 2**20
"""Of one upload, all its files together."""
MOST_PIXELS = 50_000_000
"""Of one picture."""
MOST_FILES = 2000
MOST_KEPT = 8
"""Uploads that a session keeps; the oldest goes."""

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_. -]{0,99}")
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_DEEPEST = 5


@dataclasses.dataclass(frozen=True)
class Upload:
    """Files that lie in a folder of ours. Attributes: what they are (picture, world, scene), and where."""

    kind: str
    path: pathlib.Path


async def receive(request: web.Request, folder: pathlib.Path) -> tuple[str, Upload]:
    """Writes the files of a multipart request into a new folder.

    One file `.safetensors` is a world, one picture a picture; more than one file is a scene, whose names keep their
    folders.

    Returns:
      A name for it, and the upload.

    Raises:
      UserError: for too many bytes, files or pixels, names that are no names of files, or nothing.
    """
    name = secrets.token_hex(8)
    root = folder / name
    root.mkdir(parents=True)
    try:
        paths = await _written(request, root)
        return name, _recognised(paths, root)
    except BaseException:
        shutil.rmtree(root, ignore_errors=True)
        raise


async def _written(request: web.Request, root: pathlib.Path) -> list[pathlib.Path]:
    if not request.content_type.startswith("multipart/"):
        raise UserError("upload: expected files in a form")
    paths, total = [], 0
    async for part in await request.multipart():
        if not isinstance(part, BodyPartReader) or part.filename is None:
            continue
        path = root / _safe(part.filename)
        if len(paths) >= MOST_FILES:
            raise UserError(f"upload: more than {MOST_FILES} files")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            while chunk := await part.read_chunk(2**16):
                total += len(chunk)
                if total > MOST_BYTES:
                    raise UserError(f"upload: more than {MOST_BYTES // 2**20} MiB")
                file.write(chunk)
        paths.append(path)
    if not paths:
        raise UserError("upload: no file in it")
    return paths


def _safe(name: str) -> pathlib.PurePosixPath:
    """A relative path of plain names."""
    parts = name.replace("\\", "/").split("/")
    if len(parts) > _DEEPEST or not all(_PART.fullmatch(part) for part in parts):
        raise UserError(f"upload: {name[:80]!r} is no file name that is taken here; expected letters, digits, . _ -")
    return pathlib.PurePosixPath(*parts)


def _recognised(paths: list[pathlib.Path], root: pathlib.Path) -> Upload:
    for path in paths:
        if path.suffix.lower() in _PICTURES or len(paths) == 1:
            _check_pixels(path)
    if len(paths) > 1:
        return Upload("scene", root)
    return Upload("world" if paths[0].suffix == ".safetensors" else "picture", paths[0])


def _check_pixels(path: pathlib.Path) -> None:
    """Refuses a picture by the size that its header states, before anything of it is decoded."""
    try:
        with PIL.Image.open(path) as picture:
            width, height = picture.size
    except Exception:  # whoever reads it says what it is
        return
    if width * height > MOST_PIXELS:
        raise UserError(
            f"{path.name}: {width * height / 1e6:.0f} megapixels; expected at most {MOST_PIXELS / 1e6:.0f}, make it "
            "smaller first"
        )

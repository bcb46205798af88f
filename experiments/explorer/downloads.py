"""What a page can take home: each kind one file."""

from __future__ import annotations

import pathlib
import shutil

import numpy as np
import PIL.Image

from experiments.explorer.session import Session
from experiments.shared import exports
from mirage_jax.errors import UserError
from mirage_jax.geometry import Camera, pose_files

KINDS = ("world", "picture", "cameras", *exports.WRITERS)
_MOST_BYTES = 2**30  # of frames; the latest of a longer walk


def make(session: Session, kind: str, folder: pathlib.Path) -> pathlib.Path:
    """Writes a download into an empty folder; a format that is a folder becomes a zip.

    Args:
      session: whose worlds; runs in their thread.
      kind: of `KINDS`.
      folder: of ours.

    Raises:
      UserError: if there is nothing to write.
    """
    if kind == "world":
        session.save_world(folder / "world.safetensors")
        return folder / "world.safetensors"
    if kind == "picture":
        PIL.Image.fromarray(session.frames(session.cursor)[-1]).save(folder / "picture.png")
        return folder / "picture.png"
    if kind == "cameras":
        pose_files.write_json(folder / "cameras.json", _cameras(session, session.way(session.cursor)))
        return folder / "cameras.json"
    name, write = exports.WRITERS[kind]
    write(_walk(session), folder)
    path = folder / name
    return path if path.is_file() else pathlib.Path(shutil.make_archive(str(path), "zip", folder, name))


def _walk(session: Session) -> exports.Walk:
    """From the beginning of the world to where we are, as far as frames fit."""
    way, frames, size = session.way(session.cursor), [], 0
    for moment in reversed(way):
        found = session.frames(moment)
        size += found.nbytes
        if frames and size > _MOST_BYTES:
            break
        frames.append(found)
    if not frames:
        raise UserError("there are no pictures yet")
    cameras = _cameras(session, way[-len(frames) :])
    points, colours = session.points()
    return exports.Walk(np.concatenate(frames[::-1]), cameras, points, colours, session.world.engine.facts.fps)


def _cameras(session: Session, way: list[int]) -> Camera:
    found = [session.moments[moment].cameras for moment in way]
    arrays = {name: np.concatenate([getattr(c, name) for c in found]) for name in ("intrinsics", "cam2world")}
    return Camera(**arrays, height=found[0].height, width=found[0].width)

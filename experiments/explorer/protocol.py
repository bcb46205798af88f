"""What page and server say to each other: each message one dataclass.

Messages are JSON objects whose `type` is the name of a class below, in small letters; unknown types and fields, and
values of another kind or size, are refused with a sentence. Pictures and points are binary (`picture`, `points`),
little-endian, and begin with one byte that says which.
"""

from __future__ import annotations

import dataclasses
import json
import math
import struct
import typing
from collections.abc import Sequence
from typing import Any

import numpy as np

from mirage_jax import io
from mirage_jax.errors import UserError

PICTURE, POINTS = 1, 2
"""First bytes of binary messages."""

NEW, REMEMBERED, THING = 0, 1, 2
"""What a cell of the overlay shows: newly made, remembered, a remembered thing that moves."""

_PICTURE = struct.Struct("<BBHIHHBB16f4f")
_POINTS = struct.Struct("<BxxxII")


def _limited(default: Any, least: float, most: float) -> Any:
    return dataclasses.field(default=default, metadata={"least": least, "most": most})


def _text(most: int) -> Any:
    return dataclasses.field(default="", metadata={"most": most})


@dataclasses.dataclass(frozen=True)
class Move:
    """Keys that are held, or a stick; all 0 when let go. `tap`: a press counts even if it is over already."""

    forward: float = _limited(0.0, -1, 1)
    right: float = _limited(0.0, -1, 1)
    up: float = _limited(0.0, -1, 1)
    yaw: float = _limited(0.0, -1, 1)
    pitch: float = _limited(0.0, -1, 1)
    pace: float = _limited(1.0, 0.1, 4)
    tap: bool = False


@dataclasses.dataclass(frozen=True)
class Look:
    """Degrees that a mouse or finger turned the view, to the right and up, since the last such message."""

    yaw: float = _limited(0.0, -180, 180)
    pitch: float = _limited(0.0, -180, 180)


@dataclasses.dataclass(frozen=True)
class Shown:
    """The first picture of a moment is on the screen: the next one may be made."""

    moment: int = _limited(0, 0, 2**31)


@dataclasses.dataclass(frozen=True)
class Undo:
    """To the moment before."""


@dataclasses.dataclass(frozen=True)
class Redo:
    """To the moment after, on this branch."""


@dataclasses.dataclass(frozen=True)
class Jump:
    """To a moment."""

    moment: int = _limited(0, 0, 2**31)


@dataclasses.dataclass(frozen=True)
class Fork:
    """A new branch from a moment, and on it."""

    moment: int = _limited(0, 0, 2**31)


@dataclasses.dataclass(frozen=True)
class Switch:
    """To the end of a branch."""

    branch: int = _limited(0, 0, 2**31)


@dataclasses.dataclass(frozen=True)
class Start:
    """A new world, beside those that there are: from what was uploaded, or, without, the picture of the command."""

    upload: str = _text(32)
    memory: str = _text(32)
    fov: float = _limited(0.0, 0, 150)
    seed: int = _limited(0, 0, 2**32 - 1)
    steps: int = _limited(0, 0, 1000)


@dataclasses.dataclass(frozen=True)
class Prompt:
    """What the segments from here on are to show, for a model that takes text."""

    text: str = _text(2000)


@dataclasses.dataclass(frozen=True)
class Welcome:
    """First message to a page: its session, and what the model is."""

    session: str
    name: str
    height: int
    width: int
    fps: int
    segment_frames: int
    text: bool
    memories: list
    steps: int
    note: str
    uploads: dict


@dataclasses.dataclass(frozen=True)
class Busy:
    """What keeps the world from moving, and how far it is, 0 to 1; `what` is "" when it is over."""

    what: str
    done: float


@dataclasses.dataclass(frozen=True)
class Said:
    """A sentence for the person; `kind` is note, warning or error."""

    kind: str
    sentence: str


@dataclasses.dataclass(frozen=True)
class Timeline:
    """All branches, each its moments in order as `[number, x, y, z]` (where its last camera stands), and where we are.

    `shown` is the moment whose last picture follows, or -1 where none does.
    """

    cursor: int
    branch: int
    branches: list
    shown: int


@dataclasses.dataclass(frozen=True)
class Moment:
    """A moment that was just made; its pictures follow.

    `things` are what moves: `path` (where it should be in the next latent frames), `size`, `age` in seconds.
    `seconds` are by part: model, and waiting for the device.
    """

    moment: int
    parent: int
    branch: int
    points: int
    overflow: int
    remembered: float
    things: list
    seconds: dict


FROM_PAGE = (Move, Look, Shown, Undo, Redo, Jump, Fork, Switch, Start, Prompt)
TO_PAGE = (Welcome, Busy, Said, Timeline, Moment)
_BY_NAME = {kind.__name__.lower(): kind for kind in FROM_PAGE}


def parse(text: str) -> Any:
    """The message of a page.

    Raises:
      UserError: if it is none.
    """
    content = io.parse_json(text, "message")
    if not isinstance(content, dict) or not isinstance(content.get("type"), str):
        raise UserError("message: expected a JSON object with a 'type'")
    kind = _BY_NAME.get(content["type"])
    if kind is None:
        raise UserError(f"message: unknown type {io.shown(repr(content['type']), 40)}")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if unknown := sorted(set(content) - set(fields) - {"type"}):
        raise UserError(f"message {content['type']}: unknown field {io.shown(repr(unknown[0]), 40)}")
    types = typing.get_type_hints(kind)
    values = {
        name: _checked(f"{content['type']}.{name}", content[name], types[name], field.metadata)
        for name, field in fields.items()
        if name in content
    }
    return kind(**values)


def _checked(where: str, value: Any, kind: type, limits: Any) -> Any:
    if kind in (int, float):
        numeric = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not numeric or (kind is int and value % 1) or not limits["least"] <= value <= limits["most"]:
            wanted = "a whole number" if kind is int else "a number"
            raise UserError(
                f"message: {where} is {io.shown(repr(value), 40)}; expected {wanted} from {limits['least']} to "
                f"{limits['most']}"
            )
        return kind(value)
    if not isinstance(value, kind):
        raise UserError(f"message: {where} is {io.shown(repr(value), 40)}; expected {kind.__name__}")
    if kind is str and len(value) > limits["most"]:
        raise UserError(f"message: {where} has {len(value)} letters; expected at most {limits['most']}")
    return value


def to_json(message: Any) -> str:
    """A message as the page reads it."""
    values = {field.name: getattr(message, field.name) for field in dataclasses.fields(message)}
    return json.dumps({"type": type(message).__name__.lower()} | values, allow_nan=False)


def picture(
    moment: int, index: int, count: int, camera: Sequence[np.ndarray], jpeg: bytes, kind: np.ndarray, age: np.ndarray
) -> bytes:
    """One picture.

    The header is 94 bytes: 1, 0, uint16 index among the `count` pictures of its moment, uint32 moment, uint16 count,
    uint16 0, uint8 rows and columns of the overlay, float32 cam2world (16, by rows), fx, fy, cx, cy in parts of width
    and height. Then, for each cell of the overlay, what it is (`NEW`, ..), and its age in tenths of a second, at most
    255; then the JPEG.

    Args:
      moment, index, count: which one it is.
      camera: `cam2world [4, 4]`, and the lens `[4]`.
      jpeg: the picture.
      kind: uint8 `[h, w]`.
      age: float32 `[h, w]` seconds since what is remembered there was last seen.
    """
    pose, lens = (np.asarray(x, np.float32).reshape(-1).tolist() for x in camera)
    rows, columns = kind.shape
    head = _PICTURE.pack(PICTURE, 0, index, moment, count, 0, rows, columns, *pose, *lens)
    tenths = np.clip(np.round(age * 10), 0, 255).astype(np.uint8)
    return head + kind.astype(np.uint8).tobytes() + tenths.tobytes() + jpeg


def points(first: int, xyz: np.ndarray, colours: np.ndarray) -> bytes:
    """The points of a memory from number `first` on, in place of all that the page has from there on.

    2, three bytes 0, uint32 first, uint32 count; float32 `[N, 3]`; uint8 `[N, 3]`.
    """
    head = _POINTS.pack(POINTS, first, len(xyz))
    return head + np.ascontiguousarray(xyz, "<f4").tobytes() + np.ascontiguousarray(colours, np.uint8).tobytes()


def markdown() -> str:
    """The tables of the page of the documentation."""
    lines = []
    for title, kinds in (("From the page", FROM_PAGE), ("To the page", TO_PAGE)):
        lines += [f"| {title} | fields | what it says |", "|---|---|---|"]
        for kind in kinds:
            fields = ", ".join(f"{field.name} {field.type}" for field in dataclasses.fields(kind)) or "none"
            said = " ".join((kind.__doc__ or "").split())
            lines.append(f"| `{kind.__name__.lower()}` | {fields} | {said} |")
        lines.append("")
    return "\n".join(lines)

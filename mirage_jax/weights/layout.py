"""How a public checkpoint names and stores a model, as tables that are read in both directions.

A layout is a tuple of `Rule`s. Names are templates: `{i}`, `{j}`, `{k}` stand for numbers and occur on both sides of a
rule, so a public name has one path of ours, and a path one public name. What a rule changes in an array is the order of
its axes, which `from_public` and `to_public` do and undo.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from mirage_jax.errors import UserError


class Rule(NamedTuple):
    """One line of a layout.

    Attributes:
      theirs: template of a public tensor name.
      ours: template of our parameter path, joined by '/', the model's part first.
      storage: how their array becomes ours, a key of `STORAGES`.
    """

    theirs: str
    ours: str
    storage: str = "same"


Layout = Sequence[Rule]


class Storage(NamedTuple):
    """A reversible change of axes.

    Attributes:
      ours: public array -> ours.
      public: our array, and the public shape where it is known -> public array.
    """

    ours: Callable[[np.ndarray], np.ndarray]
    public: Callable[[np.ndarray, tuple[int, ...] | None], np.ndarray]


def _unpatch(array: np.ndarray, shape: tuple[int, ...] | None) -> np.ndarray:
    rows, columns = shape[3:] if shape is not None and len(shape) == 5 else (2, 2)
    channels = max(1, len(array) // max(1, rows * columns))
    return array.reshape(rows, columns, channels, -1).transpose(3, 2, 0, 1)[:, :, None]


STORAGES: dict[str, Storage] = {
    # as it is
    "same": Storage(lambda a: a, lambda a, _: a),
    # [out, in] <-> [in, out]
    "linear": Storage(lambda a: a.T, lambda a, _: a.T),
    # [1, ...] <-> [...]
    "table": Storage(lambda a: a.reshape(a.shape[1:]), lambda a, _: a[None]),
    # [out, in, *space] <-> [*space, in, out]
    "conv": Storage(lambda a: np.moveaxis(a, (0, 1), (-1, -2)), lambda a, _: np.moveaxis(a, (-1, -2), (0, 1))),
    # [in, out, *space] <-> [*space, in, out]: PyTorch's transposed convolution
    "conv_transpose": Storage(
        lambda a: np.moveaxis(a, (0, 1), (-2, -1)), lambda a, _: np.moveaxis(a, (-2, -1), (0, 1))
    ),
    # [out, in, rows, columns] <-> [1, rows, columns, in, out]: a convolution of single frames
    "frame_conv": Storage(
        lambda a: np.moveaxis(a, (0, 1), (-1, -2))[None], lambda a, _: np.moveaxis(a[0], (-1, -2), (0, 1))
    ),
    # [out, C, 1, rows, columns] <-> [rows * columns * C, out]: a convolution that cuts patches; 2 x 2 unless shape says
    "patch": Storage(lambda a: a.transpose(2, 3, 4, 1, 0).reshape(math.prod(a.shape[1:]), len(a)), _unpatch),
    # [C, 1, 1] and [C, 1, 1, 1] <-> [C]: weights that PyTorch broadcasts over space, and over time and space
    "image_norm": Storage(lambda a: a[:, 0, 0], lambda a, _: a[:, None, None]),
    "video_norm": Storage(lambda a: a[:, 0, 0, 0], lambda a, _: a[:, None, None, None]),
}


def to_ours(name: str, layout: Layout) -> tuple[str, str]:
    """Our path of a public name, and the storage of its array.

    Raises `UserError` if no rule of the layout knows the name.
    """
    for rule in layout:
        if match := _pattern(rule.theirs).fullmatch(name):
            return rule.ours.format(**match.groupdict()), rule.storage
    raise UserError(f"tensor {name} is not part of this checkpoint layout")


def to_theirs(path: str, layout: Layout) -> tuple[str, str]:
    """The public name of our path, and the storage of its array; the inverse of `to_ours`.

    Raises `UserError` if no rule of the layout knows the path.
    """
    for rule in layout:
        if match := _pattern(rule.ours).fullmatch(path):
            return rule.theirs.format(**match.groupdict()), rule.storage
    raise UserError(f"parameter {path} has no name in this checkpoint layout")


def from_public(array: np.ndarray, storage: str) -> np.ndarray:
    """A public array with its axes in our order."""
    return STORAGES[storage].ours(array)


def to_public(array: np.ndarray, storage: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Our array with its axes in public order; the inverse of `from_public`.

    `shape` is that of the public array, which tells what ours has lost (the sides of a patch, 2 x 2 otherwise).
    """
    return STORAGES[storage].public(array, shape)


def matches(name: str, rule: Rule) -> bool:
    """Whether a rule knows a public name."""
    return _pattern(rule.theirs).fullmatch(name) is not None


def from_public_shape(shape: tuple[int, ...], storage: str) -> tuple[int, ...]:
    """Shape in our order of a public array whose shape is given."""
    return from_public(np.broadcast_to(np.zeros((), np.int8), shape), storage).shape


def public_shape(shape: tuple[int, ...], storage: str, found: tuple[int, ...] | None = None) -> tuple[int, ...]:
    """Public shape of an array whose shape in our order is given; `found` is a guess, as in `to_public`."""
    return to_public(np.broadcast_to(np.zeros((), np.int8), shape), storage, found).shape


def params_from_public(tensors: Mapping[str, np.ndarray], layout: Layout) -> dict[str, Any]:
    """Parameters `{part: ..}` (what of them is in `tensors`) from public arrays by name.

    Raises `UserError` if a name is not in the layout, or two different tensors are the same parameter.
    """
    flat: dict[str, np.ndarray] = {}
    for name, array in tensors.items():
        path, storage = to_ours(name, layout)
        ours = from_public(array, storage)
        if path in flat and not np.array_equal(flat[path], ours):  # tied tensors may be stored under both names
            raise UserError(f"tensor {name} is a second, different one for the parameter {path}")
        flat[path] = ours
    return traverse_util.unflatten_dict(flat, sep="/")


@functools.cache
def _pattern(template: str) -> re.Pattern[str]:
    """A template as a regular expression with one named group a placeholder; numbers have no leading zeros."""
    pieces, seen = [], set()
    for piece in re.split(r"(\{[a-z]\})", template):
        letter = piece[1:-1]
        if not re.fullmatch(r"\{[a-z]\}", piece):
            pieces.append(re.escape(piece))
        elif letter in seen:
            pieces.append(f"(?P={letter})")
        else:
            seen.add(letter)
            pieces.append(f"(?P<{letter}>0|[1-9][0-9]*)")
    return re.compile("".join(pieces))

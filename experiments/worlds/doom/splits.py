"""Which Freedoom maps belong to which split, and which must never be rendered.

A map of FreeDM, the deathmatch game of the same authors with the same textures and other maps, is called `DM01` here
and `MAP01` in its own file. They are only trained on.
"""

from __future__ import annotations

import itertools

from mirage_jax.errors import UserError

RESERVED = frozenset([f"MAP{i}" for i in range(27, 33)] + [f"E4M{i}" for i in range(1, 10)])
"""Kept for checks from outside: never rendered here, for any purpose."""

BAD_DEPTH = frozenset(["E1M1", "E3M4", "E3M5", "E3M8"])
"""Their renderer tricks disagree with the file's geometry at too many pixels."""

_TEST = tuple(f"MAP{i}" for i in range(21, 27))
_VALIDATION = ("MAP19", "MAP20")
_TRAIN = tuple(f"MAP{i:02d}" for i in range(1, 19)) + tuple(
    name for name in (f"E{e}M{m}" for e in (1, 2, 3) for m in range(1, 10)) if name not in BAD_DEPTH
)
SPLITS = {"train": _TRAIN, "validation": _VALIDATION, "test": _TEST}
FREEDM = tuple(f"DM{i:02d}" for i in range(1, 27))
"""For training only; those numbered as the reserved ones are left alone too, though they are other maps."""

GAMES = {"freedoom": SPLITS, "freedm": {"train": FREEDM}}


def maps(split: str, game: str = "freedoom") -> tuple[str, ...]:
    """Maps of one split.

    Args:
      split: its name.
      game: one of `GAMES`.

    Raises:
      UserError: if there is no such split of such a game.
    """
    if game not in GAMES:
        raise UserError(f"--game is {game!r}, expected one of {', '.join(GAMES)}")
    if split not in GAMES[game]:
        raise UserError(f"--split is {split!r}, expected one of {', '.join(GAMES[game])} for {game}")
    return GAMES[game][split]


def game_of(map_name: str) -> str:
    """The game, of `GAMES`, that a map belongs to."""
    return "freedm" if map_name in FREEDM else "freedoom"


def check_map(name: str) -> None:
    """Refuses maps that no split may use.

    Raises:
      UserError: if the map is reserved, left out, or unknown.
    """
    if name in RESERVED:
        raise UserError(f"map {name} is reserved for outside checks and must not be rendered")
    if name in BAD_DEPTH:
        raise UserError(f"map {name} is left out because its depth cannot be computed from its geometry")
    if name not in (known := [*itertools.chain(*SPLITS.values()), *FREEDM]):
        raise UserError(f"map {name!r} is in no split; known maps are {', '.join(known)}")

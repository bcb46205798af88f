"""SLURM's short form of lists: `node[001-003,07],login` for hosts, `2(x3),1` for counts."""

from __future__ import annotations

import itertools
import re

from mirage_jax.errors import UserError

_RANGES = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")


def expand(text: str, name: str) -> list[str]:
    """All hosts of a list, in its order: `n[08-10]-ib,login` is n08-ib, n09-ib, n10-ib, login.

    Args:
      text: the list, as in SLURM_STEP_NODELIST; an item may hold several brackets.
      name: the variable that held it, for the error.

    Raises:
      UserError: if the text is no such list.
    """
    hosts = []
    for item in _split(text):
        pieces = re.split(r"\[([^\[\]]*)\]", item)  # literals at even places, the insides of brackets at odd ones
        literals_fit = all(re.fullmatch(r"[\w.:-]*", literal) for literal in pieces[::2])
        if not item or not literals_fit or not all(_RANGES.fullmatch(inside) for inside in pieces[1::2]):
            raise UserError(f"{name}={text}: expected a list of hosts such as node[01-03,7],login")
        choices = [_numbers(piece) if i % 2 else [piece] for i, piece in enumerate(pieces)]
        hosts += ["".join(chosen) for chosen in itertools.product(*choices)]
    return hosts


def expand_counts(text: str, name: str) -> list[int]:
    """Counts for one node after the other: `2(x3),1` is 2, 2, 2, 1. Raises UserError if the text is no such list."""
    counts = []
    for item in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", item)
        if match is None:
            raise UserError(f"{name}={text}: expected counts such as 2(x3),1")
        counts += [int(match[1])] * int(match[2] or 1)
    return counts


def _split(text: str) -> list[str]:
    """At the commas outside brackets."""
    return re.split(r",(?![^\[]*\])", text)


def _numbers(inside: str) -> list[str]:
    """`001-003,7` as 001, 002, 003, 7: as wide as the first number of a range is written."""
    numbers = []
    for part in inside.split(","):
        low, _, high = part.partition("-")
        numbers += [str(n).zfill(len(low)) for n in range(int(low), int(high or low) + 1)]
    return numbers

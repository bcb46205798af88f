"""What becomes of a new cell whose surface a memory shows already: rules, each a pure function of the two side by side.

A rule says of every new cell whether it enters, and what of the memory it takes the place of. `Recipe.merge` names one:

    all        everything enters, as in the paper
    first      what is shown already, as finely, does not enter: a place stays as it was first seen
    newest     what enters takes the place of every point of its surface
    best_view  a cell that tells clearly more, smaller and seen less aslant, takes the place of the point shown
    two_views  as first, but a place seen from another side enters beside it, and is read from there
    average    as first, but tokens that are met again become the mean of old and new
"""

from __future__ import annotations

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
from flax import struct

from mirage_jax.errors import UserError
from mirage_jax.geometry import Camera
from mirage_jax.memory.comparison import COARSEST, Comparison, compare, met
from mirage_jax.memory.points import PointMemory, Readout

OTHER_SIDE = 0.25
"""(1 - cos) / 2 of the angle between two views above which they are of two sides: 60 degrees."""


@struct.dataclass
class Merge:
    """What a rule decides, bool `[T, h, w]` each.

    Attributes:
      enters: the new cell becomes a point.
      replaces: the point shown at it goes.
      replaces_all: every point of its surface at it goes.
      blends: the point shown at it takes on the mean of its token and the new one.
    """

    enters: chex.Array  # [T, h, w]
    replaces: chex.Array | None = None  # [T, h, w]
    replaces_all: chex.Array | None = None  # [T, h, w]
    blends: chex.Array | None = None  # [T, h, w]


def everything(cells: Comparison) -> Merge:
    """As in the paper: the memory grows with every visit."""
    return Merge(enters=jnp.ones_like(cells.same))


def first(cells: Comparison) -> Merge:
    """A place stays as it was first seen; a closer look is added.

    A generated frame shows a known place a little worse than the frame that it was remembered from. Written as well, at
    a depth that is a little nearer in half of the cells, it would hide what was first seen there: with every visit the
    place would drift.
    """
    return Merge(enters=~cells.known)


def newest(cells: Comparison) -> Merge:
    """A place is as it was last seen."""
    return Merge(enters=~cells.hidden, replaces_all=cells.same)


def best_view(cells: Comparison) -> Merge:
    """A place is as it was seen best: from closest, and least aslant."""
    better = cells.same & (cells.gain > COARSEST**2)
    return Merge(enters=better | ~(cells.same | cells.hidden), replaces=better)


def two_views(cells: Comparison) -> Merge:
    """A place is as it was first seen from either side; reads prefer the side that they look from."""
    return Merge(enters=~cells.known | (cells.same & (cells.turned > OTHER_SIDE)))


def average(cells: Comparison) -> Merge:
    """A place is the mean of its views, the last counting half."""
    return Merge(enters=~cells.known, blends=cells.same & (cells.scale <= COARSEST))


RULES: dict[str, Callable[[Comparison], Merge]] = {
    "all": everything,
    "first": first,
    "newest": newest,
    "best_view": best_view,
    "two_views": two_views,
    "average": average,
}

BY_DIRECTION = ("best_view", "two_views")
"""Rules that need to know from where points were seen (`points.with_directions`)."""


def apply(
    rule: str,
    memory: PointMemory,
    tokens: chex.Array,
    depth: chex.Array,
    sky: chex.Array,
    cameras: Camera,
    readout: Readout,
    among: chex.Array,
) -> tuple[PointMemory, jax.Array | None, jax.Array]:
    """What becomes of new cells, and of what they meet.

    Args:
      rule: of `RULES`.
      memory: what is held.
      tokens: `[T, h, w, C]` of the new cells.
      depth: `[T, h, w]` aligned depth; 0, inf and NaN are no surface.
      sky: bool `[T, h, w]`.
      cameras: `Camera[T]` on the `h x w` grid.
      readout: what the memory shows there, with `scale` and `index`.
      among: bool `[T, h, w]`, the cells that may enter, as points or as sky; others take no one's place.

    Returns:
      The memory with the tokens that were blended; bool `[N]`, points that go, None if none ever do; bool `[T, h, w]`,
      cells that enter.

    Raises:
      UserError: if the rule compares points one by one, and the readout does not name the point of each cell.
    """
    if rule not in ("all", "first") and (readout.index is None or readout.index.ndim != 3):
        raise UserError(f"merge {rule!r} compares token with token: it needs a latent memory; expected all or first")
    decided = RULES[rule](compare(memory, depth, sky, cameras, readout))
    gone, enters = None, decided.enters
    if decided.replaces is not None:
        slot = jnp.where(decided.replaces & among, readout.index, memory.capacity)
        gone = jnp.zeros(memory.capacity, bool).at[slot].set(True, mode="drop")
    if decided.replaces_all is not None:
        shown = jnp.where(decided.replaces_all & among, jnp.where(sky, jnp.inf, depth), 0.0)
        gone = met(memory, shown, cameras)[1]
    if gone is not None:  # what goes may cover other cells as well
        enters |= readout.visible & gone[jnp.maximum(readout.index, 0)]
    if decided.blends is not None:
        slot = jnp.where(decided.blends & among, readout.index, memory.capacity)
        count = jnp.ones(memory.capacity).at[slot].add(1.0, mode="drop")
        total = memory.features.at[slot].add(tokens.astype(memory.features.dtype), mode="drop")
        mean = total.at[slot].get(mode="clip") / count.at[slot].get(mode="clip")[..., None]
        memory = memory.replace(features=total.at[slot].set(mean.astype(total.dtype), mode="drop"))
    return memory, gone, enters

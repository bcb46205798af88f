"""Exact z-depth of a Doom map by ray casting.

A Doom camera only yaws, so every image column is one vertical slice of the map: its
ray is intersected with the map's lines once, and the slice is then walked sector by
sector from front to back, which settles floors, ceilings and walls of all its rows.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from experiments.worlds.doom.wad import LINE_LOWER_UNPEGGED, DoomMap

SKY = np.inf
UNKNOWN = 0.0
_NEAR = 0.1  # map units; nothing of the world is nearer to an eye inside a player of radius 16


@dataclasses.dataclass(frozen=True)
class View:
    """A yaw-only pinhole view in map units, with square pixels and a centred axis."""

    x: float
    y: float
    z: float  # height of the eye
    angle: float  # degrees, counter-clockwise from +x
    focal: float  # pixels
    height: int
    width: int


def depth_map(doom_map: DoomMap, view: View, floor: np.ndarray, ceiling: np.ndarray) -> np.ndarray:
    """Z-depth of the map's surfaces at the pixel centres of a view.

    Args:
      doom_map: the map.
      view: where to look from.
      floor, ceiling: `[S]` live sector heights.

    Returns:
      `[height, width]` float64 in map units; inf where the sky shows, 0 where the surface is
      not known: on a wall without a texture, or outside the map.
    """
    line, z, along = _hits(doom_map, view)
    columns, steps = z.shape
    slope = (np.arange(view.height) + 0.5 - view.height / 2) / view.focal  # downwards per unit of depth
    depth = np.zeros((columns, view.height))
    open_ = np.ones((columns, view.height), bool)
    active = np.arange(columns)
    for step in range(steps):
        active = active[np.isfinite(z[active, step]) & open_[active].any(axis=1)]
        if not active.size:
            break
        at = active, step
        hit = _Hits(doom_map, view, line[at], z[at], along[at], floor - view.z, ceiling - view.z)
        surface, passes = _cross(hit, slope)
        still_open = open_[active]
        depth[active] = np.where(still_open & ~passes, surface, depth[active])
        open_[active] = still_open & passes
    depth[~(depth > 0)] = UNKNOWN  # an eye below a floor or above a ceiling: the map's geometry is not closed there
    return depth.T


@dataclasses.dataclass(frozen=True)
class _Hits:
    """The line that each of `C` columns meets at one step of its way, and all that is needed to cross it."""

    doom_map: DoomMap
    view: View
    line: np.ndarray  # [C]
    z: np.ndarray  # [C] z-depth
    along: np.ndarray  # [C] where on the line, 0 = its start, 1 = its end
    floor: np.ndarray  # [S] above the eye
    ceiling: np.ndarray  # [S] above the eye


def _hits(doom_map: DoomMap, view: View) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`[width, K]` lines met by each column's ray, front to back: numbers, z-depths, positions along them (0 to 1).

    Depths are inf after the last hit, which is that of the first one-sided line: nothing shows behind it.
    """
    radians = np.deg2rad(view.angle)
    forward = np.array([np.cos(radians), np.sin(radians)])
    right = np.array([np.sin(radians), -np.cos(radians)])
    edge = view.width / 2 / view.focal
    start, end = doom_map.start - (view.x, view.y), doom_map.end - (view.x, view.y)
    z0, z1, x0, x1 = start @ forward, end @ forward, start @ right, end @ right
    outside = (
        ((z0 <= _NEAR) & (z1 <= _NEAR))
        | ((x0 > edge * z0) & (x1 > edge * z1))
        | ((x0 < -edge * z0) & (x1 < -edge * z1))
    )
    one_sided = doom_map.sectors[:, 1] < 0
    direction = doom_map.end - doom_map.start
    from_behind = one_sided & (direction[:, 1] * start[:, 0] - direction[:, 0] * start[:, 1] > 0)
    no_effect = (doom_map.sectors[:, 0] == doom_map.sectors[:, 1]) & (doom_map.middle.max(axis=1) < 0)
    index = np.flatnonzero(~(outside | no_effect | from_behind))
    z0, z1, x0, x1 = z0[index], z1[index], x0[index], x1[index]
    tangent = ((np.arange(view.width) + 0.5 - view.width / 2) / view.focal)[:, None]
    across0, across1 = x0 - tangent * z0, x1 - tangent * z1  # signed distance of the ends from the ray
    with np.errstate(divide="ignore", invalid="ignore"):
        along = across0 / (across0 - across1)
        z = z0 + (z1 - z0) * along
    z = np.where((across0 > 0) != (across1 > 0), z, np.inf)
    z[~(z > _NEAR)] = np.inf
    wall = np.where(one_sided[index], z, np.inf).min(axis=1, initial=np.inf)
    z[z > wall[:, None]] = np.inf
    counts = np.isfinite(z).sum(axis=1)
    steps = int(counts.max(initial=0))
    order = np.argsort(z, axis=1, kind="stable")[:, :steps]
    line = index[order] if index.size else order
    return line, np.take_along_axis(z, order, axis=1), np.take_along_axis(along, order, axis=1)


def _cross(hit: _Hits, slope: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What rows of downward slopes `[H]` meet in `C` columns up to and including one line of each.

    Returns `[C, H]` depth of the surface met and `[C, H]` bool, whether the row passes the line instead.
    """
    doom_map, view, line, z = hit.doom_map, hit.view, hit.line, hit.z
    direction = doom_map.end[line] - doom_map.start[line]
    to_eye = np.array([view.x, view.y]) - doom_map.start[line]
    side = (direction[:, 0] * to_eye[:, 1] - direction[:, 1] * to_eye[:, 0] > 0).astype(int)  # 0 = front
    here, there = doom_map.sectors[line, side], doom_map.sectors[line, 1 - side]
    solid = (there < 0) | (here < 0)
    here, there = np.where(here < 0, there, here), np.where(there < 0, here, there)
    eye_floor, eye_ceiling = hit.floor[here], hit.ceiling[here]
    next_floor, next_ceiling = hit.floor[there], hit.ceiling[there]

    up = -slope * z[:, None]  # height above the eye where the row meets the line
    with np.errstate(divide="ignore"):
        down_depth, up_depth = -1.0 / slope, -1.0 / slope
    is_floor, is_ceiling = up < eye_floor[:, None], up > eye_ceiling[:, None]
    both_sky = (doom_map.sky_ceiling[here] & doom_map.sky_ceiling[there])[:, None]
    upper = np.where(both_sky, SKY, np.where(doom_map.has_upper[line, side], z, UNKNOWN)[:, None])
    lower = np.where(doom_map.has_lower[line, side], z, UNKNOWN)[:, None]
    wall = np.where(up > next_ceiling[:, None], upper, lower)
    surface = np.where(solid[:, None], np.where(doom_map.has_middle[line, side], z, UNKNOWN)[:, None], wall)
    plane_floor = np.where(doom_map.sky_floor[here][:, None], SKY, eye_floor[:, None] * down_depth)
    plane_ceiling = np.where(doom_map.sky_ceiling[here][:, None], SKY, eye_ceiling[:, None] * up_depth)
    surface = np.where(is_floor, plane_floor, np.where(is_ceiling, plane_ceiling, surface))
    passes = ~(is_floor | is_ceiling | solid[:, None])
    passes &= (up >= next_floor[:, None]) & (up <= next_ceiling[:, None])

    in_middle = _middle(hit, side, up)
    if in_middle is not None:
        surface = np.where(passes & in_middle, z[:, None], surface)
        passes &= ~in_middle
    return surface, passes


def _middle(hit: _Hits, side: np.ndarray, up: np.ndarray) -> np.ndarray | None:
    """`[C, H]` bool, where rows meet an opaque texel of a line's middle texture; None if no line has one.

    `side` `[C]` of the lines faces the eye (0 = front); rows meet them at heights `up` `[C, H]` above it.
    """
    doom_map = hit.doom_map
    texture = doom_map.middle[hit.line, side]
    columns = np.flatnonzero(texture >= 0)
    if not columns.size:
        return None
    line, side, texture = hit.line[columns], side[columns], texture[columns]
    length = np.hypot(*(doom_map.end[line] - doom_map.start[line]).T)
    from_left = np.where(side == 0, hit.along[columns], 1 - hit.along[columns]) * length
    sectors = doom_map.sectors[line]
    low, high = hit.floor[sectors].max(axis=1), hit.ceiling[sectors].min(axis=1)
    stands = (doom_map.flags[line] & LINE_LOWER_UNPEGGED) != 0
    result = np.zeros(up.shape, bool)
    for number in np.unique(texture):
        opaque = doom_map.opacity[number]
        size, width = opaque.shape
        chosen = texture == number
        shift = doom_map.offset[line, side][chosen]
        row = np.floor((np.where(stands, low + size, high)[chosen] + shift[:, 1])[:, None] - up[columns[chosen]])
        row, texel = row.astype(int), np.floor(from_left[chosen] + shift[:, 0]).astype(int) % width
        inside = (row >= 0) & (row < size)
        result[columns[chosen]] = inside & opaque[np.clip(row, 0, size - 1), texel[:, None]]
    return result

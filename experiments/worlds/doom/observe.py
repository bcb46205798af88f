"""From what the game drew to a frame with exact depth, a mask of moving actors and a pose.

The game draws 320x240 pixels at a horizontal field of view of 90 degrees, with pixels 1.2 times
as tall as wide. The middle 200 columns have equal fields of view both ways (64 degrees), so they
become a square frame with square pixels and a centred axis. The renderer samples walls at the left
and lower edge of its pixels and flats at the centre, so pictures are off by up to a quarter of a
pixel of a 128x128 frame against the depth, differently for walls and flats: no intrinsics fix that.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import vizdoom
from PIL import Image

from experiments.worlds.clips import FOCAL
from experiments.worlds.doom import raycast
from experiments.worlds.doom.wad import DoomMap
from experiments.worlds.paths import UNITS_PER_METRE

GAMMA = 1.7  # of every frame: as the game draws them, people see little and errors in the dark count for nothing
_CROP = slice(60, 260)  # so that the focal length is `FOCAL` both ways: 160 of 200 columns, 192 of 240 rows
_FIRST_LABEL = 2  # smaller labels are surfaces of the world
_NEAREST_SPRITE = 1.0  # map units; an actor beside the eye can have its position behind it
_DEPTH_STEP, _DEPTH_OFFSET = 7.138, 5.4  # the game's 8-bit depth v means v * step + offset, up to two steps more
_DEPTH_SLACK = 2.0  # map units
_DEPTH_SHARE = 0.04  # of the depth: far floors change by much from row to row
_DEPTH_LAST = 125  # larger values mean anything farther
_DEPTH_NEAREST = 24.0  # map units; nearer floors and ceilings overflow the buffer
_MOVING_CATEGORIES = ("Monster", "Projectile")
_BRIGHTENED = np.round(255 * (np.arange(256) / 255) ** (1 / GAMMA)).astype(np.uint8)


def brightened(drawn: np.ndarray | int) -> np.ndarray:
    """Colours `[...]` as they are shown, of 0 to 255 as the game draws them: to the power `1 / GAMMA`, uint8."""
    return _BRIGHTENED[drawn]


@dataclasses.dataclass(frozen=True)
class Capture:
    """One rendered frame as the game drew it; depth is computed later, if the clip is worth it."""

    state: vizdoom.GameState
    position: np.ndarray  # [3] map units, of the eye
    angle: float  # degrees, counter-clockwise from +x
    velocity: np.ndarray  # [2] map units a tic

    def frame(self, size: int) -> np.ndarray:
        """`[size, size, 3]` uint8 picture, each pixel the mean of the game's pixels under it, brightened by `GAMMA`."""
        picture = Image.fromarray(self.state.screen_buffer[:, _CROP])
        return brightened(np.asarray(picture.resize((size, size), Image.Resampling.BOX)))


@dataclasses.dataclass(frozen=True)
class Observation:
    """One frame with everything known about it."""

    frame: np.ndarray  # uint8 [size, size, 3]
    depth: np.ndarray  # float64 [size, size] metres; inf = sky, 0 = unknown
    dynamic: np.ndarray  # bool [size, size]
    cam2world: np.ndarray  # float64 [4, 4], metres; world axes are the map's, z up


def observe(doom_map: DoomMap, capture: Capture, size: int) -> Observation:
    """Depth, mask and pose of a captured frame."""
    state = capture.state
    floor, ceiling = live_heights(state)
    view = raycast.View(*capture.position, capture.angle, FOCAL * size, size, size)
    depth = raycast.depth_map(doom_map, view, floor, ceiling)
    labels = state.labels_buffer[:, _CROP]
    depth = _add_sprites(depth, labels, state.labels, view)
    depth[_refuted(depth, state.depth_buffer[:, _CROP])] = raycast.UNKNOWN
    moving = [label.value for label in state.labels if label.object_category in _MOVING_CATEGORIES]
    dynamic = _any_pixel(np.isin(labels, moving), size) if moving else np.zeros(depth.shape, bool)
    return Observation(capture.frame(size), depth / UNITS_PER_METRE, dynamic, _cam2world(capture))


def live_heights(state: vizdoom.GameState) -> tuple[np.ndarray, np.ndarray]:
    """`[S]` live floor and `[S]` live ceiling heights of the sectors, map units."""
    floor, ceiling = np.array([(sector.floor_height, sector.ceiling_height) for sector in state.sectors]).T
    return floor, ceiling


def _cam2world(capture: Capture) -> np.ndarray:
    """`[4, 4]`: OpenCV camera axes (right, down, forward) in map axes (z up), metres."""
    radians = np.deg2rad(capture.angle)
    cos, sin = np.cos(radians), np.sin(radians)
    pose = np.eye(4)
    pose[:3, :3] = np.array([[sin, 0, cos], [-cos, 0, sin], [0, -1, 0]])
    pose[:3, 3] = capture.position / UNITS_PER_METRE
    return pose


def _add_sprites(depth: np.ndarray, labels: np.ndarray, objects: list, view: raycast.View) -> np.ndarray:
    """Puts actors, which are billboards, at the z-depth of their position; map units."""
    rows, columns = _centres(labels, view.height)
    sampled = labels[rows[:, None], columns]
    forward = np.array([np.cos(np.deg2rad(view.angle)), np.sin(np.deg2rad(view.angle))])
    result = depth.copy()
    for label in objects:
        if label.value >= _FIRST_LABEL:
            offset = np.array([label.object_position_x - view.x, label.object_position_y - view.y])
            result[sampled == label.value] = max(float(offset @ forward), _NEAREST_SPRITE)
    return result


def _refuted(depth: np.ndarray, buffer: np.ndarray) -> np.ndarray:
    """`[size, size]` bool, where computed depth is outside what the engine drew there or right beside.

    The engine keeps depth in steps of 22 cm, which is too coarse to use but enough to catch a wrong surface. Sky
    cannot be compared: the engine leaves it as whatever lies behind.
    """
    rows, columns = _centres(buffer, depth.shape[0])
    padded = np.pad(buffer, 1, mode="edge")
    around = np.stack([padded[1 + i + rows[:, None], 1 + j + columns] for i in (-1, 0, 1) for j in (-1, 0, 1)])
    slack = _DEPTH_SLACK + _DEPTH_SHARE * np.where(np.isfinite(depth), depth, 0.0)
    low = around.min(axis=0) * _DEPTH_STEP + _DEPTH_OFFSET - slack
    high = (around.max(axis=0) + 2.0) * _DEPTH_STEP + _DEPTH_OFFSET + slack
    high[around.max(axis=0) > _DEPTH_LAST] = np.inf
    low[around.min(axis=0) == 0] = 0.0
    return np.isfinite(depth) & (depth > _DEPTH_NEAREST) & ((depth < low) | (depth > high))


def _centres(rendered: np.ndarray, size: int) -> list[np.ndarray]:
    """`[size]` rows and `[size]` columns of rendered pixels at the centres of output pixels."""
    return [((np.arange(size) + 0.5) * length / size).astype(int) for length in rendered.shape]


def _any_pixel(mask: np.ndarray, size: int) -> np.ndarray:
    """`[size, size]` bool, whether any rendered pixel under an output pixel is set."""
    for axis in (0, 1):
        edges = np.arange(size + 1) * mask.shape[axis]
        first, last = edges[:-1] // size, (edges[1:] - 1) // size
        # No output pixel covers more than a first, a last and whole rows between, which start the next run.
        runs = np.logical_or.reduceat(mask, first, axis=axis)
        mask = runs | np.take(mask, last, axis=axis)
    return mask

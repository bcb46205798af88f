"""The raycaster against a twin that marches along each ray in small steps through rectangles."""

import dataclasses

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from experiments.worlds.doom import raycast

STEP = 0.05  # map units of depth
SIZE = 12


def depth_map(doom_map, view):
    """With sector heights as in the file."""
    return raycast.depth_map(doom_map, view, doom_map.floor, doom_map.ceiling)


def march(view, rooms, pillar, grate):
    """`[height, width]` depth by stepping; accurate to a step."""
    radians = np.deg2rad(view.angle)
    forward, right = np.array([np.cos(radians), np.sin(radians)]), np.array([np.sin(radians), -np.cos(radians)])
    result = np.zeros((view.height, view.width))
    t = np.arange(0.1, 1200, STEP)
    for row in range(view.height):
        for column in range(view.width):
            slope = (row + 0.5 - view.height / 2) / view.focal
            tangent = (column + 0.5 - view.width / 2) / view.focal
            x, y = np.array([view.x, view.y])[:, None] + (forward + tangent * right)[:, None] * t
            z = view.z - slope * t
            room = np.full(len(t), -1)
            for number, (x0, y0, x1, y1, *_) in enumerate(rooms):
                room[(x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)] = number
            x0, y0, x1, y1 = pillar
            room[(x > x0) & (x < x1) & (y > y0) & (y < y1)] = -1
            floor, ceiling = (np.array([r[i] for r in rooms] + [0.0])[room] for i in (4, 5))
            sky = np.array([r[6] for r in rooms] + [False])[room]
            stops = (room < 0) | (z < floor) | (z > ceiling)
            # The grate: drawn from the top of the opening down, from its left end as seen from either side.
            crossing = np.flatnonzero(
                (room[:-1] != room[1:]) & (np.minimum(room[:-1], room[1:]) == 0) & (room[1:] >= 0)
            )
            crossing = crossing[(room[crossing] + room[crossing + 1]) == 1]
            if crossing.size:
                k = crossing[0]
                texel = int(np.floor((224 - y[k]) if room[k] == 0 else (y[k] - 32))) % grate.shape[1]
                line = int(np.floor(96 - z[k]))
                if 0 <= line < grate.shape[0] and grate[line, texel]:
                    stops[k + 1] = True
                    sky[k : k + 2] = False
            first = stops.argmax()
            before = max(first - 1, 0)
            above = z[first] > ceiling[first] and room[first] >= 0
            to_sky = sky[before] and above and (sky[first] or room[first] == room[before])
            result[row, column] = np.inf if to_sky else t[first]
    return result


@hypothesis.settings(max_examples=8)
@hypothesis.given(
    spot=st.sampled_from([(40.3, 60.7, 41.0), (200.1, 180.2, 41.0), (380.5, 130.9, 57.0), (640.2, 100.4, 30.0)]),
    angle=st.floats(0, 360),
)
def test_depth_equals_marching(tiny_map, geometry, spot, angle):
    view = raycast.View(*spot, angle, 0.8 * SIZE, SIZE, SIZE)
    depth = depth_map(tiny_map, view)
    twin = march(view, *geometry)
    # A ray within a step of an edge may fall to either side of it.
    agree = np.isclose(depth, twin, atol=2 * STEP, rtol=1e-3) | (np.isinf(depth) & np.isinf(twin))
    assert agree.mean() > 0.97, (depth[~agree], twin[~agree])


@pytest.mark.parametrize(("x", "angle"), [(246.0, 0.0), (266.0, 180.0)])
def test_rays_stop_at_the_opaque_texels_of_a_grate(tiny_map, geometry, x, angle):
    """The grate hangs at x = 256 from height 96; its left end is at y = 224 from the first room, 32 from the second."""
    grate = geometry[2]
    size, focal = 32, 24.0
    y, z = 127.3, 88.2
    depth = depth_map(tiny_map, raycast.View(x, y, z, angle, focal, size, size))
    offset = (np.arange(size) + 0.5 - size / 2) / focal * 10
    height = z - offset
    from_left = 224 - (y - offset) if angle == 0 else (y + offset) - 32
    texel, line = np.floor(from_left).astype(int) % grate.shape[1], np.floor(96 - height).astype(int)
    inside = (line >= 0) & (line < grate.shape[0])
    opaque = inside[:, None] & grate[np.clip(line, 0, grate.shape[0] - 1)[:, None], texel]
    assert 0.2 < opaque.mean() < 0.8
    np.testing.assert_allclose(depth[opaque], 10)
    assert (depth[~opaque & (height < 95.9)[:, None]] > 10.1).all()


def test_sky_hides_what_is_behind_its_upper_walls(tiny_map):
    """Between two rooms under the sky the wall above the lower one is sky too."""
    view = raycast.View(640, 128, 60, 0, 0.8 * 32, 32, 32)
    column = depth_map(tiny_map, view)[:, 16]
    assert np.isinf(column[0]) and (np.isfinite(column) & (column > 0)).any()
    top_of_back_wall = 60 + 260 * (16 - 0.5 - np.flatnonzero(np.isinf(column)).max()) / (0.8 * 32)
    assert 100 - 15 < top_of_back_wall < 100 + 15


def test_live_heights_replace_those_of_the_file(tiny_map):
    view = raycast.View(200, 60, 41, 0, 25.6, 32, 32)
    floor, ceiling = tiny_map.floor.copy(), tiny_map.ceiling.copy()
    ceiling[1] = floor[1]  # a closed door
    shut = raycast.depth_map(tiny_map, view, floor, ceiling)
    assert shut[16, 16] == 56
    assert depth_map(tiny_map, view)[16, 16] > 200


def test_walls_without_texture_are_unknown(tiny_map):
    bare = dataclasses.replace(tiny_map, has_middle=np.zeros_like(tiny_map.has_middle))
    view = raycast.View(60, 60, 41, 180, 25.6, 32, 32)
    assert depth_map(tiny_map, view)[16, 16] == 60
    assert depth_map(bare, view)[16, 16] == raycast.UNKNOWN

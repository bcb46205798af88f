"""From what the game drew to frames, with a game made of arrays."""

import types

import numpy as np

from experiments.worlds.clips import FOCAL
from experiments.worlds.doom import observe, raycast

SIZE = 20  # ten columns and twelve rows of the game under each pixel


def drawn(tiny_map, position, angle):
    """What the game would draw of the tiny map, and a barrel and an imp before it."""
    view = raycast.View(*position, angle, FOCAL * 200, 200, 200)
    depth = raycast.depth_map(tiny_map, view, tiny_map.floor, tiny_map.ceiling)[(np.arange(240) / 1.2).astype(int)]
    labels = np.zeros((240, 320), np.uint8)
    labels[100:140, 70:110], labels[100:140, 200:230] = 2, 3
    coarse = np.clip((np.where(np.isfinite(depth), depth, 900) - 5.4) / 7.138, 0, 127)
    coarse[100:140, 10:50], coarse[100:140, 140:170] = (80 - 5.4) / 7.138, (50 - 5.4) / 7.138
    buffer = np.zeros((240, 320), np.uint8)
    buffer[:, 60:260] = coarse
    screen = np.zeros((240, 320, 3), np.uint8)
    screen[:, 60:70] = 200

    def actor(value, category, x, y):
        return types.SimpleNamespace(
            value=value, object_category=category, object_position_x=x, object_position_y=y, object_position_z=0
        )

    state = types.SimpleNamespace(
        screen_buffer=screen,
        labels_buffer=labels,
        depth_buffer=buffer,
        labels=[actor(2, "Decoration", 120, 61), actor(3, "Monster", 90, 40)],
        sectors=[
            types.SimpleNamespace(floor_height=f, ceiling_height=c)
            for f, c in zip(tiny_map.floor, tiny_map.ceiling, strict=True)
        ],
    )
    return observe.Capture(state, np.array(position, float), float(angle), np.zeros(2))


def test_actors_are_billboards_and_only_monsters_are_dynamic(tiny_map):
    seen = observe.observe(tiny_map, drawn(tiny_map, (40, 60, 41), 0), SIZE)
    decoration, monster = seen.depth[9:11, 1:4], seen.depth[9:11, 14:16]
    np.testing.assert_allclose(decoration, 80 / 32)  # along the axis of view, not the distance
    np.testing.assert_allclose(monster, 50 / 32)
    assert seen.dynamic[9:11, 14:16].all() and seen.dynamic.sum() <= 4 * 4
    assert (seen.depth == 0).mean() < 0.05
    np.testing.assert_array_equal(seen.frame[:, 0], observe.brightened(200))
    np.testing.assert_array_equal(seen.frame[:, 1:], 0)


def test_frames_are_brighter_than_drawn_and_lose_nothing_in_the_dark(tiny_map):
    drawn_values = np.arange(256, dtype=np.uint8)
    shown = observe.brightened(drawn_values)
    np.testing.assert_allclose(shown / 255, (drawn_values / 255) ** (1 / observe.GAMMA), atol=0.5 / 255)
    assert shown[0] == 0 and shown[255] == 255 and (np.diff(shown.astype(int)) >= 0).all()
    assert len(np.unique(shown[:64])) == 64


def test_poses_look_where_the_player_looks(tiny_map):
    seen = observe.observe(tiny_map, drawn(tiny_map, (64, 96, 32), 90), SIZE)
    right, down, forward, position = seen.cam2world[:3].T
    np.testing.assert_allclose(forward, [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(right, [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(down, [0, 0, -1])
    np.testing.assert_allclose(position, [2, 3, 1])


def test_refuted_depth():
    """The game's coarse depth refutes a wrong surface but not an edge one pixel off, nor the far or the very near."""
    buffer = np.full((240, 200), 50, np.uint8)
    buffer[:, 100:] = 100
    true = np.where(np.arange(16) < 8, 50 * 7.138 + 9, 100 * 7.138 + 9) * np.ones((16, 1))
    assert not observe._refuted(true, buffer).any()
    assert observe._refuted(np.where(true < 400, true * 1.3, true), buffer)[:, :7].all()
    assert not observe._refuted(np.full((16, 16), 20.0), buffer).any()
    assert not observe._refuted(np.full((16, 16), 5000.0), np.full_like(buffer, 127)).any()


def test_mask_covers_every_pixel_it_touches():
    mask = np.zeros((240, 200), bool)
    mask[120, 77] = True  # rows 64.0-64.5 and columns 49.3-49.9 of the small picture
    mask[121, 10] = True  # rows 64.5-65.1 and columns 6.4-7.04
    np.testing.assert_array_equal(
        np.argwhere(observe._any_pixel(mask, 128)), [[64, 6], [64, 7], [64, 49], [65, 6], [65, 7]]
    )

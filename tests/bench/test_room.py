import numpy as np

from experiments.bench import room

SIZE = 24
K = room.intrinsics(SIZE, SIZE)


def on_a_surface(points):
    """Distance to the nearest face of the room or of a box, at most rounding when on it."""
    walls = np.abs(points[..., None, :] - room._WALLS).min(axis=(-1, -2))
    boxes = []
    for low, high in room._BOXES:
        outside = np.maximum(np.maximum(low - points, points - high), 0).max(axis=-1)
        face = np.minimum(np.abs(points - low), np.abs(points - high)).min(axis=-1)
        boxes.append(np.maximum(outside, face))
    return np.minimum(walls, np.min(boxes, axis=0))


def test_points_lie_on_surfaces_and_nothing_is_before_them():
    pose = room.pose(0.4, 0.5, 0.2)
    depth, points = room.depth_and_points(K, pose, SIZE, SIZE)
    assert on_a_surface(points).max() < 1e-9
    fractions = np.linspace(0.01, 0.99, 50)[:, None, None, None]
    between = pose[:3, 3] + fractions * (points - pose[:3, 3])
    for low, high in room._BOXES:
        assert not ((between > low + 1e-9) & (between < high - 1e-9)).all(axis=-1).any()
    np.testing.assert_allclose((points - pose[:3, 3]) @ pose[:3, 2], depth)


def test_straight_ahead_is_the_box_and_beside_it_the_wall():
    depth, _ = room.depth_and_points(K, room.pose(0, 0, 0), SIZE, SIZE)
    assert depth[12, 12] == 6
    assert room.distance(np.zeros(3), np.array([0.0, -0.15, 1.0])) == 10


def test_what_a_camera_sees_it_sees_and_what_a_box_hides_it_does_not():
    pose = room.pose(0, 0, 0)
    _, points = room.depth_and_points(K, pose, SIZE, SIZE)
    assert room.sees(K, pose, SIZE, SIZE, points).all()
    behind_the_box = np.array([0.0, 0.5, 10.0])
    assert not room.sees(K, pose, SIZE, SIZE, behind_the_box)
    assert room.sees(K, room.pose(3, 6, 0), SIZE, SIZE, np.array([3.0, 0.5, 10.0]))
    assert not room.sees(K, room.pose(0, 0, np.pi), SIZE, SIZE, points).any()

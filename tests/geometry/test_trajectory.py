"""Camera paths: sign conventions, exact returns, frame shares, and an integrator as an independent twin."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.shared import drawings
from mirage_jax.errors import UserError
from mirage_jax.geometry import Camera, project, trajectory, trajectory_text

INTRINSICS = np.array([[64.0, 0.0, 64.0], [0.0, 64.0, 48.0], [0.0, 0.0, 1.0]], np.float32)
IDENTITY = Camera(intrinsics=INTRINSICS, cam2world=np.eye(4, dtype=np.float32), height=96, width=128)


def tilted_start():
    """A start with nothing round about it, to catch what holds only at the identity."""
    angle = 0.7
    pose = np.eye(4)
    pose[:3, :3] = [[0, -math.sin(angle), math.cos(angle)], [-1, 0, 0], [0, -math.cos(angle), -math.sin(angle)]]
    pose[:3, 3] = [3.1, -2.7, 0.3]
    return Camera(intrinsics=INTRINSICS, cam2world=pose.astype(np.float32), height=96, width=128)


def last_pose(text, **kwargs):
    return trajectory.parse(text, start=IDENTITY, frames=kwargs.pop("frames", 9), **kwargs).cam2world[-1]


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("forward 2", (0, 0, 2)),
        ("backward 2", (0, 0, -2)),
        ("right 2", (2, 0, 0)),
        ("left 2", (-2, 0, 0)),
        ("up 2", (0, -2, 0)),
        ("down 2", (0, 2, 0)),
        ("dolly 2", (0, 0, 2)),
        ("yaw 90; forward 2", (2, 0, 0)),
        ("yaw 90; right 2", (0, 0, -2)),
        ("pitch 90; forward 2", (0, 0, 2)),
        ("pitch 90; up 1", (0, -1, 0)),
        ("pitch 90; dolly 2", (0, -2, 0)),
        ("roll 90; right 2", (2, 0, 0)),
        ("orbit 90 2", (2, 0, 2)),
        ("orbit 180 2", (0, 0, 4)),
        ("orbit -90 2", (-2, 0, 2)),
        ("orbit 360 2", (0, 0, 0)),
        ("forward 3 & right 1 & up 2", (1, -2, 3)),
        ("forward 1.5707963 & yaw 90", (1, 0, 1)),
    ],
)
def test_where_moves_lead(text, position):
    np.testing.assert_allclose(last_pose(text)[:3, 3], position, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "point", "pixel"),
    [
        # Turn right, look up: what was straight ahead is now left of, below, the middle of the image.
        ("yaw 45", (0, 0, 4), (0, 48)),
        ("pitch 20", (0, 0, 4), (64, 48 + 64 * math.tan(math.radians(20)))),
        # Tilt clockwise: a point on the right of the image goes up (the picture turns anticlockwise).
        ("roll 90", (2, 0, 4), (64, 48 - 32)),
        # Level head: looking up and then turning keeps a vertical line through the middle vertical.
        ("pitch 30; yaw 90", (5, -5 * math.tan(math.radians(30)), 0), (64, 48)),
        # An orbit keeps its point in the middle, whatever the pitch.
        ("orbit 73 3", (0, 0, 3), (64, 48)),
        ("pitch -20; orbit 73 3", (0, 3 * math.sin(math.radians(20)), 3 * math.cos(math.radians(20))), (64, 48)),
    ],
)
def test_what_the_camera_sees(text, point, pixel):
    camera = trajectory.parse(text, start=IDENTITY, frames=9)[-1]
    uv, depth = project(camera, np.array(point, np.float32))
    assert depth > 0
    np.testing.assert_allclose(uv, pixel, atol=1e-3)


move = st.one_of(
    st.tuples(st.sampled_from(trajectory_text.DISTANCES), st.floats(-3, 3)),
    st.tuples(st.sampled_from(trajectory_text.ANGLES), st.floats(-200, 200)),
)
step = st.lists(move, min_size=1, max_size=4).map(lambda moves: " & ".join(f"{word} {n:.4f}" for word, n in moves))
path = st.lists(st.one_of(step, st.just("pause"), st.just("linear")), min_size=1, max_size=4).filter(
    lambda steps: any(s != "linear" for s in steps)
)


@settings(max_examples=15, deadline=None)
@given(path)
def test_end_point_agrees_with_an_integrator_of_small_steps(steps):
    """Twin: push the camera in 20,000 tiny steps, each along its own axes."""
    text = "; ".join(steps)
    position, yaw, pitch, roll = np.zeros(3), 0.0, 0.0, 0.0
    pieces = 20_000
    for step in trajectory_text.read(text):
        middle = (np.arange(pieces) + 0.5) / pieces
        heading = yaw + np.radians(step.yaw) * middle
        gaze = pitch + np.radians(step.pitch) * middle
        zero = np.zeros(pieces)
        ahead = np.stack([np.sin(heading), zero, np.cos(heading)])
        right = np.stack([np.cos(heading), zero, -np.sin(heading)])
        sight = np.stack([np.sin(heading) * np.cos(gaze), -np.sin(gaze), np.cos(heading) * np.cos(gaze)])
        velocity = step.forward * ahead + step.right * right + step.dolly * sight
        position = position + velocity.mean(axis=1) + [0.0, step.down, 0.0]
        yaw, pitch, roll = yaw + np.radians(step.yaw), pitch + np.radians(step.pitch), roll + np.radians(step.roll)
    pose = last_pose(text, frames=6)
    np.testing.assert_allclose(pose[:3, 3], position, atol=1e-5)
    forward = [math.sin(yaw) * math.cos(pitch), -math.sin(pitch), math.cos(yaw) * math.cos(pitch)]
    np.testing.assert_allclose(pose[:3, 2], forward, atol=1e-5)
    level_right = np.array([math.cos(yaw), 0.0, -math.sin(yaw)])
    np.testing.assert_allclose(pose[:3, 0] @ level_right, math.cos(roll), atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(path, st.integers(10, 40))
def test_there_and_back_is_a_palindrome_of_bits(steps, half):
    start = tilted_start()
    camera = trajectory.parse("; ".join(steps) + "; back", start=start, frames=2 * half + 1)
    assert camera.cam2world.dtype == camera.intrinsics.dtype == np.float32
    assert camera.cam2world[0].tobytes() == start.cam2world.tobytes()
    assert camera.cam2world.tobytes() == camera.cam2world[::-1].tobytes()
    assert np.all(camera.intrinsics == INTRINSICS)


@settings(max_examples=25, deadline=None)
@given(path, st.integers(14, 60), st.sampled_from(["back", "back @ 1", "back @ 3", "back; yaw 5; back"]))
def test_whatever_the_lengths_back_ends_on_the_bits_of_the_start(steps, frames, back):
    start = tilted_start()
    camera = trajectory.parse("; ".join([*steps, back]), start=start, frames=frames)
    assert camera.cam2world.shape == (frames, 4, 4)
    assert camera.cam2world[-1].tobytes() == start.cam2world.tobytes()
    rotation = camera.cam2world[:, :3, :3].astype(np.float64)
    np.testing.assert_allclose(rotation @ rotation.transpose(0, 2, 1), np.eye(3) * np.ones((frames, 1, 1)), atol=1e-5)


def test_the_whole_path_moves_with_its_start():
    text = "forward 2 & yaw 40; orbit 30 2; pitch 10 & dolly 1"
    at_origin = trajectory.parse(text, start=IDENTITY, frames=13).cam2world
    elsewhere = trajectory.parse(text, start=tilted_start(), frames=13).cam2world
    np.testing.assert_allclose(elsewhere, tilted_start().cam2world @ at_origin, atol=1e-5)


def test_frames_are_shared_by_weight_and_every_step_ends_on_a_frame():
    camera = trajectory.parse("linear; forward 6 @ 3; right 2; pause @ 2; back", start=IDENTITY, frames=25)
    z, x = camera.cam2world[:, 2, 3], camera.cam2world[:, 0, 3]
    np.testing.assert_allclose(z[:7], np.arange(7), atol=1e-6)
    np.testing.assert_allclose(x[6:9], [0, 1, 2], atol=1e-6)
    assert np.all(x[8:17] == 2)  # the pause and, on the way back, the pause again
    np.testing.assert_allclose(z[-7:], np.arange(7)[::-1], atol=1e-6)


def test_smooth_starts_and_ends_gently_and_linear_does_not():
    smooth = trajectory.parse("forward 1", start=IDENTITY, frames=101).cam2world[:, 2, 3]
    linear = trajectory.parse("linear; forward 1", start=IDENTITY, frames=101).cam2world[:, 2, 3]
    speed = np.diff(smooth)
    assert speed[0] < 0.05 * speed.max()
    assert speed[-1] < 0.05 * speed.max()
    np.testing.assert_allclose(speed, speed[::-1], atol=1e-6)
    np.testing.assert_allclose(np.diff(linear), 0.01, atol=1e-6)


def test_an_even_number_of_frames_gives_the_odd_one_to_back():
    camera = trajectory.parse("linear; forward 4; back", start=IDENTITY, frames=10)
    z = camera.cam2world[:, 2, 3]
    np.testing.assert_allclose(z[:5], np.arange(5), atol=1e-6)
    np.testing.assert_allclose(np.diff(z[4:]), -0.8, atol=1e-6)
    assert z[-1] == 0


@pytest.mark.parametrize("name", sorted(trajectory_text.PRESETS))
def test_presets_return_to_where_they_started_and_scale(name):
    once = trajectory.parse(name, start=IDENTITY, frames=65, scene_depth=3.0)
    twice = trajectory.parse(f"{name} x2", start=IDENTITY, frames=65, scene_depth=3.0)
    summary, larger = drawings.describe(once), drawings.describe(twice)
    assert summary.gap < 1e-6
    assert summary.gap_turn < 1e-4
    assert summary.length + summary.turning > 1
    turned = 1 if name == "corridor" else 2  # a corridor twice as long still ends in half a turn
    np.testing.assert_allclose(larger.length, 2 * summary.length, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(larger.turning, turned * summary.turning, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("text", "frames", "message"),
    [
        ("forward 1", 0, "0 frames asked for; expected at least 1"),
        ("forward 1", -3, "-3 frames asked for"),
        ("forward 1; yaw 9; back", 4, "number of frames is 4; expected at least 5"),
        ("forward 1", 1, "number of frames is 1; expected at least 2"),
        ("forward 1e6; forward 1e6", 5, "leads 2e\\+06 away; expected at most 1e\\+06"),
    ],
)
def test_frames_that_do_not_fit_are_user_errors(text, frames, message):
    with pytest.raises(UserError, match=message), np.errstate(over="ignore"):
        trajectory.parse(text, start=IDENTITY, frames=frames)


def test_a_bad_start_is_refused():
    with pytest.raises(UserError, match="pose to start from is not finite"):
        trajectory.parse("yaw 9", start=IDENTITY.replace(cam2world=np.full((4, 4), np.nan)), frames=5)
    with pytest.raises(ValueError, match="starts from one camera"):
        trajectory.parse("yaw 9", start=trajectory.parse("yaw 9", start=IDENTITY, frames=5), frames=5)


def test_describe_measures_the_path():
    camera = trajectory.parse("linear; right 3; yaw 90 @ 3", start=IDENTITY, frames=13)
    summary = drawings.describe(camera)
    assert summary.frames == 13
    values = [
        summary.length,
        summary.turning,
        summary.largest_step,
        summary.largest_turn,
        summary.gap,
        summary.gap_turn,
    ]
    np.testing.assert_allclose(values, [3, 90, 1, 10, 3, 90], atol=1e-4)
    assert str(summary).startswith("13 frames, 3 units and 90 degrees of way (at most 1 units and 10 degrees a frame)")
    still = drawings.describe(camera[:1])
    assert (still.length, still.largest_turn, still.gap) == (0.0, 0.0, 0.0)


def test_resample_keeps_the_ends_and_halves_steps():
    camera = trajectory.parse("linear; right 4; yaw 90", start=IDENTITY, frames=9)
    finer = trajectory.resample(camera, 17)
    assert np.array_equal(finer.cam2world[::2], camera.cam2world)
    np.testing.assert_allclose(finer.cam2world[1:9, 0, 3] - finer.cam2world[:8, 0, 3], 0.5, atol=1e-6)
    np.testing.assert_allclose(drawings.describe(finer).largest_turn, 11.25, atol=1e-3)
    assert np.array_equal(finer.intrinsics, np.tile(INTRINSICS, (17, 1, 1)))
    assert np.array_equal(trajectory.resample(camera, 9).cam2world, camera.cam2world)
    assert np.array_equal(trajectory.resample(camera, 1).cam2world, camera.cam2world[:1])
    with pytest.raises(UserError, match="0 frames asked for"):
        trajectory.resample(camera, 0)


def test_zoom_multiplies_the_focal_length_evenly_and_back_undoes_it():
    camera = trajectory.parse("linear; zoom 4; back", start=IDENTITY, frames=9)
    factor = camera.intrinsics[:, 0, 0] / 64
    np.testing.assert_allclose(factor, [1, 4**0.25, 2, 4**0.75, 4, 4**0.75, 2, 4**0.25, 1], rtol=1e-6)
    assert np.array_equal(camera.intrinsics, camera.intrinsics[::-1])
    assert np.array_equal(camera.intrinsics[0], INTRINSICS) and np.array_equal(camera.cam2world[4], np.eye(4))
    np.testing.assert_allclose(camera.intrinsics[:, 1, 1], camera.intrinsics[:, 0, 0])
    assert np.array_equal(camera.intrinsics[:, :2, 2], np.tile(INTRINSICS[:2, 2], (9, 1)))
    # Twice as near a wall or twice the focal length: its middle looks the same size.
    both = trajectory.parse("backward 2 & zoom 2; zoom 0.5", start=IDENTITY, frames=5)
    np.testing.assert_allclose(both.intrinsics[[2, 4], 0, 0], [128, 64], rtol=1e-6)
    np.testing.assert_allclose(both.cam2world[2, 2, 3], -2, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("zoom 0", "the zoom is 0; expected a factor from 0.01 to 100"),
        ("zoom -2", "the zoom is -2"),
        ("zoom nan", "which is not finite"),
        ("zoom", "'zoom' has 0 numbers after it"),
        ("zoom 100; zoom 10", "zooms to a view of 0.115 to 90 degrees; expected 1 to 170"),
        ("zoom 0.02", "zooms to a view of"),
    ],
)
def test_zooms_that_are_none(text, message):
    with pytest.raises(UserError, match=message):
        trajectory.parse(text, start=IDENTITY, frames=9)

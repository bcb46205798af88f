"""Scores of moving objects on a made scene, in which what is right and how wrong a video is are known."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.evaluation import objects
from mirage_jax.evaluation.truth import camera_of
from mirage_jax.geometry import Camera
from tests import analytic

SIZE, COUNT, SIDE = 64, 24, 12
AWAY = range(8, 16)  # frames in which the object is out of view


def _place(t):
    """Top and left of the square; it moves on while it is out of view."""
    return 20, 4 + 2 * t


def _paint(video, t, place, picture):
    video[t, place[0] : place[0] + SIDE, place[1] : place[1] + SIDE] = picture


@pytest.fixture(scope="module")
def scene():
    """A still camera; a textured square that moves 2 pixels a frame and is away for a while."""
    random = np.random.default_rng(0)
    wall = random.integers(60, 120, (SIZE, SIZE, 3)).astype(np.uint8)
    background = np.repeat(wall[None], COUNT, axis=0)
    picture = random.integers(120, 256, (SIDE, SIDE, 3)).astype(np.uint8)
    truth, dynamic = background.copy(), np.zeros((COUNT, SIZE, SIZE), bool)
    for t in (t for t in range(COUNT) if t not in AWAY):
        _paint(truth, t, _place(t), picture)
        _paint(dynamic, t, _place(t), True)
    k = np.array([[SIZE, 0, SIZE / 2], [0, SIZE, SIZE / 2], [0, 0, 1]], np.float32)
    cameras = Camera(jnp.tile(k, (COUNT, 1, 1)), jnp.tile(jnp.eye(4), (COUNT, 1, 1)), SIZE, SIZE)
    depth = np.where(dynamic, 3.0, 4.0).astype(np.float32)
    known = {"truth": truth, "dynamic": dynamic, "background": background, "depth": depth, "cameras": cameras}
    return known | {"instances": dynamic.astype(np.uint8)}, picture


def _score(scene, frames, **changed):
    return objects.score(frames, **(scene[0] | changed))


def test_the_truth_is_perfect(scene):
    found = _score(scene, scene[0]["truth"])
    assert found["background_psnr"] == found["object_psnr"] == 120
    assert max(found["background_lpips"], found["object_lpips"], found["look"]) < 1e-6
    assert (found["detected"], found["found"], found["centroid_error"], found["ghosting"]) == (1, 1, 0, 0)
    assert found["visible"]["object_frames"] == 7, "frame 0 is given"
    assert found["reappeared"]["object_frames"] == 8
    assert found["disappeared"]["object_frames"] == 0
    assert found["disappeared"]["detected"] is None
    assert found["disappeared"]["ghosting"] == 0
    assert found["disappeared"]["background_psnr"] == 120


def test_an_object_that_is_forgotten(scene):
    frames = scene[0]["truth"].copy()
    frames[16:] = scene[0]["background"][16:]
    found = _score(scene, frames)
    assert found["visible"]["detected"] == 1
    assert (found["reappeared"]["detected"], found["reappeared"]["found"]) == (0, 0)
    assert found["reappeared"]["centroid_error"] is None
    assert found["ghosting"] == 0
    assert found["background_psnr"] == 120
    assert found["reappeared"]["object_psnr"] < 20 < found["visible"]["object_psnr"]
    assert found["reappeared"]["object_lpips"] > 0.05


def test_an_object_left_at_its_old_place(scene):
    frames = scene[0]["background"].copy()
    for t in range(COUNT):
        _paint(frames, t, _place(0), scene[1])
    found = _score(scene, frames)
    assert found["disappeared"]["ghosting"] == found["reappeared"]["ghosting"] == 1
    assert found["reappeared"]["detected"] == 0
    assert found["reappeared"]["found"] == 0, "the old place is beyond two sizes"
    half = (frames.astype(int) + scene[0]["background"]) // 2
    assert _score(scene, half.astype(np.uint8))["disappeared"]["ghosting"] == 0, "half a ghost is none"


def test_an_object_left_at_its_old_place_in_the_world_is_a_ghost_when_the_camera_moves():
    still, moved = (analytic.scene(1, frames=9, height=64, width=64, moving=moving) for moving in (False, True))
    poses, ball = moved.cam2world, np.array([-1.5, 0.2, 1.2])
    world = analytic._world(np.random.default_rng(1), True)
    left = np.stack([analytic._render(world, ball, pose, moved.intrinsics[0], 64, 64)[0] for pose in poses])
    scene = {"truth": moved.frames, "dynamic": moved.dynamic, "background": still.frames, "depth": moved.depth}
    scene |= {"cameras": camera_of(moved), "given": 3}
    assert moved.dynamic[2].sum() > 12
    assert objects.score(moved.frames, **scene)["ghosting"] == 0
    assert objects.score(still.frames, **scene)["ghosting"] == 0
    ghosts = objects.score(left, **scene)
    assert ghosts["ghosting"] > 0.9


@pytest.mark.parametrize("shift", [(0, 2), (-7, 0), (3, -4)])
def test_a_displaced_object_is_found_where_it_is(scene, shift):
    frames = scene[0]["background"].copy()
    for t in (t for t in range(COUNT) if t not in AWAY):
        _paint(frames, t, (_place(t)[0] + shift[0], max(0, _place(t)[1] + shift[1])), scene[1])
    found = _score(scene, frames)
    assert found["found"] == 1
    np.testing.assert_allclose(found["centroid_error"], np.hypot(*shift) / SIDE, rtol=1e-6)
    assert found["look"] < 1e-6, "it looks as it should"
    assert found["object_lpips"] > 0.02
    assert found["detected"] == (max(np.abs(shift)) < 3), "nearly in place is in place"


def test_another_colour_is_another_look(scene):
    """The green of the object goes to grey by more and more."""
    truth, dynamic = scene[0]["truth"], scene[0]["dynamic"]
    looks = []
    for share in (0.0, 0.3, 0.6):
        grey = truth.copy().astype(float)
        grey[..., 1] = np.where(dynamic, (1 - share) * grey[..., 1] + share * 128, grey[..., 1])
        found = _score(scene, grey.astype(np.uint8))
        assert found["detected"] == 1
        looks.append(found["look"])
    assert looks[0] < 1e-6
    assert looks[1] > 1e-3
    assert looks[2] > 1.5 * looks[1]


def test_noise_and_a_flat_colour_show_nothing(scene):
    random = np.random.default_rng(1)
    shape = scene[0]["truth"].shape
    for frames in (random.integers(0, 256, shape), np.full(shape, 128)):
        found = _score(scene, frames.astype(np.uint8))
        assert (found["detected"], found["ghosting"]) == (0, 0)
    white = np.full(shape, 255, np.uint8)  # closer to the bright object than to the dark wall, but not it
    assert _score(scene, white)["detected"] == 0


def test_an_object_that_lags_behind_is_no_ghost_where_it_still_overlaps_itself(scene):
    frames = scene[0]["background"].copy()
    for t in range(2, AWAY.start):
        _paint(frames, t, _place(t - 2), scene[1])
    found = _score(scene, frames)
    assert found["visible"]["ghosting"] == 0
    assert found["visible"]["centroid_error"] > 0.3


def test_shuffled_frames_are_worse_in_everything(scene):
    truth = scene[0]["truth"]
    shuffled = truth[np.random.default_rng(2).permutation(COUNT)]
    found = _score(scene, shuffled)
    assert found["object_psnr"] < 30
    assert found["background_psnr"] < 70
    assert found["detected"] < 0.3
    assert found["ghosting"] > 0.1


def test_what_the_given_frames_do_not_show_is_not_asked_for(scene):
    frames = scene[0]["truth"]
    truth, instances = frames.copy(), scene[0]["dynamic"].astype(np.uint8)
    for t in range(18, COUNT):
        _paint(truth, t, (50, 48), scene[1])
        _paint(instances, t, (50, 48), 2)
    changed = {"truth": truth, "dynamic": instances > 0, "instances": instances}
    found = _score(scene, frames, **changed)
    assert (found["background_psnr"], found["object_psnr"], found["detected"]) == (120, 120, 1)
    assert _score(scene, frames, **changed, given=20)["detected"] == 0.5


def test_what_needs_more_than_masks_is_none_without_it(scene):
    truth = scene[0]["truth"]
    found = objects.score(truth, truth, scene[0]["dynamic"])
    assert found["object_psnr"] == 120
    assert found["object_frames"] == 15
    assert {name for name, value in found.items() if value is None} == {
        *("detected", "found", "centroid_error", "look", "ghosting")
    }
    with pytest.raises(ValueError, match="do not belong to one video"):
        objects.score(truth, truth, scene[0]["dynamic"][1:])


def test_parts_are_looked_for_apart_without_names(scene):
    truth, dynamic, background = scene[0]["truth"].copy(), scene[0]["dynamic"].copy(), scene[0]["background"]
    for t in range(COUNT):
        _paint(truth, t, (50, 50), scene[1])
        _paint(dynamic, t, (50, 50), True)
    frames = truth.copy()
    frames[:, 40:] = background[:, 40:]
    found = objects.score(frames, truth, dynamic, background)
    np.testing.assert_allclose(found["detected"], 15 / (15 + COUNT - 1))


def test_phases():
    seen = np.array([0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 1, 0, 1, 0], bool)
    v, d, r = objects.PHASES
    assert objects._phases(seen) == ["", v, v, "", "", v, d, d, d, d, r, "", r, d]


@pytest.mark.parametrize(
    ("percent", "name"), [(0, "none"), (0.5, "0-1"), (1, "1-5"), (4.9, "1-5"), (5, "5-15"), (15, "15+"), (100, "15+")]
)
def test_motion_class(percent, name):
    dynamic = np.zeros((10, 10, 10), bool)
    dynamic.flat[: round(10 * percent)] = True
    assert objects.motion_class(dynamic) == name
    assert name in objects.MOTION_CLASSES


def test_a_scene_in_which_nothing_moves_has_a_background(scene):
    still = {name: np.zeros_like(scene[0][name]) for name in ("dynamic", "instances")}
    found = _score(scene, scene[0]["background"], truth=scene[0]["background"], **still)
    assert found["background_psnr"] == 120 and found["background_lpips"] < 1e-6
    assert found["object_psnr"] is None and all(found[phase]["background_psnr"] is None for phase in objects.PHASES)

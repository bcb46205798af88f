"""Rooms with moving objects: geometry, what moves, and that a seed gives the same clip."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from experiments.worlds import batch, verify
from experiments.worlds.clips import FOCAL
from experiments.worlds.miniworld import jobs, scenes
from experiments.worlds.part import build
from mirage_jax import data
from mirage_jax.data.clip import OBJECT_FIELDS, check
from mirage_jax.errors import UserError

SIZE, FRAMES = 48, 33


@pytest.fixture(scope="module")
def canvases():
    try:
        return jobs.canvases(SIZE)
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def away(canvases):
    """A camera that looks away from what moves, and back."""
    return _rendered("look_away", "5-15", seed=8)


@pytest.fixture(scope="module")
def orbit(canvases):
    return _rendered("orbit", "none")


def _rendered(kind, motion, seed=3):
    (job,) = jobs.jobs("test", 1, seed=seed, frames=FRAMES, size=SIZE, kinds=(kind,), motions=(motion,))
    rendered = batch.render_one(job)
    check(rendered.clip)
    return rendered.clip


def test_one_frame_warps_onto_another(orbit):
    found = verify.residuals(orbit, 0, 8)
    assert found.overlap > 0.5 and found.depth < 0.005 and found.photometric < 0.03 and found.contradiction < 0.02
    shifted = orbit.cam2world.copy()
    shifted[8, :3, 3] += 0.15 * shifted[8, :3, 0]
    assert verify.residuals(dataclasses.replace(orbit, cam2world=shifted), 0, 8).depth > 2 * found.depth


def test_depth_of_the_floor_is_that_of_a_plane(orbit):
    """The floor is y = 0, so rays through its pixels say how far it is: an oracle apart from the renderer."""
    v, u = np.mgrid[:SIZE, :SIZE] + 0.5
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(orbit.intrinsics[0]).T @ orbit.cam2world[0, :3, :3].T
    with np.errstate(divide="ignore"):
        floor = np.where(rays[..., 1] < 0, -orbit.cam2world[0, 1, 3] / rays[..., 1], np.inf)
    on_floor = np.isfinite(floor) & (np.abs(orbit.depth[0] / floor - 1) < 0.002)
    assert on_floor[-1].mean() > 0.3 and not (orbit.depth[0] > 1.002 * floor).any()


def test_what_moves_is_where_the_two_renders_differ(away):
    differs = (away.frames != away.background).any(-1)
    assert not (differs & ~away.dynamic).any()
    assert (differs & away.dynamic).sum() > 0.9 * away.dynamic.sum()
    np.testing.assert_array_equal(away.dynamic, away.instances > 0)
    low, high = scenes.MOTION["5-15"]
    assert low <= away.dynamic.mean() <= high


def test_a_still_room_is_its_own_background(orbit):
    np.testing.assert_array_equal(orbit.frames, orbit.background)
    assert not orbit.dynamic.any() and np.isnan(orbit.tracks).all()


def test_objects_are_where_their_tracks_say(away):
    checked = 0
    for t in range(FRAMES):
        world2cam = np.linalg.inv(away.cam2world[t])
        for number in np.unique(away.instances[t][away.instances[t] > 0]):
            x, y, z = world2cam[:3, :3] @ away.tracks[t, number - 1] + world2cam[:3, 3]
            focal = FOCAL * SIZE
            column, row = int(focal * x / z + SIZE / 2), int(focal * y / z + SIZE / 2)
            inside = 4 <= column < SIZE - 4 and 4 <= row < SIZE - 4 and z > 0
            if inside and (away.instances[t] == number).sum() > 40:
                checked += 1
                rows, columns = np.nonzero(away.instances[t] == number)
                assert rows.min() - 1 <= row <= rows.max() + 1 and columns.min() - 1 <= column <= columns.max() + 1
    assert checked >= 3


def test_objects_go_on_moving_while_nobody_looks(away):
    seen = away.dynamic.any((1, 2))
    assert seen[0] and seen[-1] and not seen.all()
    unseen = np.flatnonzero(~seen)
    tracks = away.tracks[:, ~np.isnan(away.tracks[0, :, 0])]
    steps = np.linalg.norm(np.diff(tracks[unseen[0] - 1 : unseen[-1] + 2], axis=0), axis=-1)
    assert (steps > 0).all() and steps.sum(axis=0).max() > 0.02


def test_a_seed_gives_the_same_clip_and_another_seed_another(away):
    again = _rendered("look_away", "5-15", seed=8)
    for name, array in away.arrays().items():
        np.testing.assert_array_equal(array, getattr(again, name), err_msg=name)
    rooms = [scenes.scene(np.random.default_rng([scenes.SPLITS[split], 5])) for split in ("train", "test", "test")]
    assert rooms[1].lamp == rooms[2].lamp != rooms[0].lamp


@pytest.mark.parametrize("kind", ["there_and_back", "closed_loop"])
def test_returning_paths_end_where_they_began(canvases, kind):
    clip = _rendered(kind, "none")
    np.testing.assert_array_equal(clip.frames[0], clip.frames[-1])
    assert np.abs(clip.cam2world - clip.cam2world[0]).max() > 0.1


def test_a_part_comes_back_as_rendered(canvases, rendering_here, tmp_path):
    seen = []
    sizes = {"clips": 2, "seed": 1, "frames": 9, "size": 32, "kinds": ("orbit",), "motions": ("none", "1-5")}
    with rendering_here():
        part = build(jobs.WORLD, tmp_path, "validation", **sizes, progress=seen.append)
    source = data.load_source(tmp_path, "validation")
    again = {job.index: batch.render_one(job).clip for job in (r.job for r in seen)}
    clips = {clip.source: clip for clip in map(source.clip, range(2))}
    for clip in again.values():
        for name, array in clip.arrays().items():
            np.testing.assert_array_equal(array, getattr(clips[clip.source], name), err_msg=name)
        assert set(OBJECT_FIELDS) <= set(clip.arrays())
    report = json.loads((part / "report.json").read_text())
    assert report["clips"]["by_motion"] == {"1-5": 1, "none": 1}
    assert sum(report["rejected"].values()) == sum(sum(outcome.rejected.values()) for outcome in seen)


def test_textures_are_what_pyglet_makes_of_them(canvases):
    import miniworld
    import pyglet

    path = str(pathlib.Path(miniworld.__file__).parent / "textures" / "cardboard_4.png")  # without an alpha channel
    image = pyglet.image.load(path)
    with open(path, "rb") as file:
        slow = pyglet.image.codecs.get_decoders(path)[0].decode(file, path)
    assert (image.width, image.height) == (slow.width, slow.height) == (256, 256)
    pixels = [np.frombuffer(x.get_data("RGBA", 4 * 256), np.uint8).reshape(256, 256, 4) for x in (image, slow)]
    np.testing.assert_array_equal(*(x[..., :3] for x in pixels))  # all that MiniWorld keeps of them


def test_a_machine_without_opengl_is_told_what_to_install():
    program = (
        "import ctypes.util; ctypes.util.find_library = lambda name: None\n"
        "import ctypes; real = ctypes.cdll.LoadLibrary\n"
        "def missing(name):\n    raise OSError(f'{name}: cannot open shared object file')\n"
        "ctypes.cdll.LoadLibrary = missing\n"
        "from mirage_jax.errors import UserError\n"
        "try:\n    from experiments.worlds.miniworld import canvas\n"
        "except UserError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "sudo apt-get install libegl1" in done.stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [({"kinds": ("fly",)}, "--kinds is fly"), ({"motions": ("much",)}, "--motions is much"), ({"frames": 10}, "4k")],
)
def test_wrong_input_is_named(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        build(jobs.WORLD, tmp_path, "test", **({"clips": 1, "seed": 0} | change))

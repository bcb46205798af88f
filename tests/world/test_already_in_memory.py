"""Writing what is new only: a place stays as it was first seen, and what was not seen, or not so closely, is added."""

import dataclasses
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.bench import room
from mirage_jax import world
from mirage_jax.geometry import Camera
from mirage_jax.memory import latent
from mirage_jax.memory.comparison import compare
from mirage_jax.memory.points import Readout

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import tiny_world as tiny


def known(depth, sky, readout):
    return compare(None, depth, sky, None, readout).known


@pytest.mark.parametrize(
    ("depth", "sky", "visible", "shown", "scale", "expected"),
    [
        (4.0, False, True, 4.0, 1.0, True),
        (4.0, False, True, 4.5, 1.0, True),
        (4.0, False, True, 3.5, 1.5, True),
        (4.0, False, True, 5.0, 1.0, False),  # another surface behind
        (4.0, False, True, 3.2, 1.0, False),  # or before
        (4.0, False, True, 4.0, 1.6, False),  # seen from too far away
        (4.0, False, True, 4.0, 0.2, True),  # seen from nearer
        (4.0, False, False, 0.0, 0.0, False),  # not seen
        (np.inf, True, True, np.inf, 1.0, True),
        (np.inf, True, True, 4.0, 1.0, False),
        (4.0, False, True, np.inf, 1.0, False),
        (2.0, True, True, np.inf, 1.0, True),  # the heads give a depth for the sky too
        (0.0, False, True, 4.0, 1.0, False),  # unknown depth is like nothing
        (np.nan, False, True, 4.0, 1.0, False),
        (np.inf, False, True, np.inf, 1.0, False),
    ],
)
def test_a_cell_is_known_where_the_memory_shows_its_surface_as_finely(depth, sky, visible, shown, scale, expected):
    cell = lambda x: jnp.asarray(x).reshape(1, 1, 1)  # noqa: E731
    readout = Readout(features=jnp.zeros((1, 1, 1, 2)), visible=cell(visible), depth=cell(shown), scale=cell(scale))
    found = known(cell(depth), cell(sky), readout)
    assert found.shape == (1, 1, 1) and bool(found[0, 0, 0]) == expected


@pytest.mark.parametrize(
    ("depth", "sky", "beside", "expected"),
    [
        (4.0, False, 4.2, True),  # what goes on behind the outline is shown beside it
        (4.0, False, 6.0, False),  # what is beside is something else
        (1.0, False, 1.0, False),  # before what is shown nothing is hidden
        (np.inf, True, np.inf, True),
        (np.inf, True, 4.0, False),
        (4.0, False, np.inf, False),
    ],
)
def test_what_an_outline_hides_is_known_if_it_is_shown_beside_it(depth, sky, beside, expected):
    shown = np.full((1, 3, 3), 2.0, np.float32)
    shown[0, 2, 0] = beside
    whole = lambda x: jnp.full((1, 3, 3), x)  # noqa: E731
    readout = Readout(features=jnp.zeros((1, 3, 3, 2)), visible=whole(True), depth=shown, scale=whole(1.0))
    for coarse in (False, True):
        readout = readout.replace(scale=readout.scale.at[0, 2, 0].set(2.0 if coarse else 1.0))
        found = known(whole(depth), whole(sky), readout)
        assert bool(found[0, 1, 1]) == (expected and not coarse)


def test_walking_one_loop_again_adds_next_to_nothing_and_shows_as_much():
    """Twelve turns on the spot in a furnished room, with depth that is off by 3 % anew each time."""
    height, width, steps, rng = 22, 40, 12, np.random.default_rng(0)
    turn = 2 * np.pi * np.arange(steps) / steps
    poses = np.stack([room.pose(0.5 * np.sin(a), 1.0 + 0.5 * np.cos(a), a) for a in turn]).astype(np.float32)
    k = room.intrinsics(height, width)
    cameras = Camera(np.tile(k.astype(np.float32), (steps, 1, 1)), poses, height, width)
    depth = np.stack([room.depth_and_points(k, pose.astype(float), height, width)[0] for pose in poses])

    def look(memory, seen):
        depth, camera = jax.tree.map(lambda x: x[None], seen)
        shown = latent.read(memory, camera, max_footprint=3)
        new = ~known(depth, jnp.zeros(depth.shape, bool), shown)
        return latent.write(memory, jnp.zeros((*depth.shape, 1)), depth, camera, new), None

    loop = jax.jit(lambda memory, depth: jax.lax.scan(look, memory, (depth, cameras))[0])
    memory, points = latent.create(2 * depth.size, 1), []
    for _ in range(12):
        memory = loop(memory, (depth * np.exp(0.03 * rng.normal(size=depth.shape))).astype(np.float32))
        points.append(int(memory.size))
    assert points[-1] <= 1.02 * points[0], points
    shown = latent.read(memory, cameras, max_footprint=3)
    assert shown.visible.all()
    assert (np.abs(np.log(shown.depth / depth)) > 0.15).mean() < 0.01


@pytest.fixture(scope="module")
def params():
    return tiny.parameters(tiny.model())


@pytest.mark.parametrize("memory", ["latent", "rgb"])
def test_a_known_place_is_not_written_again_and_a_new_one_is(params, memory):
    size = (tiny.SIZE, tiny.SIZE)
    wall = np.full((2, 8, *size), 4.0, np.float32)
    wall[1, :, :, : tiny.SIZE // 4] = 8.0  # in the second segment a quarter of it has opened on another one
    config = tiny.config(memory, depth_source="given", merge="first")
    state = world.init(config, params, tiny.image(), wall[0, 0], tiny.camera(), jax.random.key(1))
    known = world.KnownGeometry(depth=jnp.asarray(wall))
    after, output = world.rollout(config, params, state, tiny.path("pause", 2), known=known)
    first = int(state.memory.size)
    assert first > 0 and first % 4 == 0
    assert output.diagnostics.points.tolist() == [0, 2 * first // 4]
    assert output.diagnostics.kept.tolist() == [1.0, 1.0], (
        "what may be remembered is one thing, what is written another"
    )
    for name in ("points", "features"):
        np.testing.assert_array_equal(getattr(after.memory, name)[:first], getattr(state.memory, name)[:first])


def test_a_rollout_of_what_is_new_holds_less_and_shows_as_much(params):
    path, seen = tiny.path("yaw 60; back", 3), {}
    for rule in ("all", "first"):
        config = tiny.config(depth_source="given", merge=rule)
        state = world.init(config, params, tiny.image(), _ball(), tiny.camera(), jax.random.key(1))
        known = world.KnownGeometry(depth=jnp.broadcast_to(_ball(), (3, 8, tiny.SIZE, tiny.SIZE)))
        after, output = world.rollout(config, params, state, path, known=known)
        seen[rule] = int(after.memory.size), float(output.diagnostics.visible[-1].mean())
    assert seen["first"][0] < 0.7 * seen["all"][0]
    assert seen["first"][1] >= seen["all"][1] - 0.05


def _ball():
    """z-depth of a ball of 5 m around the camera, `[H, W]`: the same from every direction."""
    camera = tiny.camera()
    rays = np.stack(np.meshgrid(*(np.arange(tiny.SIZE) + 0.5,) * 2), axis=-1)
    across = (rays - np.asarray(camera.intrinsics)[:2, 2]) / np.asarray(camera.intrinsics)[0, 0]
    return jnp.asarray(5.0 / np.sqrt(1.0 + (across**2).sum(-1)), jnp.float32)


def test_what_is_written_is_as_the_models_recipe_says_unless_the_caller_does():
    config = dataclasses.replace(tiny.config(), model=dataclasses.replace(tiny.model(), recipe="default"))
    assert dataclasses.replace(config, recipe=None).recipe.merge == "first"
    assert dataclasses.replace(config, recipe=world.RELEASE).recipe.merge == "all"

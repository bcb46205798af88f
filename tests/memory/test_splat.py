"""What footprints promise beyond equality with the twin (test_latent)."""

import functools

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from test_latent import CHANNELS, camera, random_world, tokens

from mirage_jax.geometry import Camera
from mirage_jax.memory import latent
from mirage_jax.memory.splat import SURFACE_TOLERANCE

GRID, FOCAL = 16, 8.0

write = jax.jit(latent.write)
nearest = jax.jit(latent.read)
footprint = jax.jit(functools.partial(latent.read, max_footprint=3))


def standing(*positions):
    """Cameras that look along z, 90 degrees wide, from these places."""
    return camera(np.zeros((len(positions), 3)), np.array(positions, float), GRID, GRID, FOCAL)


def plane(z, camera_z, inside=None):
    """Depth `[1, h, w]` of a plane facing the camera, and the mask where `inside(x, y)` holds on it."""
    u, v = np.meshgrid(np.arange(GRID) + 0.5 - GRID / 2, np.arange(GRID) + 0.5 - GRID / 2)
    depth = np.full((1, GRID, GRID), z - camera_z, np.float32)
    x, y = u * depth / FOCAL, v * depth / FOCAL
    return depth, np.ones(depth.shape, bool) if inside is None else inside(x, y)


def wall_behind_plate():
    """A wall at 10 m that one frame saw, and a square plate at 4 m, seen by a later one: the readers' scene."""
    rng = np.random.default_rng(0)
    memory = latent.create(2 * GRID * GRID, CHANNELS)
    for z, inside in ((10.0, None), (4.0, lambda x, y: np.maximum(abs(x), abs(y)) < 2)):
        depth, keep = plane(z, 0.0, inside)
        memory = write(memory, tokens(rng, 1, GRID, GRID), depth, standing((0, 0, 0)), keep)
    return memory


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6))
def test_footprint_sees_at_least_what_nearest_sees_and_little_behind_it(seed):
    memory, _, cameras = random_world(seed)
    sharp, wide = nearest(memory, cameras), footprint(memory, cameras)
    assert (wide.visible | ~sharp.visible).all()
    size = np.asarray(memory.cell_size)[np.maximum(wide.index, 0)]
    both = np.asarray(sharp.visible)
    assert (np.asarray(wide.depth)[both] <= (np.asarray(sharp.depth) + SURFACE_TOLERANCE * size)[both]).all()


def test_walking_towards_a_wall_leaves_no_holes_in_it():
    depth, keep = plane(8.0, 0.0)
    features = tokens(np.random.default_rng(0), 1, GRID, GRID)
    memory = write(latent.create(GRID * GRID, CHANNELS), features, depth, standing((0, 0, 0)), keep)
    closer = standing((0.13, -0.21, 4.5))
    assert nearest(memory, closer).visible.mean() < 0.4
    assert footprint(memory, closer).visible.all()


def test_footprint_is_no_larger_than_asked():
    depth, keep = plane(8.0, 0.0)
    keep = np.zeros_like(keep)
    keep[0, 7, 7] = True
    features = tokens(np.random.default_rng(0), 1, GRID, GRID)
    memory = write(latent.create(10, CHANNELS), features, depth, standing((0, 0, 0)), keep)
    touching = standing((0, 0, 7.2))
    assert [int(latent.read(memory, touching, max_footprint=k).visible.sum()) for k in (1, 3, 5)] == [1, 9, 25]


def test_what_is_behind_does_not_show_through_the_gaps_of_what_is_in_front():
    memory = wall_behind_plate()
    closer = standing((0.1, 0.05, 2.2))
    silhouette = slice(3, 13)  # well inside the plate, which is 35 cells wide from there
    through_gaps = np.asarray(nearest(memory, closer).depth)[0, silhouette, silhouette] > 5
    assert through_gaps.mean() > 0.05
    assert (np.asarray(footprint(memory, closer).depth)[0, silhouette, silhouette] < 2).all()


def test_exact_tokens_of_a_revisited_view_though_others_saw_the_same_surface():
    rng = np.random.default_rng(0)
    memory = latent.create(3 * GRID * GRID, CHANNELS)
    home = standing((0, 0, 0))
    features = tokens(rng, 1, GRID, GRID)
    for where, new, error in ((home, features, 1.0), (standing((0.3, 0.1, 0.5)), tokens(rng, 1, GRID, GRID), 0.95)):
        depth, keep = plane(8.0, where.cam2world[0, 2, 3])
        memory = write(memory, new, depth * np.float32(error), where, keep)
    # The second look placed the wall 5 % too near: z-buffering alone prefers it, the middle of the cell does not.
    assert (np.asarray(nearest(memory, home).features) != features).any()
    np.testing.assert_array_equal(footprint(memory, home).features, features)


def test_scale_tells_how_magnified():
    depth, keep = plane(8.0, 0.0)
    features = tokens(np.random.default_rng(0), 1, GRID, GRID)
    memory = write(latent.create(GRID * GRID, CHANNELS), features, depth, standing((0, 0, 0)), keep)
    np.testing.assert_allclose(footprint(memory, standing((0, 0, 4.0))).scale, 2, rtol=1e-5)


def test_points_equally_far_from_the_centre_are_a_tie_on_every_path():
    """Mirrored in the diagonal, two points are equally far from its cells: to the last bit only if sums round alike."""
    rng = np.random.default_rng(0)
    k = np.array([[[FOCAL, 0, GRID / 2], [0, FOCAL, GRID / 2], [0, 0, 1]]], np.float32)
    cameras = Camera(k, np.eye(4, dtype=np.float32)[None], GRID, GRID)
    cells = np.arange(GRID)
    u, v = cells + 0.5 + rng.uniform(-0.45, 0.45, (2, GRID)) - GRID / 2
    x, y, z = (u * 3 / FOCAL).astype(np.float32), (v * 3 / FOCAL).astype(np.float32), np.full(GRID, 3, np.float32)
    points = np.stack([np.stack([x, y, z, z / 3], axis=-1), np.stack([y, x, z, z / 3], axis=-1)])
    for order in (points, points[::-1]):
        columns = dict(zip("xyzw", order.reshape(-1, 4).T, strict=True))
        memory = latent.create(2 * GRID, CHANNELS).replace(
            **columns, cell_size=np.full(2 * GRID, 3 / FOCAL, np.float32), size=np.int32(2 * GRID)
        )
        for read in (footprint, functools.partial(latent.read, max_footprint=3)):
            np.testing.assert_array_equal(np.asarray(read(memory, cameras).index)[0, cells, cells], cells + GRID)

"""Projection and lifting against float64 matrix products, and the conventions on paper."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirage_jax import geometry
from mirage_jax.geometry import Camera, rays, rigid_inverse, se3

HEIGHT, WIDTH = 5, 7
so3_exp, lift, project = jax.jit(se3.so3_exp), jax.jit(geometry.lift), jax.jit(geometry.project)
ray_directions = jax.jit(geometry.ray_directions)


def cameras(seed, count=None):
    """Random cameras: skew, off-centre principal points, any pose."""
    rng = np.random.default_rng(seed)
    shape = () if count is None else (count,)
    intrinsics = np.zeros((*shape, 3, 3), np.float32)
    intrinsics[..., 0, 0], intrinsics[..., 1, 1] = rng.uniform(3, 9, (2, *shape))
    intrinsics[..., 0, 1] = rng.uniform(-0.3, 0.3, shape)
    intrinsics[..., 0, 2], intrinsics[..., 1, 2] = rng.uniform(1, 5, (2, *shape))
    intrinsics[..., 2, 2] = 1
    cam2world = np.zeros((*shape, 4, 4), np.float32)
    cam2world[..., :3, :3] = so3_exp(rng.normal(size=(*shape, 3)).astype(np.float32))
    cam2world[..., :3, 3] = rng.normal(size=(*shape, 3)) * 3
    cam2world[..., 3, 3] = 1
    return Camera(intrinsics=intrinsics, cam2world=cam2world, height=HEIGHT, width=WIDTH)


def project_by_matrices(camera, points):
    """Twin: `K E p` in float64 with matrix products; `points` homogeneous."""
    local = points.astype(np.float64) @ np.linalg.inv(np.float64(camera.cam2world)).T
    image = local[..., :3] @ np.float64(camera.intrinsics).T
    return image[..., :2] / image[..., 2:], local[..., 2]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0.0, 1.0]))
def test_projection_is_the_product_of_matrices(seed, w):
    camera = cameras(seed)
    points = np.random.default_rng(seed).normal(size=(40, 4)).astype(np.float32) * 4
    points[:, 3] = w
    uv, depth = project(camera, points)
    expected_uv, expected_depth = project_by_matrices(camera, points)
    np.testing.assert_allclose(depth, expected_depth, atol=2e-5)
    front = expected_depth > 0.5
    np.testing.assert_allclose(np.asarray(uv)[front], expected_uv[front], atol=2e-3)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_a_lifted_cell_projects_to_its_centre(seed):
    camera = cameras(seed, 3)
    depth = np.random.default_rng(seed).uniform(0.5, 20, (3, HEIGHT, WIDTH)).astype(np.float32)
    uv, again = project(camera, lift(camera, depth))
    columns, rows = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    np.testing.assert_allclose(uv, np.broadcast_to(np.stack([columns, rows], -1), uv.shape), atol=1e-3)
    np.testing.assert_allclose(again, depth, rtol=1e-4)


def test_conventions_on_paper():
    """Stands at (1, 2, 3), looks along world +x, its right is world -z and its down world +y."""
    pose = np.array([[0, 0, 1, 1], [0, 1, 0, 2], [-1, 0, 0, 3], [0, 0, 0, 1]], np.float32)
    intrinsics = np.array([[80, 0, 70], [0, 96, 45], [0, 0, 1]], np.float32)
    camera = Camera(intrinsics=intrinsics, cam2world=pose, height=96, width=128)
    uv, depth = project(camera, np.array([5.0, 2.5, 2.0], np.float32))
    np.testing.assert_allclose(uv, [90, 57], atol=1e-5)
    assert depth == 4
    half = camera.resized(48, 32)
    np.testing.assert_allclose(project(half, np.array([5.0, 2.5, 2.0]))[0], [90 / 4, 57 / 2], atol=1e-5)
    assert (half.height, half.width) == (48, 32)
    with pytest.raises(ValueError, match="at least 1x1, got 0x3"):
        camera.resized(0, 3)


def test_rays_and_directions_meet_the_lifted_points():
    camera = cameras(4, 2)
    assert np.all(np.asarray(rays(camera))[..., 2] == 1)
    depth = np.full((2, HEIGHT, WIDTH), 3.0, np.float32)
    towards = np.asarray(lift(camera, depth)) - camera.cam2world[:, None, None, :3, 3]
    towards /= np.linalg.norm(towards, axis=-1, keepdims=True)
    np.testing.assert_allclose(ray_directions(camera), towards, atol=1e-5)
    # The sky: a direction projects to the cell it was lifted from, whatever the position.
    sky = np.concatenate([ray_directions(camera), np.zeros((2, HEIGHT, WIDTH, 1))], -1).astype(np.float32)
    elsewhere = camera.cam2world.copy()
    elsewhere[:, :3, 3] += 100
    uv, depth = project(camera.replace(cam2world=elsewhere), sky)
    np.testing.assert_allclose(uv[0, 2, 3], [3.5, 2.5], atol=1e-3)
    assert np.all(np.asarray(depth) > 0)


def test_depth_that_is_not_finite_gives_points_that_are_not():
    points = np.asarray(lift(cameras(0), np.full((HEIGHT, WIDTH), np.nan, np.float32)))
    assert np.isnan(points).all()


def test_inverse_indexing_and_length():
    camera = cameras(1, 4)
    product = np.asarray(camera.world2cam, np.float64) @ camera.cam2world
    np.testing.assert_allclose(product, np.tile(np.eye(4), (4, 1, 1)), atol=1e-5)
    assert len(camera) == 4
    assert camera[1:3].shape == (2,)
    assert camera[2].shape == ()
    assert np.array_equal(camera[2].cam2world, camera.cam2world[2])
    np.testing.assert_allclose(rigid_inverse(camera[2].cam2world), camera.world2cam[2], atol=1e-6)


def test_a_camera_is_a_tree_whose_size_is_static():
    camera = cameras(2, 3)
    leaves, tree = jax.tree.flatten(camera)
    assert len(leaves) == 2
    again = jax.tree.unflatten(tree, leaves)
    assert (again.height, again.width) == (HEIGHT, WIDTH)
    points = np.zeros((3, 2, 3), np.float32)
    mapped = jax.vmap(project)(camera, points)[1]
    np.testing.assert_allclose(mapped, project(camera, points)[1], atol=1e-6)
    with pytest.raises(ValueError, match="fewer axes than cameras"):
        project(camera[None], np.zeros((3,)))

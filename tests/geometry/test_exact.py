"""Positions must be a function of their inputs alone: eager, compiled, batched, scanned, constant or not."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mirage_jax.geometry import Camera, lift, project, ray_directions, se3
from mirage_jax.geometry.exact import dot3, product

HEIGHT, WIDTH, VIEWS = 8, 12, 3


def cameras_and_points():
    rng = np.random.default_rng(0)
    k = np.tile(np.array([[11.3, 0.07, 6.1], [0, 9.7, 4.2], [0, 0, 1]], np.float32), (VIEWS, 1, 1))
    k[:, 0, 0] += rng.uniform(0, 5, VIEWS).astype(np.float32)
    cam2world = np.tile(np.eye(4, dtype=np.float32), (VIEWS, 1, 1))
    cam2world[:, :3, :3] = np.asarray(se3.so3_exp(rng.normal(size=(VIEWS, 3)).astype(np.float32)))
    cam2world[:, :3, 3] = rng.normal(size=(VIEWS, 3))
    points = np.concatenate([rng.normal(size=(4000, 3)) * 4, rng.integers(0, 2, (4000, 1))], axis=-1)
    depth = rng.uniform(0.1, 20, (VIEWS, HEIGHT, WIDTH))
    return k, cam2world, points.astype(np.float32), depth.astype(np.float32)


def rotated(r, vector):
    return [r[..., i, 0] * vector[0] + r[..., i, 1] * vector[1] + r[..., i, 2] * vector[2] for i in range(3)]


def numpy_project(k, cam2world, points):
    """`project` transcribed, operation by operation, in float32."""
    inverse = np.swapaxes(cam2world[:, :3, :3], -1, -2)
    shift = [-s for s in rotated(inverse, [cam2world[:, i, 3] for i in range(3)])]
    inverse, k = inverse[:, None], k[:, None]
    x, y, z = rotated(inverse, [points[:, i] for i in range(3)])
    x, y, z = (c + s[:, None] * points[:, 3] for c, s in zip((x, y, z), shift, strict=True))
    safe = np.where(z == 0, np.float32(1), z)
    x, y = x / safe, y / safe
    uv = np.stack([k[..., 0, 0] * x + k[..., 0, 1] * y + k[..., 0, 2], k[..., 1, 1] * y + k[..., 1, 2]], axis=-1)
    return uv, z


def numpy_rays(k):
    u, v = np.meshgrid(np.arange(WIDTH, dtype=np.float32) + 0.5, np.arange(HEIGHT, dtype=np.float32) + 0.5)
    k = k[:, None, None]
    y = (v - k[..., 1, 2]) * (1 / k[..., 1, 1])
    return (u - k[..., 0, 2] - k[..., 0, 1] * y) * (1 / k[..., 0, 0]), y, np.ones_like(y)


def numpy_lift(k, cam2world, depth):
    pose = cam2world[:, None, None]
    return np.stack(rotated(pose, [c * depth for c in numpy_rays(k)]), axis=-1) + pose[..., :3, 3]


def numpy_directions(k, cam2world):
    x, y, z = rotated(cam2world[:, None, None], numpy_rays(k))
    length = np.sqrt(x * x + y * y + z * z)
    return np.stack([x / length, y / length, z / length], axis=-1)


def paths(function, *arguments):
    """The same call compiled in every way a caller may choose; the first arguments are the cameras."""
    yield "eager", function(*arguments)
    yield "jit", jax.jit(function)(*arguments)
    yield "constant cameras", jax.jit(lambda *rest: function(*arguments[:2], *rest))(*arguments[2:])
    yield "constant rest", jax.jit(lambda *cameras: function(*cameras, *arguments[2:]))(*arguments[:2])
    yield "all constant", jax.jit(lambda: function(*arguments))()


def assert_same_bits(results, expected):
    for name, result in results:
        for got, want in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
            np.testing.assert_array_equal(np.asarray(got), want, err_msg=name)


def test_project_is_the_numpy_transcription_on_every_path():
    k, cam2world, points, _ = cameras_and_points()

    def whole(k, cam2world, points):
        return project(Camera(k, cam2world, HEIGHT, WIDTH), points[None])

    def batched(k, cam2world, points):
        return jax.vmap(lambda k, m: project(Camera(k, m, HEIGHT, WIDTH), points))(k, cam2world)

    def scanned(k, cam2world, points):
        return lax.map(lambda a: project(Camera(*a, HEIGHT, WIDTH), points), (k, cam2world))

    expected = numpy_project(k, cam2world, points)
    for function in (whole, batched, scanned):
        assert_same_bits(paths(function, k, cam2world, points), expected)


def test_lift_and_directions_are_the_numpy_transcription_on_every_path():
    k, cam2world, _, depth = cameras_and_points()

    def lifted(k, cam2world, depth):
        return lift(Camera(k, cam2world, HEIGHT, WIDTH), depth)

    def directions(k, cam2world):
        return ray_directions(Camera(k, cam2world, HEIGHT, WIDTH))

    assert_same_bits(paths(lifted, k, cam2world, depth), numpy_lift(k, cam2world, depth))
    assert_same_bits(paths(directions, k, cam2world), numpy_directions(k, cam2world))


def test_sums_of_products_round_like_numpy_under_jit():
    a, b, c, d = np.random.default_rng(1).normal(size=(4, 10000)).astype(np.float32)
    exact = jax.jit(lambda a, b, c, d: product(a, b) + product(c, d))(a, b, c, d)
    np.testing.assert_array_equal(np.asarray(exact), a * b + c * d)


def test_lift_of_what_is_not_finite_is_not_finite():
    k, cam2world, _, depth = cameras_and_points()
    depth[0, 0, :3] = np.inf, -np.inf, np.nan
    points = np.asarray(lift(Camera(k, cam2world, HEIGHT, WIDTH), depth))
    assert np.isnan(points[0, 0, :3]).all()
    assert np.isfinite(points[1:]).all()


def test_gradients_pass_through_the_clamp():
    gradient = jax.grad(lambda a, b: dot3((a, a, a), (b, b, b)))(2.0, 3.0)
    assert gradient == 9.0
    assert jnp.isfinite(jax.grad(lambda a: product(a, 1e30))(1e30))

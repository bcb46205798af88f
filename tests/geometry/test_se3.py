"""Rotations and rigid motions against scipy's matrix exponential, with care at angles 0 and pi."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from mirage_jax.geometry import se3

quick = settings(max_examples=25, deadline=None)
so3_exp, so3_log = jax.jit(se3.so3_exp), jax.jit(se3.so3_log)
se3_exp, se3_log = jax.jit(se3.se3_exp), jax.jit(se3.se3_log)
compose, interpolate = jax.jit(se3.compose), jax.jit(se3.interpolate)

ANGLES = [0.0, 1e-20, 1e-7, 1e-4, 1e-3, 0.0317, 0.4999, 0.5001, 1.0, 2.0, 3.0, 3.14, 3.1415, np.pi]
coordinate = st.floats(-1.0, 1.0, width=32)
axes = st.tuples(coordinate, coordinate, coordinate).filter(lambda v: np.linalg.norm(v) > 0.1)


def cross_matrix(w):
    return np.array([[0, -w[2], w[1]], [w[2], 0, -w[0]], [-w[1], w[0], 0]], np.float64)


def rotation_vectors(axis, angles):
    axis = np.asarray(axis, np.float64) / np.linalg.norm(axis)
    return (axis * np.asarray(angles)[:, None]).astype(np.float32)


def exact_rotations(vectors):
    return np.stack([scipy.linalg.expm(cross_matrix(vector)) for vector in vectors])


@quick
@given(axes, st.floats(0.0, float(np.pi)))
def test_so3_exp_is_the_matrix_exponential(axis, angle):
    vectors = rotation_vectors(axis, [*ANGLES, angle])
    np.testing.assert_allclose(so3_exp(vectors), exact_rotations(vectors), atol=4e-7)


@quick
@given(axes, st.floats(0.0, 3.1415))
def test_so3_log_inverts_exp_to_relative_precision(axis, angle):
    angles = [*ANGLES[:-1], angle]
    vectors = rotation_vectors(axis, angles)
    recovered = so3_log(exact_rotations(vectors).astype(np.float32))
    # Small angles are the hard case: a formula through arccos of the trace loses half the digits.
    error = np.abs(recovered - vectors).max(axis=1)
    np.testing.assert_array_less(error, 4e-7 + 6e-7 * np.array(angles))


@quick
@given(axes)
def test_so3_log_at_pi_gives_one_of_the_two_axes(axis):
    (vector,) = rotation_vectors(axis, [np.pi])
    recovered = np.asarray(so3_log(exact_rotations([vector])[0].astype(np.float32)))
    assert min(np.abs(recovered - vector).max(), np.abs(recovered + vector).max()) < 2e-6


@quick
@given(axes, st.floats(0.0, 3.1), axes)
def test_se3_exp_is_the_matrix_exponential_and_log_inverts_it(axis, angle, velocity):
    vectors = rotation_vectors(axis, [*ANGLES[:-1], angle])
    velocities = np.tile(np.asarray(velocity, np.float32), (len(vectors), 1))
    generators = np.zeros((len(vectors), 4, 4))
    for generator, vector in zip(generators, vectors, strict=True):
        generator[:3, :3], generator[:3, 3] = cross_matrix(vector), velocity
    twists = np.concatenate([velocities, vectors], axis=1)
    matrices = se3_exp(twists)
    np.testing.assert_allclose(matrices, np.stack([scipy.linalg.expm(g) for g in generators]), atol=1e-6)
    np.testing.assert_allclose(se3_log(matrices), twists, atol=6e-6)


@pytest.mark.parametrize("angle", [0.0, 1e-8, 1e-3, 0.5, 2.0, 3.0])
def test_exp_and_log_have_finite_right_gradients(angle):
    twist = jnp.array([0.3, -0.2, 0.5, 0.6 * angle, 0.0, -0.8 * angle])
    round_trip = jax.jacobian(lambda x: se3_log(se3_exp(x)))(twist)
    np.testing.assert_allclose(round_trip, np.eye(6), atol=2e-4)


def test_leading_axes_broadcast_and_jit():
    vectors = np.random.default_rng(0).normal(size=(2, 3, 3)).astype(np.float32)
    batched = jax.jit(jax.vmap(se3.so3_exp))(vectors)
    assert batched.shape == (2, 3, 3, 3)
    np.testing.assert_allclose(batched[1, 2], so3_exp(vectors[1, 2]), atol=1e-6)
    np.testing.assert_allclose(so3_log(batched)[0, 1], so3_log(batched[0, 1]), atol=1e-6)


@quick
@given(axes, st.floats(0.0, 3.0), axes, st.floats(0.0, 1.0))
def test_interpolation_turns_evenly_and_moves_straight(axis, angle, position, fraction):
    base = se3_exp(np.array([0.1, 0.2, -0.4, 0.5, -1.0, 0.2], np.float32))
    vector = rotation_vectors(axis, [angle])[0]
    relative = se3.transform(so3_exp(vector), jnp.asarray(position, jnp.float32))
    between = interpolate(base, compose(base, relative), fraction)
    expected = se3.transform(so3_exp(fraction * vector), fraction * jnp.asarray(position, jnp.float32))
    np.testing.assert_allclose(between, compose(base, expected), atol=3e-6)


def test_interpolation_ends_are_exact_bits():
    key = jax.random.key(3)
    first, second = se3_exp(jax.random.normal(key, (2, 5, 6)))
    assert np.array_equal(interpolate(first, second, jnp.zeros(5)), first)
    assert np.array_equal(interpolate(first, second, jnp.ones(5)), second)

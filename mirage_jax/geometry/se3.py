"""Rotations and rigid motions: exponential, logarithm, interpolation.

Rotation vectors are axis times angle in radians; a twist is `(v, w)`, translation part
first. All functions take any leading axes, work in float32, are differentiable, and stay
accurate at angle 0 and at angle pi, where the textbook formulas divide by nothing.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from mirage_jax.geometry.camera import rotate

# Below this squared angle (0.5 rad) the closed forms lose digits to cancellation and
# their Taylor series, to the third order in the squared angle, are exact in float32.
_SERIES_BELOW = 0.25


def so3_exp(vector: chex.Array) -> jax.Array:
    """Rotation matrices `[..., 3, 3]` of rotation vectors `[..., 3]` (Rodrigues)."""
    vector = jnp.asarray(vector)
    sine, cosine, _ = _coefficients(vector)
    cross = _cross_matrix(vector)
    return jnp.eye(3, dtype=cross.dtype) + sine * cross + cosine * compose(cross, cross)


def so3_log(rotation: chex.Array) -> jax.Array:
    """Rotation vectors `[..., 3]`, of angle at most pi, of rotation matrices `[..., 3, 3]`.

    Goes through the unit quaternion, taken from its largest component, so that no digits
    are lost near pi either. At exactly pi both signs of the axis are right; one is given.
    """
    scalar, vector = _quaternion(jnp.asarray(rotation))
    # The shorter way round: q and -q are the same rotation.
    vector = jnp.where(scalar[..., None] < 0, -vector, vector)
    scalar = jnp.abs(scalar)
    square = jnp.sum(vector * vector, axis=-1)
    small = square < 1e-6
    length = jnp.sqrt(jnp.where(small, 1.0, square))
    safe_scalar = jnp.where(small, scalar, 1.0)
    ratio = jnp.where(
        small,
        2.0 / safe_scalar * (1.0 - square / (3.0 * safe_scalar * safe_scalar)),
        2.0 * jnp.arctan2(length, scalar) / length,
    )
    return ratio[..., None] * vector


def se3_exp(twist: chex.Array) -> jax.Array:
    """Rigid transforms `[..., 4, 4]` of twists `[..., 6]`: a screw motion of unit time."""
    twist = jnp.asarray(twist)
    chex.assert_shape(twist, (..., 6))
    velocity, vector = twist[..., :3], twist[..., 3:]
    _, cosine, linear = _coefficients(vector)
    cross = _cross_matrix(vector)
    average = jnp.eye(3, dtype=cross.dtype) + cosine * cross + linear * compose(cross, cross)
    return transform(so3_exp(vector), rotate(average, velocity))


def se3_log(matrix: chex.Array) -> jax.Array:
    """Twists `[..., 6]`, of angle at most pi, of rigid transforms `[..., 4, 4]`."""
    matrix = jnp.asarray(matrix)
    chex.assert_shape(matrix, (..., 4, 4))
    vector = so3_log(matrix[..., :3, :3])
    square = jnp.sum(vector * vector, axis=-1)[..., None, None]
    small = square < _SERIES_BELOW
    angle = jnp.sqrt(jnp.where(small, 1.0, square))
    series = 1 / 12 + square / 720 + square**2 / 30240 + square**3 / 1209600
    closed = (1.0 - 0.5 * angle * jnp.cos(0.5 * angle) / jnp.sin(0.5 * angle)) / (angle * angle)
    cross = _cross_matrix(vector)
    inverse = jnp.eye(3, dtype=cross.dtype) - 0.5 * cross + jnp.where(small, series, closed) * compose(cross, cross)
    return jnp.concatenate([rotate(inverse, matrix[..., :3, 3]), vector], axis=-1)


def transform(rotation: chex.Array, translation: chex.Array) -> jax.Array:
    """`[..., 4, 4]` rigid transforms of `[..., 3, 3]` rotations and `[..., 3]` translations."""
    top = jnp.concatenate([rotation, translation[..., None]], axis=-1)
    bottom = jnp.broadcast_to(jnp.array([0.0, 0.0, 0.0, 1.0], top.dtype), (*top.shape[:-2], 1, 4))
    return jnp.concatenate([top, bottom], axis=-2)


def compose(a_from_b: chex.Array, b_from_c: chex.Array) -> jax.Array:
    """`a_from_c`: the product of small square matrices `[..., n, n]`, in full precision on every device."""
    return jnp.sum(jnp.asarray(a_from_b)[..., :, :, None] * jnp.asarray(b_from_c)[..., None, :, :], axis=-2)


def interpolate(first: chex.Array, second: chex.Array, fraction: chex.Array) -> jax.Array:
    """A pose between two: straight line for the position, shortest turn for the rotation.

    Not the screw motion of `se3_log`, which swings the camera sideways as it turns.

    Args:
      first, second: `[..., 4, 4]` rigid transforms to the same frame.
      fraction: `[...]`, 0 gives `first` and 1 gives `second`, bit for bit.

    Returns:
      `[..., 4, 4]` rigid transforms.
    """
    first, second = jnp.asarray(first), jnp.asarray(second)
    fraction = jnp.asarray(fraction)[..., None]
    turn = so3_log(compose(jnp.swapaxes(first[..., :3, :3], -1, -2), second[..., :3, :3]))
    rotation = compose(first[..., :3, :3], so3_exp(fraction * turn))
    position = first[..., :3, 3] + fraction * (second[..., :3, 3] - first[..., :3, 3])
    between = transform(rotation, position)
    fraction = fraction[..., None]
    return jnp.where(fraction == 0, first, jnp.where(fraction == 1, second, between))


def _coefficients(vector: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`sin(a)/a`, `(1 - cos a)/a^2` and `(a - sin a)/a^3` for the angle `a` of `vector`, each `[..., 1, 1]`."""
    square = jnp.sum(vector * vector, axis=-1)[..., None, None]
    small = square < _SERIES_BELOW
    angle = jnp.sqrt(jnp.where(small, 1.0, square))
    sine = jnp.where(small, _alternating(square, 1.0, 6.0, 20.0, 42.0), jnp.sin(angle) / angle)
    half = jnp.sin(0.5 * angle) / angle
    cosine = jnp.where(small, _alternating(square, 2.0, 12.0, 30.0, 56.0), 2.0 * half * half)
    closed = (angle - jnp.sin(angle)) / (angle * angle * angle)
    linear = jnp.where(small, _alternating(square, 6.0, 20.0, 42.0, 72.0), closed)
    return sine, cosine, linear


def _alternating(x: jax.Array, first: float, *ratios: float) -> jax.Array:
    """`1/first (1 - x/r1 (1 - x/r2 (...)))`: the Taylor series of sine and its relatives."""
    total = jnp.ones_like(x)
    for ratio in reversed(ratios):
        total = 1.0 - x / ratio * total
    return total / first


def _cross_matrix(vector: jax.Array) -> jax.Array:
    """`[w]x` with `[w]x u = w x u`, for `[..., 3]`."""
    x, y, z = vector[..., 0], vector[..., 1], vector[..., 2]
    zero = jnp.zeros_like(x)
    rows = [jnp.stack(row, axis=-1) for row in ([zero, -z, y], [z, zero, -x], [-y, x, zero])]
    return jnp.stack(rows, axis=-2)


def _quaternion(rotation: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Unit quaternion, scalar `[...]` and vector `[..., 3]`, from the largest of its four components."""
    r = rotation
    d0, d1, d2 = r[..., 0, 0], r[..., 1, 1], r[..., 2, 2]
    # Four times the square of w, x, y, z. The largest is at least 1.
    squares = jnp.stack([1 + d0 + d1 + d2, 1 + d0 - d1 - d2, 1 - d0 + d1 - d2, 1 - d0 - d1 + d2], axis=-1)
    wx, wy, wz = r[..., 2, 1] - r[..., 1, 2], r[..., 0, 2] - r[..., 2, 0], r[..., 1, 0] - r[..., 0, 1]
    xy, xz, yz = r[..., 1, 0] + r[..., 0, 1], r[..., 0, 2] + r[..., 2, 0], r[..., 2, 1] + r[..., 1, 2]
    # Row i: four times the products of component i with w, x, y, z.
    products = jnp.stack(
        [
            jnp.stack([squares[..., 0], wx, wy, wz], axis=-1),
            jnp.stack([wx, squares[..., 1], xy, xz], axis=-1),
            jnp.stack([wy, xy, squares[..., 2], yz], axis=-1),
            jnp.stack([wz, xz, yz, squares[..., 3]], axis=-1),
        ],
        axis=-2,
    )
    largest = jnp.argmax(squares, axis=-1)
    row = jnp.take_along_axis(products, largest[..., None, None], axis=-2)[..., 0, :]
    unit = _normalised(row)
    return unit[..., 0], unit[..., 1:]


def _normalised(vector: jax.Array) -> jax.Array:
    return vector / jnp.sqrt(jnp.sum(vector * vector, axis=-1, keepdims=True))

"""Where was the camera that a generated frame shows? Photometric alignment with the true render, whose depth is known.

The true render at the commanded camera is a picture with depth. The rigid motion under which the generated frame agrees
with it is how far the shown camera is from the commanded one: no learned tracker, no scale to fit. The motion is found
by Gauss-Newton on SE(3) in the inverse compositional form (Baker and Matthews 2004), in which the derivatives are those
of the true render: sharp, free of what a generator makes up, and the same in every iteration. Brightness and contrast
of the generated frame are matched to the true one, pixels that disagree lose weight (Geman-McClure), and a pyramid with
several first guesses reaches motions of some degrees.

An alignment always ends somewhere, so it counts as `found` only on evidence, see `found` in `PoseErrors`.
"""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.ndimage import map_coordinates

from mirage_jax.geometry import Camera, rays, rigid_inverse, rotate, se3
from mirage_jax.memory import resample

LEAST_DETAIL = 0.15
"""Share of the variance of the true render's detail that an aligned frame has to explain, to count as found.

Detail is what differs from the mean of the surroundings, an eighth of the frame's width across. A frame without detail
explains nothing (0), an unrelated one less than that, because what it shows instead counts against it; detail in the
right places at a share `a` of its contrast explains `1 - (1 - a)^2`. So neither a blur nor a chance likeness of large
shapes passes, and a wrong place does not either, where the detail does not fit.
"""

LEAST_OVERLAP = 0.5
"""Share of the usable pixels that have to lie inside the frame after alignment."""

MOST_UNCERTAIN = (1.0, 0.05)
"""Standard error up to which a motion counts as known: degrees, and median depths.

That of the Gauss-Newton normal equations, for a residual of at least `_NOISE` that is independent from one
`_CORRELATED x _CORRELATED` block to the next. A true render with too little texture, or one edge, does not pass.
"""

_WORLDSCORE_CAPS = (15.0, 0.5)  # degrees and scene units at which an error scores nothing
_SMALLEST = 16  # rows or columns of the coarsest level, at least
_LARGEST = 256  # of the finest: more would cost time and add nothing
_FIRST_GUESSES = tuple(np.deg2rad([(0, 0), (-6, 0), (6, 0), (-12, 0), (12, 0), (0, -6), (0, 6)]))  # yaw, pitch
_ITERATIONS = 12  # per level
_REWEIGHTED = 3  # times per iteration
_LAST_STEP = 0.1  # pixels: the most by which the last iteration may have moved the picture
_DETAIL = 1 / 16  # of the frame's width: how far the surroundings reach
_NOISE = 4.0  # grey values
_CORRELATED = 4  # pixels
_FRAMES_AT_ONCE = 8


class PoseErrors(NamedTuple):
    """How far the camera that each frame shows is from the commanded one.

    Attributes:
      rotation: float32 `[T]` degrees.
      translation: float32 `[T]` distance of the camera centres, scene units.
      relative_translation: float32 `[T]` the same over the median depth of the frame's usable pixels.
      found: bool `[T]`, whether the figures mean anything: the iterations came to rest, at least `LEAST_OVERLAP` of the
        usable pixels lie inside the frame, the frame then shows at least `LEAST_DETAIL` of the detail of the true
        render, and that detail fixes the motion to `MOST_UNCERTAIN`.
      cam2world: float32 `[T, 4, 4]`, the cameras that the frames show.
      detail: float32 `[T]`, the share of the true render's detail that the aligned frame explains, at most 1.
    """

    rotation: jax.Array
    translation: jax.Array
    relative_translation: jax.Array
    found: jax.Array
    cam2world: jax.Array
    detail: jax.Array


class _Level(NamedTuple):
    """One true render and the frame to align, at one resolution."""

    truth: jax.Array  # [h, w] grey values
    frame: jax.Array  # [h, w]
    points: jax.Array  # [h, w, 3] camera axes, median depths
    usable: jax.Array  # [h, w] float32 0 or 1
    steepest: jax.Array  # [h, w, 6] change of `truth` as its points move by a twist
    intrinsics: jax.Array  # [3, 3]


class _Compared(NamedTuple):
    residual: jax.Array  # [h, w] the frame where the points are in it, matched in brightness and contrast, - truth
    weight: jax.Array  # [h, w] 0 outside
    inside: jax.Array  # [h, w] float32 0 or 1


def pose_errors(
    frames: chex.Array, truth: chex.Array, depth: chex.Array, usable: chex.Array, cameras: Camera
) -> PoseErrors:
    """Aligns each frame with the true render of its camera.

    Args:
      frames: `[T, H, W, 3]` in 0..255, the frames to judge.
      truth: `[T, H, W, 3]` in 0..255, true renders at `cameras`.
      depth: `[T, H, W]` z-depth of `truth`, scene units; pixels where it is 0 or not finite are not used.
      usable: bool `[T, H, W]`, False for what moves.
      cameras: `Camera[T]`, the commanded ones, on the `H x W` grid.

    Returns:
      see `PoseErrors`; the same frames as `truth` give errors of 0.

    Raises:
      ValueError: if a side has fewer than 16 pixels.
    """
    frames, truth = np.asarray(frames, np.float32), np.asarray(truth, np.float32)
    depth, usable = np.asarray(depth, np.float32), np.asarray(usable, bool)
    chex.assert_shape([frames, truth], (len(cameras), cameras.height, cameras.width, 3))
    chex.assert_shape([depth, usable], (len(cameras), cameras.height, cameras.width))
    if min(cameras.height, cameras.width) < _SMALLEST:
        raise ValueError(f"alignment needs frames of at least 16x16, got {cameras.height}x{cameras.width}")
    # In groups of one size, the last filled up, so that videos of all lengths share one compiled program.
    everything = frames, truth, depth, usable, jax.tree.map(np.asarray, cameras)
    groups = [np.arange(begin, begin + _FRAMES_AT_ONCE) for begin in range(0, len(cameras), _FRAMES_AT_ONCE)]
    parts = [
        _align_all(*jax.tree.map(lambda x, group=group: x[np.minimum(group, len(x) - 1)], everything))
        for group in groups
    ]
    return jax.tree.map(lambda *parts: jnp.concatenate(parts)[: len(cameras)], *parts)


def worldscore(rotation: chex.Array, translation: chex.Array) -> jax.Array:
    """Camera control as WorldScore (arXiv 2504.00983) scores it: 1 is exact, 0 is off by a cap or more.

    Each error becomes `1 - min(error / cap, 1)` with caps of 15 degrees and 0.5; the score is the root of the product.

    Args:
      rotation: `[...]` degrees.
      translation: `[...]`, in the unit whose half scores nothing.

    Returns:
      `[...]` float32 in 0..1, higher is better.
    """
    errors = jnp.asarray(rotation, jnp.float32), jnp.asarray(translation, jnp.float32)
    parts = [1.0 - jnp.clip(error / cap, 0.0, 1.0) for error, cap in zip(errors, _WORLDSCORE_CAPS, strict=True)]
    return jnp.sqrt(parts[0] * parts[1])


@jax.jit
@jax.vmap
def _align_all(frame: jax.Array, truth: jax.Array, depth: jax.Array, usable: jax.Array, camera: Camera) -> PoseErrors:
    return _align(frame, truth, depth, usable, camera)


def _align(frame: jax.Array, truth: jax.Array, depth: jax.Array, usable: jax.Array, camera: Camera) -> PoseErrors:
    usable &= jnp.isfinite(depth) & (depth > 0)
    scale = jnp.nanmedian(jnp.where(usable, depth, jnp.nan))
    scale = jnp.where(scale > 0, scale, 1.0)  # nothing usable: nothing will be found either
    depth = jnp.where(usable, depth / scale, 0.0)
    levels = [_level(_grey(frame), _grey(truth), depth, camera.resized(*size)) for size in _sizes(camera)]

    yaw, pitch = jnp.asarray(_FIRST_GUESSES, jnp.float32).T
    zero = jnp.zeros_like(yaw)
    guesses = se3.se3_exp(jnp.stack([zero, zero, zero, pitch, yaw, zero], axis=-1))
    tried, _ = jax.vmap(lambda guess: _iterate(levels[-1], guess))(guesses)
    best = jnp.argmax(jax.vmap(lambda motion: _likeness(levels[-1], motion))(tried))
    motion, step = tried[best], jnp.inf
    for level in reversed(levels[:-1]):
        motion, step = _iterate(level, motion)

    found, detail = _evidence(levels[0], motion)
    shown_in_commanded = rigid_inverse(motion)
    shift = shown_in_commanded[:3, 3]
    relative = jnp.sqrt(jnp.sum(shift**2))
    centred = se3.transform(shown_in_commanded[:3, :3], shift * scale)
    turn = se3.so3_log(motion[:3, :3])
    return PoseErrors(
        rotation=jnp.rad2deg(jnp.sqrt(jnp.sum(turn**2))),
        translation=relative * scale,
        relative_translation=relative,
        found=found & (step < _LAST_STEP) & jnp.all(jnp.isfinite(motion)),
        cam2world=se3.compose(camera.cam2world, centred),
        detail=detail,
    )


def _sizes(camera: Camera) -> list[tuple[int, int]]:
    """Rows and columns of the levels, finest first, each half of the one before."""
    height, width = camera.height, camera.width
    while min(height, width) > _LARGEST:
        height, width = height // 2, width // 2
    sizes = [(height, width)]
    while min(height, width) >= 2 * _SMALLEST:
        height, width = height // 2, width // 2
        sizes.append((height, width))
    return sizes


def _grey(picture: jax.Array) -> jax.Array:
    return picture @ jnp.array([0.299, 0.587, 0.114])


def _level(frame: jax.Array, truth: jax.Array, depth: jax.Array, camera: Camera) -> _Level:
    size = camera.height, camera.width
    frame, truth = (_smooth(jax.image.resize(picture, size, "linear")) for picture in (frame, truth))
    depth = resample.depth_to_grid(depth, *size)
    usable = depth > 0
    points = rays(camera) * jnp.where(usable, depth, 1.0)[..., None]
    return _Level(truth, frame, points, usable.astype(jnp.float32), _steepest(truth, points, camera), camera.intrinsics)


def _steepest(truth: jax.Array, points: jax.Array, camera: Camera) -> jax.Array:
    """`[h, w, 6]`: derivative of the brightness at the projection of `exp(twist) P` by the twist, at 0."""
    x, y, z = (points[..., i] for i in range(3))
    along_v, along_u = jnp.gradient(truth)
    along_x = along_u * camera.intrinsics[0, 0] / z
    along_y = along_v * camera.intrinsics[1, 1] / z + along_u * camera.intrinsics[0, 1] / z
    along = jnp.stack([along_x, along_y, -(along_x * x + along_y * y) / z], axis=-1)
    return jnp.concatenate([along, jnp.cross(points, along)], axis=-1)


def _iterate(level: _Level, motion: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Gauss-Newton from a first guess; the motion, and by how many pixels the last step moved the picture."""

    def step(motion: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        compared = _compare(level, motion)
        twist = _solve(_normal(level, compared.weight), _moments(level, compared.weight * compared.residual))
        return se3.compose(motion, se3.se3_exp(-twist)), twist

    motion, twists = lax.scan(step, motion, None, length=_ITERATIONS)
    moved = rotate(se3.se3_exp(twists[-1])[:3, :3], level.points) + se3.se3_exp(twists[-1])[:3, 3]
    shift = _pixels(level, moved) - _pixels(level, level.points)
    return motion, jnp.sqrt(_mean(jnp.sum(shift**2, axis=-1), level.usable))


def _compare(level: _Level, motion: jax.Array) -> _Compared:
    moved = rotate(motion[:3, :3], level.points) + motion[:3, 3]
    uv = _pixels(level, moved)
    height, width = level.truth.shape
    inside = (moved[..., 2] > 0.01) & jnp.all((uv >= 0.5) & (uv <= jnp.array([width, height]) - 0.5), axis=-1)
    inside = inside * level.usable
    sampled = map_coordinates(level.frame, [uv[..., 1] - 0.5, uv[..., 0] - 0.5], order=1, mode="nearest")
    weight = inside
    for _ in range(_REWEIGHTED):  # what disagrees must not decide how brightness and contrast are matched
        contrast = jnp.clip(_spread(level.truth, weight) / jnp.maximum(_spread(sampled, weight), 1e-3), 1 / 3, 3.0)
        residual = contrast * (sampled - _mean(sampled, weight)) + _mean(level.truth, weight) - level.truth
        # The median would be safer than the mean, but sorting would take most of the time.
        width = 3.0 * _mean(jnp.abs(residual), weight) + 1e-3
        weight = inside / (1.0 + (residual / width) ** 2) ** 2
    return _Compared(residual, weight, inside)


def _evidence(level: _Level, motion: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Whether the alignment is believable as far as the picture shows, and the share of detail explained."""
    compared = _compare(level, motion)
    detail = _detail(level.truth, compared.inside)
    missing = _detail(compared.residual, compared.inside)
    explained = 1.0 - _mean(missing**2, compared.inside) / jnp.maximum(_mean(detail**2, compared.inside), 1e-3)

    variance = jnp.maximum(_mean(compared.residual**2, compared.inside), _NOISE**2) * _CORRELATED**2
    deviation = jnp.sqrt(jnp.diagonal(variance * jnp.linalg.inv(_damped(_normal(level, compared.inside)))))
    sharp = (jnp.max(jnp.rad2deg(deviation[3:])) < MOST_UNCERTAIN[0]) & (jnp.max(deviation[:3]) < MOST_UNCERTAIN[1])
    overlap = jnp.sum(compared.inside) / jnp.maximum(jnp.sum(level.usable), 1.0)
    enough = (overlap >= LEAST_OVERLAP) & (explained >= LEAST_DETAIL)
    return enough & sharp, jnp.where(overlap > 0, explained, 0.0)


def _likeness(level: _Level, motion: jax.Array) -> jax.Array:
    """Share of the variance of the true render explained; less than anything if too little overlaps."""
    compared = _compare(level, motion)
    explained = 1.0 - _mean(compared.residual**2, compared.inside) / (_spread(level.truth, compared.inside) ** 2 + 1e-3)
    return jnp.where(jnp.sum(compared.inside) >= LEAST_OVERLAP * jnp.sum(level.usable), explained, -jnp.inf)


def _detail(picture: jax.Array, inside: jax.Array) -> jax.Array:
    """What is left without the mean of the surroundings, taken over the pixels inside."""
    radius = max(1, round(_DETAIL * picture.shape[1]))
    window = (2 * radius + 1, 2 * radius + 1)

    def total(values: jax.Array) -> jax.Array:
        return lax.reduce_window(values, 0.0, lax.add, window, (1, 1), "SAME")

    return picture - total(picture * inside) / jnp.maximum(total(inside), 1.0)


def _pixels(level: _Level, points: jax.Array) -> jax.Array:
    x, y, z = (points[..., i] for i in range(3))
    x, y = x / jnp.maximum(z, 0.01), y / jnp.maximum(z, 0.01)
    k = level.intrinsics
    return jnp.stack([k[0, 0] * x + k[0, 1] * y + k[0, 2], k[1, 1] * y + k[1, 2]], axis=-1)


def _normal(level: _Level, weight: jax.Array) -> jax.Array:
    steepest = level.steepest.reshape(-1, 6)
    return jnp.matmul(steepest.T * weight.reshape(-1), steepest, precision="highest")


def _moments(level: _Level, weighted: jax.Array) -> jax.Array:
    return jnp.matmul(level.steepest.reshape(-1, 6).T, weighted.reshape(-1), precision="highest")


def _damped(normal: jax.Array) -> jax.Array:
    return normal + jnp.diag(1e-5 * jnp.diagonal(normal) + 1e-3)


def _solve(normal: jax.Array, moments: jax.Array) -> jax.Array:
    return jnp.linalg.solve(_damped(normal), moments)


def _smooth(picture: jax.Array) -> jax.Array:
    """A binomial 3x3 filter: gradients of pictures with single-pixel edges would only point to the next pixel."""
    padded = jnp.pad(picture, 1, mode="edge")
    rows = 0.25 * padded[:-2] + 0.5 * padded[1:-1] + 0.25 * padded[2:]
    return 0.25 * rows[:, :-2] + 0.5 * rows[:, 1:-1] + 0.25 * rows[:, 2:]


def _mean(values: jax.Array, weight: jax.Array) -> jax.Array:
    return jnp.sum(values * weight) / jnp.maximum(jnp.sum(weight), 1.0)


def _spread(values: jax.Array, weight: jax.Array) -> jax.Array:
    return jnp.sqrt(_mean((values - _mean(values, weight)) ** 2, weight))

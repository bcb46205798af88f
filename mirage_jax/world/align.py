"""New depth brought to the scale of what the memory shows in the same places, and whether it may be trusted there.

Metric depth is off by a factor, inverse depth of a relative network by a factor and a shift. Both are estimated
robustly (many of the cells may disagree), by a fixed number of steps, in one estimate for all frames of a segment. What
that leaves varies smoothly over a picture and can be taken out where the memory shows the same surface
(`follow_surfaces`).
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
from flax import struct

from mirage_jax.memory.points import Readout
from mirage_jax.world.config import WorldConfig
from mirage_jax.world.frame_geometry import FrameGeometry

LEAST_SHARE = 1.0 / 16.0
"""Share of cells that must be comparable for an estimate to count."""

LARGEST_RESIDUAL = 0.25
"""Median absolute log-ratio above which aligned depth does not describe what the memory holds."""

LARGEST_FACTOR = 2.0
"""A metric scale is held within this factor."""

PAIRS = 128
"""Lines through two cells that are tried; with 3 in 10 cells wrong, half of these pairs are right."""

VARIATION = 3.0
"""Inverse depth must vary by so many times what a line leaves, both in the median, for its shift to count: the slope of
a line through a wall is that of the noise, and what stands in front of the wall would be put anywhere."""

LOCAL_WIDTH = 5.0 / 32.0
"""Standard deviation of the field of `follow_surfaces`, in the shorter side of the grid."""

LOCAL_PRIOR = 1.0 / 80.0
"""Weight of no change in `follow_surfaces`, in that of a neighbourhood of which every cell compares."""

STEPS = 10
"""Of iteratively reweighted least squares, from the best of these lines."""


@struct.dataclass
class Alignment:
    """Aligned depth, and how it was found.

    Attributes:
      depth: `[T, h, w]` metres; inf where the given depth is, 0 where there is none.
      scale: `[]` factor on depth (`align_scale`) or on inverse depth (`align_inverse`).
      shift: `[]` 1 / metres added to inverse depth; 0 for a metric one.
      residual: `[]` median absolute log-ratio to the memory's depth that remains; 0 where nothing can be compared.
      compared: int32 `[]` cells that could be compared.
      enough: bool `[]` whether these are `LEAST_SHARE` of all; if not, scale is 1 and shift 0.
      ok: bool `[]` whether they are, and the residual is at most `LARGEST_RESIDUAL`.
    """

    depth: chex.Array
    scale: chex.Array
    shift: chex.Array
    residual: chex.Array
    compared: chex.Array
    enough: chex.Array
    ok: chex.Array


def to_memory(
    config: WorldConfig, estimated: FrameGeometry, shown: Readout
) -> tuple[FrameGeometry, Alignment, jax.Array]:
    """New geometry in the memory's scale, how it was brought there, and bool `[n]`: frames that may be written.

    A relative network has a scale and a shift of its own in every frame, and without them its depth says nothing.
    Metric depth stands for itself where the memory shows too little to compare. The heads, which were trained
    together with the model, are never refused.

    Args:
      config: of the world.
      estimated: `[n, h, w]`, of `estimate_geometry`.
      shown: `[n, h, w, ..]`, what the memory shows at the same cameras.
    """
    if config.recipe.alignment == "none":
        comparable, enough, guess, known = _compared(estimated.depth, shown)
        deviation = jnp.where(comparable, jnp.abs(jnp.log(known) - jnp.log(guess)), jnp.nan)
        aligned = _alignment(estimated.depth, jnp.ones(()), jnp.zeros(()), deviation, comparable, enough, True)
        depth, trusted = aligned.depth, jnp.asarray(True)
    elif config.depth_from == "pixels" and not config.model.depth.metric:
        one = lambda depth, shown: align_inverse(depth[None], jax.tree.map(lambda x: x[None], shown))  # noqa: E731
        aligned = jax.vmap(one)(estimated.depth, shown)
        depth, trusted = aligned.depth[:, 0], aligned.ok
    else:
        aligned = align_scale(estimated.depth, shown)
        depth, trusted = aligned.depth, aligned.ok | ~aligned.enough | (config.depth_from == "heads")
    if config.recipe.alignment == "surfaces" and config.depth_from != "given":
        depth = follow_surfaces(depth, shown)
    trusted = jnp.broadcast_to(trusted, len(depth))
    keep, sky = (mask & trusted[:, None, None] for mask in (estimated.keep, estimated.sky))
    return FrameGeometry(depth=depth, keep=keep & (depth > 0), sky=sky), aligned, trusted


def align_scale(depth: chex.Array, readout: Readout) -> Alignment:
    """One factor for all frames: the exponential of the median log-ratio, within `LARGEST_FACTOR`.

    Args:
      depth: `[T, h, w]` metres; inf (sky), 0 and NaN are compared with nothing.
      readout: of the same cameras.
    """
    comparable, enough, guess, shown = _compared(depth, readout)
    ratio = jnp.where(comparable, jnp.log(shown) - jnp.log(guess), jnp.nan)
    limit = jnp.log(LARGEST_FACTOR)
    shift = jnp.where(enough, jnp.clip(jnp.nan_to_num(jnp.nanmedian(ratio)), -limit, limit), 0.0)
    scaled = jnp.where(jnp.isfinite(depth), depth * jnp.exp(shift), depth)
    return _alignment(scaled, jnp.exp(shift), jnp.zeros(()), jnp.abs(ratio - shift), comparable, enough, True)


def align_inverse(depth: chex.Array, readout: Readout) -> Alignment:
    """Scale and shift of inverse depth: `1 / aligned = scale / depth + shift`.

    Of the lines through a fixed choice of pairs of cells, the one of least median relative deviation (Rousseeuw 1984),
    refined by least squares over the cells that agree with it. Where all depth is nearly the same (`VARIATION`) it is
    the one of the median ratio, without a shift.

    Args:
      depth: `[T, h, w]` one over the network's inverse depth, in any units; inf (sky) and 0 are compared with nothing.
      readout: of the same cameras.
    """
    comparable, enough, guess, shown = _compared(depth, readout)
    # In units of the medians, so that sums are of order one.
    unit = jnp.where(enough, jnp.nanmedian(jnp.where(comparable, 1.0 / guess, jnp.nan)), 1.0)
    unit_shown = jnp.where(enough, jnp.nanmedian(jnp.where(comparable, 1.0 / shown, jnp.nan)), 1.0)
    x, y = 1.0 / (guess * unit), 1.0 / (shown * unit_shown)

    def deviation_of(line):
        return jnp.where(comparable, jnp.abs((line[0] * x + line[1]) / y - 1.0), jnp.nan)

    lines = _lines(x.reshape(-1), y.reshape(-1), comparable.reshape(-1))
    medians = jax.vmap(lambda scale, shift: jnp.nanmedian(deviation_of((scale, shift))))(*lines)
    best = jnp.argmin(jnp.where(jnp.isnan(medians), jnp.inf, medians))
    width = jnp.maximum(2.0 * medians[best], 1e-3)

    def step(_, line):
        agrees = 1.0 / (1.0 + (jnp.nan_to_num(deviation_of(line)) / width) ** 2) ** 2
        return _least_squares(x, y, comparable * agrees / (y * y))

    line = jax.lax.fori_loop(0, STEPS, step, (lines[0][best], lines[1][best]))
    shifted = VARIATION * medians[best] < jnp.nanmedian(jnp.where(comparable, jnp.abs(x - 1.0), jnp.nan))
    scale, shift = (jnp.where(shifted, fitted, plain[-1]) for fitted, plain in zip(line, lines, strict=True))
    sound = scale > 0  # nearer stays nearer
    scale = jnp.where(enough & sound, scale * unit_shown / unit, 1.0)
    shift = jnp.where(enough & sound, shift * unit_shown, 0.0)
    valid = jnp.isfinite(depth) & (depth > 0)
    inverse = scale / jnp.where(valid, depth, 1.0) + shift
    # What a shift moves behind infinity is not known.
    aligned = jnp.where(valid, jnp.where(inverse > 0, 1.0 / jnp.where(inverse > 0, inverse, 1.0), 0.0), depth)
    known = jnp.where(aligned > 0, jnp.where(jnp.isfinite(aligned), aligned, 1.0), 1e-6)
    deviation = jnp.where(comparable, jnp.abs(jnp.log(shown) - jnp.log(known)), jnp.nan)
    return _alignment(aligned, scale, shift, deviation, comparable, enough, sound)


def follow_surfaces(depth: chex.Array, readout: Readout) -> jax.Array:
    """Aligned depth times a smooth field of factors, frame by frame, by which it follows what the memory shows.

    A network's depth is wrong by a little more here and a little less there; new surfaces then do not meet the old
    ones. The logarithm of the field is the mean of the log-ratios around, weighted by a Gaussian of distance in the
    picture, over cells that show the same surface as the memory (log-ratio within `LARGEST_RESIDUAL`), and goes to 0
    far from them.

    Args:
      depth: `[T, h, w]`, of `align_scale` or `align_inverse`.
      readout: of the same cameras.

    Returns:
      `[T, h, w]`; as it was where it is inf or 0, or where too little can be compared (`LEAST_SHARE`).
    """
    comparable, enough, guess, shown = _compared(depth, readout)
    ratio = jnp.log(shown) - jnp.log(guess)
    same = comparable & enough & (jnp.abs(ratio) <= LARGEST_RESIDUAL)
    deviation = LOCAL_WIDTH * min(depth.shape[-2:])
    apart = (jnp.arange(size)[:, None] - jnp.arange(size) for size in depth.shape[-2:])
    rows, columns = (jnp.exp(-0.5 * (distance / deviation) ** 2) for distance in apart)
    votes, weight = (rows @ x @ columns for x in (jnp.where(same, ratio, 0.0), same.astype(depth.dtype)))
    field = votes / (weight + LOCAL_PRIOR * 2.0 * jnp.pi * deviation**2)
    return jnp.where(jnp.isfinite(depth), depth * jnp.exp(field), depth)


def _compared(depth: chex.Array, readout: Readout) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Which cells compare `[T, h, w]`, whether they are enough `[]`, and both depths, 1 elsewhere."""
    shown = readout.depth
    comparable = readout.visible & jnp.isfinite(shown) & (shown > 0) & jnp.isfinite(depth) & (depth > 0)
    enough = jnp.mean(comparable) >= LEAST_SHARE
    return comparable, enough, jnp.where(comparable, depth, 1.0), jnp.where(comparable, shown, 1.0)


def _lines(x: jax.Array, y: jax.Array, comparable: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Scales and shifts `[PAIRS + 1]` of lines through pairs of comparable points; the last has no shift."""
    first = jnp.argsort(~comparable, stable=True)  # comparable ones first
    chosen = jax.random.uniform(jax.random.key(0), (2, PAIRS)) * jnp.sum(comparable)
    a, b = first[jnp.minimum(chosen.astype(jnp.int32), len(x) - 1)]
    apart = jnp.abs(x[a] - x[b]) > 1e-3
    scale = jnp.where(apart, (y[a] - y[b]) / jnp.where(apart, x[a] - x[b], 1.0), jnp.nan)
    ratio = jnp.nan_to_num(jnp.nanmedian(jnp.where(comparable, y / x, jnp.nan)))
    return jnp.append(scale, ratio), jnp.append(y[a] - scale * x[a], 0.0)


def _least_squares(x: jax.Array, y: jax.Array, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Scale and shift of the weighted line from `x` to `y`, the shift held at 0 where `x` does not vary."""
    weight = weight / jnp.maximum(jnp.sum(weight), 1e-30)
    mean_x, mean_y = jnp.sum(weight * x), jnp.sum(weight * y)
    variance = jnp.sum(weight * (x - mean_x) ** 2)
    covariance = jnp.sum(weight * (x - mean_x) * (y - mean_y))
    square = jnp.maximum(variance + mean_x**2, 1e-30)
    shift = (mean_y * variance - mean_x * covariance) / (variance + 1e-6 * square)
    return (covariance + mean_x * mean_y - shift * mean_x) / square, shift


def _alignment(depth, scale, shift, deviation, comparable, enough, sound) -> Alignment:
    residual = jnp.nan_to_num(jnp.nanmedian(deviation))
    return Alignment(
        depth=depth,
        scale=scale,
        shift=shift,
        residual=residual,
        compared=jnp.sum(comparable, dtype=jnp.int32),
        enough=enough,
        ok=enough & sound & (residual <= LARGEST_RESIDUAL),
    )

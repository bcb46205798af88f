"""The samplers of a flow, as pure functions for use inside `jit` and `lax.scan`, and the grids they run on.

`unipc` is that of undistilled models. `renoise` is that of models distilled to a few steps by distribution matching
(DMD), whose published timesteps are `fastwan_schedule` and `turbo_schedule`: each was trained for its own levels.

UniPC is linear in the states and clean predictions it combines, with coefficients that depend on
the schedule only. These are computed on the host in float64; what runs on the device is
one `lax.scan` of a network call and a few weighted sums.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np

from mirage_jax.diffusion import flow, step_cache

# (noisy latents [T, h, w, C], sigma [], timestep []) -> clean latents [T, h, w, C]
Denoise = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The noise levels of a sampling run.

    Attributes:
      sigmas: float64 `[n + 1]`, falling, the last one 0.
      timesteps: `[n]`, what the network is told at the first `n` levels.
      renoised: whether models of these levels want each prediction noised anew (`renoise`), or a solver (`unipc`).
    """

    sigmas: np.ndarray
    timesteps: np.ndarray
    renoised: bool = False


def wan_schedule(steps: int, shift: float = flow.SHIFT) -> Schedule:
    """The grid of Wan's own code, on which its weights and the released side branches run.

    `linspace(0.999, 0, n + 1)[:-1]`, shifted, then 0; timesteps `trunc(1000 sigma)`. Raises `ValueError` if `steps` is
    less than 1.
    """
    return _schedule(np.linspace(1.0 - 1.0 / flow.TIMESTEPS, 0.0, _counted(steps) + 1)[:-1], shift)


def diffusers_schedule(steps: int, shift: float = flow.SHIFT) -> Schedule:
    """The grid of diffusers' UniPC scheduler on flow sigmas: `linspace(1, 0.001, n + 1)[:-1]`, else as `wan_schedule`.

    The first sigma stays a millionth below 1, where log(1 - sigma) is finite. Raises `ValueError` if `steps` is less
    than 1.
    """
    return _schedule(np.linspace(1.0, 1.0 / flow.TIMESTEPS, _counted(steps) + 1)[:-1], shift)


def fastwan_schedule(steps: int = 3) -> Schedule:
    """Of FastWan2.2-TI2V-5B (FastVideo, DMD): timesteps 1000, 757, 522, a thousand times their sigmas.

    Raises `ValueError` if `steps` is not 3.
    """
    timesteps = np.array([1000.0, 757.0, 522.0])
    return _few(timesteps / flow.TIMESTEPS, timesteps, steps)


def turbo_schedule(steps: int = 4) -> Schedule:
    """Of Wan2.2-TI2V-5B-Turbo (Self-Forcing's DMD): levels 1000, 750, 500, 250 of 1000 before the shift.

    Raises `ValueError` if `steps` is not 4.
    """
    sigmas = flow.shift_sigma(np.array([1.0, 0.75, 0.5, 0.25]))
    return _few(sigmas, flow.TIMESTEPS * sigmas, steps)


SCHEDULES = {
    "wan": wan_schedule,
    "diffusers": diffusers_schedule,
    "fastwan": fastwan_schedule,
    "turbo": turbo_schedule,
}
"""Published grids by name."""

FIXED_STEPS = {"fastwan": 3, "turbo": 4}
"""Steps of the grids that have one number of them."""


def _few(sigmas: np.ndarray, timesteps: np.ndarray, steps: int) -> Schedule:
    if steps != len(sigmas):
        raise ValueError(f"the grid has {len(sigmas)} steps, got {steps}")
    return Schedule(sigmas=np.append(sigmas, 0.0), timesteps=timesteps, renoised=True)


def _schedule(levels: np.ndarray, shift: float) -> Schedule:
    """Sigmas rounded to float32 as in the public schedulers: close to 1 the rounding shows in the first step."""
    noisy = np.minimum(flow.shift_sigma(levels, shift), 1.0 - 1e-6)
    return Schedule(
        sigmas=np.append(noisy, 0.0).astype(np.float32).astype(np.float64),
        timesteps=np.trunc(flow.TIMESTEPS * noisy).astype(np.int32),
    )


def _counted(steps: int) -> int:
    if steps < 1:
        raise ValueError(f"a sampler takes at least 1 step, got {steps}")
    return steps


def unipc(
    denoise: Denoise,
    noise: chex.Array,
    schedule: Schedule,
    *,
    known: chex.Array | None = None,
    clean: chex.Array | None = None,
    reuse: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
    """UniPC (Zhao et al. 2023): predictor and corrector of order 2, B2(h) = exp(h) - 1, on clean predictions.

    The last steps fall back to first order, and the first one has no past to correct with.

    Args:
      denoise: `(noisy latents, sigma [], timestep []) -> clean latents`.
      noise: `[T, h, w, C]`, the state at the first sigma.
      schedule: the noise levels; sampling ends at the last.
      known: `[T, h, w, C]` latents of the clean frames (anything in the others), or None.
      clean: bool `[T]`, the frames that are held at `known` in every step.
      reuse: error up to which steps take the flow of the one before (`step_cache`); 0 runs the network in every step.

    Returns:
      `[T, h, w, C]` clean latents, and int32 `[]`, how often `denoise` ran.
    """

    def impose(x: jax.Array) -> jax.Array:
        return x if known is None else jnp.where(clean[:, None, None, None], known, x)

    def predict(cache, x, sigma, timestep):
        if not reuse:
            return denoise(x, sigma, timestep), cache
        return step_cache.predict(denoise, cache, x, sigma, timestep, limit=reuse)

    def step(state, level):
        sigma, timestep, row = level
        (x, last, previous, before), cache = state
        x = impose(x)
        x0, cache = predict(cache, x, sigma, timestep)
        terms = x, last, x0, previous, before
        corrected = sum(weight * term for weight, term in zip(row[:5], terms, strict=True))
        following = sum(weight * term for weight, term in zip(row[5:], (corrected, x0, previous), strict=True))
        return ((following, corrected, x0, previous), cache), None

    levels = schedule.sigmas[:-1], schedule.timesteps, _unipc_table(schedule.sigmas)
    levels = jax.tree.map(lambda column: jnp.asarray(column, jnp.float32), levels)
    empty, steps = jnp.zeros_like(noise), len(schedule.timesteps)
    cache = step_cache.create(noise, steps, clean) if reuse else None
    ((x, *_), cache), _ = jax.lax.scan(step, ((noise, empty, empty, empty), cache), levels)
    return impose(x), jnp.int32(steps) if cache is None else cache.passes


def renoise(
    denoise: Denoise,
    noise: chex.Array,
    schedule: Schedule,
    key: chex.PRNGKey,
    *,
    known: chex.Array | None = None,
    clean: chex.Array | None = None,
) -> jax.Array:
    """What DMD models are trained for: each clean prediction, noised anew to the next level; the last one is the end.

    Args:
      denoise, noise, schedule, known, clean: as in `unipc`.
      key: of the fresh noise, consumed.

    Returns:
      `[T, h, w, C]` clean latents.
    """

    def impose(x: jax.Array) -> jax.Array:
        return x if known is None else jnp.where(clean[:, None, None, None], known, x)

    def step(x, level):
        sigma, timestep, following, step_key = level
        x0 = denoise(impose(x), sigma, timestep)
        return (1.0 - following) * x0 + following * jax.random.normal(step_key, x0.shape), None

    levels = schedule.sigmas[:-1], schedule.timesteps, schedule.sigmas[1:]
    levels = (jnp.asarray(column, jnp.float32) for column in levels)
    x, _ = jax.lax.scan(step, noise, (*levels, jax.random.split(key, len(schedule.timesteps))))
    return impose(x)


def _unipc_table(sigmas: np.ndarray) -> np.ndarray:
    """Weights of every step, float64 `[n, 8]`.

    The first five give the corrected state from (state, last corrected state, clean predictions of this step, the
    one before, the one before that); the last three the next state from (corrected state, the two latest
    predictions). With `lambda = log((1 - sigma) / sigma)` and `h` its increase, the schemes are written for
    `phi_1 = expm1(-h)`, which is also B2 for clean predictions.
    """
    steps = len(sigmas) - 1
    with np.errstate(divide="ignore"):
        lambdas = np.log1p(-sigmas) - np.log(sigmas)
    orders = [min(2, steps - i, i + 1) for i in range(steps)]
    table = np.zeros((steps, 8))
    table[0, 0] = 1.0
    for i in range(1, steps):
        table[i, 1:5] = _corrector(sigmas, lambdas, i, orders[i - 1])
    for i in range(steps):
        table[i, 5:] = _predictor(sigmas, lambdas, i, orders[i])
    return table


def _predictor(sigmas: np.ndarray, lambdas: np.ndarray, i: int, order: int) -> tuple[float, float, float]:
    """UniP from step `i` to `i + 1`: weights of the state and of the predictions at `i` and `i - 1`."""
    h = lambdas[i + 1] - lambdas[i]
    growth = -(1.0 - sigmas[i + 1]) * math.expm1(-h)
    slope = 0.0
    if order == 2:
        slope = 0.5 * growth * h / (lambdas[i - 1] - lambdas[i])
    return sigmas[i + 1] / sigmas[i], growth - slope, slope


def _corrector(sigmas: np.ndarray, lambdas: np.ndarray, i: int, order: int) -> tuple[float, float, float, float]:
    """UniC from step `i - 1` to `i`: weights of the last state and of the predictions at `i`, `i - 1`, `i - 2`."""
    h = lambdas[i] - lambdas[i - 1]
    growth = -(1.0 - sigmas[i]) * math.expm1(-h)
    now, slope = 0.5, 0.0
    if order == 2:
        ratio = (lambdas[i - 2] - lambdas[i - 1]) / h
        phi_1 = math.expm1(-h)
        phi_2 = -phi_1 / h - 1.0
        phi_3 = -phi_2 / h - 0.5
        slope, now = np.linalg.solve([[1.0, 1.0], [ratio, 1.0]], [phi_2 / phi_1, 2.0 * phi_3 / phi_1])
        slope = slope / ratio
    return sigmas[i] / sigmas[i - 1], growth * now, growth * (1.0 - now - slope), growth * slope

"""A cache of steps, by the rule of MagCache (Ma et al. 2025, arXiv 2506.09045).

Between neighbouring steps of a sampler the network gives nearly the same flow, but for its size, which changes by a
ratio that is close to 1 and drifts slowly. So a step may take the flow of the last step in which the network ran. Each
step that does adds `|1 - product of the ratios since|` to an error; when that would pass a limit, or too many steps in
a row have done so, the network runs again. The first steps, which decide what is seen, always run it.

The paper reads the ratios from a table, measured once for a model and its number of steps. Here they are those of the
run itself: the ratio of the last two passes, a step. So there is no table to make or to mistake.
"""

from __future__ import annotations

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
from flax import struct

ALWAYS = 0.2
"""Share of steps at the beginning that always run the network."""

IN_A_ROW = 3
"""Most steps one after the other that take an old flow."""


@struct.dataclass
class StepCache:
    """What is known of earlier steps.

    Attributes:
      flow: `[T, h, w, C]` of the last pass.
      ratio: `[]` by which its size changes in a step; infinite before there are two passes.
      product: `[]` of the ratios since that pass.
      error: `[]` added up since.
      reused: int32 `[]` steps since.
      step: int32 `[]`.
      passes: int32 `[]` of the network.
      always: int32 `[]` steps that run it whatever the error.
      noisy: bool `[T]` frames by which sizes are compared.
    """

    flow: chex.Array  # [T, h, w, C]
    ratio: chex.Array
    product: chex.Array
    error: chex.Array
    reused: chex.Array
    step: chex.Array
    passes: chex.Array
    always: chex.Array
    noisy: chex.Array  # [T]


def create(noise: chex.Array, steps: int, clean: chex.Array | None) -> StepCache:
    """An empty cache for a run of so many steps, from noise `[T, h, w, C]`; clean frames, bool `[T]`, are left out."""
    zero, none = jnp.zeros((), jnp.int32), jnp.zeros(())
    return StepCache(
        flow=jnp.zeros_like(noise),
        ratio=none + jnp.inf,
        product=none + 1.0,
        error=none,
        reused=zero,
        step=zero,
        passes=zero,
        always=zero + max(2, -int(-steps * ALWAYS // 1)),
        noisy=jnp.ones(len(noise), bool) if clean is None else ~jnp.asarray(clean),
    )


def predict(
    denoise: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
    cache: StepCache,
    x: jax.Array,
    sigma: jax.Array,
    timestep: jax.Array,
    *,
    limit: float,
) -> tuple[jax.Array, StepCache]:
    """`denoise(x, sigma, timestep)`, or what the flow of an earlier step says; and the cache of the next step."""
    product = cache.product * cache.ratio
    error = cache.error + jnp.abs(1.0 - product)
    reuses = (cache.step >= cache.always) & (cache.reused < IN_A_ROW) & (error <= limit)

    def old() -> tuple[jax.Array, StepCache]:
        return x - sigma * cache.flow, cache.replace(product=product, error=error, reused=cache.reused + 1)

    def new() -> tuple[jax.Array, StepCache]:
        x0 = denoise(x, sigma, timestep)
        flow = (x - x0) / sigma
        change = (_size(flow, cache.noisy) / _size(cache.flow, cache.noisy)) ** (1.0 / (cache.reused + 1))
        return x0, cache.replace(
            flow=flow,
            ratio=jnp.where(cache.step == 0, jnp.inf, change),
            product=jnp.ones(()),
            error=jnp.zeros(()),
            reused=jnp.zeros((), jnp.int32),
            passes=cache.passes + 1,
        )

    x0, cache = jax.lax.cond(reuses, old, new)
    return x0, cache.replace(step=cache.step + 1)


def _size(flow: jax.Array, noisy: jax.Array) -> jax.Array:
    """Root mean square over the noisy frames."""
    square = jnp.where(noisy, jnp.mean(jnp.square(flow), axis=(1, 2, 3)), 0.0)
    return jnp.sqrt(square.sum() / noisy.sum())

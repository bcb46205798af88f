"""A cache of sampling steps, by the rule of TeaCache (Liu et al. 2024, arXiv 2411.19108): accumulated relative change.

Between neighbouring steps of a sampler the network gives nearly the same flow, so a step may take that of the last step
in which the network ran. Each step that does adds the relative L1 change of a step to an error; when that would pass a
limit, or too many steps in a row have done so, the network runs again. The first steps, which decide what is seen,
and the last one always run it.

TeaCache estimates the change from the timestep's embedding, by a polynomial that is fitted once for each model. Here it
is that of the flows themselves, from the pass before to the last pass. So there is nothing to fit or to mistake.
"""

from __future__ import annotations

import math
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
      change: `[]` relative change of the flow in a step, from the pass before to the last.
      error: `[]` added up since the last pass.
      reused: int32 `[]` steps since.
      step: int32 `[]`.
      passes: int32 `[]` of the network.
      noisy: bool `[T]` frames in which flows are compared.
      steps: of the run.
    """

    flow: chex.Array  # [T, h, w, C]
    change: chex.Array
    error: chex.Array
    reused: chex.Array
    step: chex.Array
    passes: chex.Array
    noisy: chex.Array  # [T]
    steps: int = struct.field(pytree_node=False)


def create(noise: chex.Array, steps: int, clean: chex.Array | None) -> StepCache:
    """An empty cache for a run of so many steps, from noise `[T, h, w, C]`; clean frames, bool `[T]`, are left out."""
    none, zero = jnp.zeros(()), jnp.zeros((), jnp.int32)
    return StepCache(
        flow=jnp.zeros_like(noise),
        change=none,
        error=none,
        reused=zero,
        step=zero,
        passes=zero,
        noisy=jnp.ones(len(noise), bool) if clean is None else ~jnp.asarray(clean),
        steps=steps,
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
    error = cache.error + cache.change
    first = max(2, math.ceil(ALWAYS * cache.steps))  # of two flows the change is known
    between = (cache.step >= first) & (cache.step < cache.steps - 1)
    reuses = between & (cache.reused < IN_A_ROW) & (error <= limit)

    def old() -> tuple[jax.Array, StepCache]:
        return x - sigma * cache.flow, cache.replace(error=error, reused=cache.reused + 1)

    def new() -> tuple[jax.Array, StepCache]:
        x0 = denoise(x, sigma, timestep)
        flow = (x - x0) / sigma
        change = _size(flow - cache.flow, cache.noisy) / _size(cache.flow, cache.noisy) / (cache.reused + 1)
        return x0, cache.replace(
            flow=flow,
            change=change,
            error=jnp.zeros(()),
            reused=jnp.zeros((), jnp.int32),
            passes=cache.passes + 1,
        )

    x0, cache = jax.lax.cond(reuses, old, new)
    return x0, cache.replace(step=cache.step + 1)


def _size(flow: jax.Array, noisy: jax.Array) -> jax.Array:
    """Mean absolute value over the noisy frames."""
    return jnp.sum(jnp.where(noisy, jnp.abs(flow).mean(axis=(1, 2, 3)), 0.0)) / noisy.sum()

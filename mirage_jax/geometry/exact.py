"""Arithmetic whose last bit does not depend on what the compiler fuses it with.

Inside `jit`, XLA's CPU and GPU back ends contract `a * b + c` into one fused
multiply-add, which rounds once where the separate operations round twice; and whether
they do depends on the surrounding program. A point on the border of two cells, or two
points at nearly one depth, would then be decided differently by a read on its own and
by the same read inside `vmap` or `lax.scan`. Two things together make a result a
function of its inputs alone, equal to what numpy gives in float32:

- `product` puts a clamp that never binds for finite numbers between a product and
  whatever is added to it: no compiler can contract through it. (A precision
  reduction to float32, a bit cast there and back, or an optimization barrier are all
  removed before the contraction happens.)
- `opaque` hides the values of small constant arrays, so that a camera known at compile
  time is not folded into the formulas (division into multiplication by a reciprocal,
  sums regrouped) and gives what the same camera gives as an argument.

What remains: subnormal numbers, which XLA flushes to zero and numpy does not.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
from jax import lax


def product(a: chex.Array, b: chex.Array) -> jax.Array:
    """`a * b`, rounded before anything is added to it; overflow gives the largest finite number or `-inf`."""
    value = jnp.asarray(a) * b
    return jnp.minimum(value, jnp.finfo(value.dtype).max)


def dot3(a: tuple[chex.Array, ...], b: tuple[chex.Array, ...]) -> jax.Array:
    """`a0 b0 + a1 b1 + a2 b2` of components that broadcast, summed from left to right."""
    return product(a[0], b[0]) + product(a[1], b[1]) + product(a[2], b[2])


def norm3(vector: tuple[chex.Array, ...]) -> jax.Array:
    """Length of a vector of three components; the clamp keeps what divides by it from becoming a reciprocal root."""
    length = jnp.sqrt(dot3(vector, vector))
    return jnp.minimum(length, jnp.finfo(length.dtype).max)


def opaque(tree: chex.ArrayTree) -> chex.ArrayTree:
    """The same arrays, of which the compiler knows shapes and types but not values."""
    return lax.optimization_barrier(jax.tree.map(jnp.asarray, tree))

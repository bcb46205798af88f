"""Classifier-free guidance (Ho and Salimans 2022) with a negative prompt, as Wan's own code runs it."""

from __future__ import annotations

from collections.abc import Callable

import chex
import jax


def guided(network: Callable[[chex.Array], jax.Array], text: chex.Array, scale: float) -> jax.Array:
    """`negative + scale (positive - negative)`: what a network gives for a prompt, led away from the negative one.

    Both are one pass of the network, as a batch of two.

    Args:
      network: from a text to its output, flow or clean latents.
      text: `[2, ..]`, the prompt and the negative prompt.
      scale: 1 is the prompt alone, 0 the negative one alone.
    """
    positive, negative = jax.vmap(network)(text)
    return negative + scale * (positive - negative)

"""Spatial memories: values that are created, written and read. `kinds` is what a world asks of them."""

from mirage_jax.memory import kinds, latent, nothing, rgb

kinds.register("latent", latent)
kinds.register("rgb", rgb)
kinds.register("none", nothing)

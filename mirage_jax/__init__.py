"""mirage-jax: latent spatial memory for video world models, in JAX (arXiv 2606.09828)."""

__version__ = "0.1.0"

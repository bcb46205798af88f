"""Flow matching with a shifted schedule (paper section "Generator").

`x_sigma = (1 - sigma) x0 + sigma noise`; the velocity along the path is `noise - x0`. Sigma and
timestep are per latent frame, and clean frames have sigma 0.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

SHIFT = 5.0
TIMESTEPS = 1000.0


def shift_sigma(u: chex.Numeric, shift: float = SHIFT) -> chex.Numeric:
    """`sigma = a u / (1 + (a - 1) u)`: moves uniform `u` in 0..1 towards noise."""
    return shift * u / (1.0 + (shift - 1.0) * u)


def sample_sigma(key: chex.PRNGKey, shift: float = SHIFT) -> jax.Array:
    """One sigma for a whole segment, float32 `[]`; consumes `key`.

    All noisy frames share it, as they do when sampling.
    """
    return shift_sigma(jax.random.uniform(key), shift)


def frame_sigmas(sigma: chex.Numeric, clean: chex.Array) -> jax.Array:
    """Sigma of each latent frame: `sigma` where noisy, 0 where `clean` (bool `[T]`) -> `[T]`."""
    return jnp.where(clean, 0.0, sigma)


def timesteps_from_sigmas(sigmas: chex.Array) -> jax.Array:
    """What the network is told, in 0..1000; any shape."""
    return TIMESTEPS * sigmas


def add_noise(x0: chex.Array, noise: chex.Array, sigmas: chex.Array) -> jax.Array:
    """`(1 - sigma) x0 + sigma noise`: `[T, h, w, C]` twice, `sigmas [T]` -> `[T, h, w, C]`."""
    chex.assert_equal_shape([x0, noise])
    sigmas = _over_cells(sigmas, x0)
    return (1.0 - sigmas) * x0 + sigmas * noise


def training_target(x0: chex.Array, noise: chex.Array, prediction: str) -> jax.Array:
    """What a network of `DiTConfig.prediction` should give: `noise - x0` for 'flow', `x0` for 'sample'."""
    return jnp.subtract(noise, x0) if prediction == "flow" else jnp.asarray(x0)


def sample_from_output(output: chex.Array, noisy: chex.Array, sigmas: chex.Array, prediction: str) -> jax.Array:
    """The clean latents that a network output means: `x_sigma - sigma v` for 'flow', itself for 'sample'.

    Args:
      output, noisy: `[T, h, w, C]`.
      sigmas: `[T]`.
      prediction: as in `DiTConfig`.
    """
    return noisy - _over_cells(sigmas, noisy) * output if prediction == "flow" else output


def frame_weights(clean: chex.Array) -> jax.Array:
    """Loss weights `[T]` that leave clean frames out and sum to 1 (to 0 where all frames are clean)."""
    noisy = jnp.logical_not(clean).astype(jnp.float32)
    return noisy / jnp.maximum(noisy.sum(), 1.0)


def loss(output: chex.Array, target: chex.Array, clean: chex.Array, weights: chex.Array | None = None) -> jax.Array:
    """Mean squared error over the noisy frames, float32 `[]`.

    Args:
      output, target: `[T, h, w, C]`.
      clean: bool `[T]`; what these frames hold, NaN included, changes neither loss nor gradient.
      weights: `[T, h, w]`, what an error in each cell counts; 1 where None.
    """
    chex.assert_equal_shape([output, target])
    error = jnp.subtract(output, target).astype(jnp.float32)
    error = jnp.where(_over_cells(clean, error), 0.0, error)
    square = error * error if weights is None else error * error * weights[..., None]
    return jnp.sum(frame_weights(clean) * jnp.mean(square, axis=(1, 2, 3)))


def _over_cells(values: chex.Array, latents: chex.Array) -> jax.Array:
    chex.assert_shape(values, (len(latents),))
    return values[:, None, None, None]
